"""Fixes: what a row that a source got wrong should have said, decided by a person and kept for good.

A fix is a record in an append-only log: which row (by the id of its content), what it said, what it is to
say, who decided so, when and why. No raw object is edited. Whenever a row with that content is landed again,
by a replay or because the source still says the same, it is landed as fixed, so the nightly correction window
does not undo what a person mended. The last fix of a row counts. A row that the source itself corrects has
other content, and no fix touches it. The manifest of a version names the rows that were fixed in it, so a
replay begins with what the source gave and not with what earlier fixes made of it. A fix that is older than
the wish to protect a column is of the same row as before: it is protected as the row is.

A fix of a daily table is for one partition; one of a slow table is for every snapshot, since each repeats the
rows of the one before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.ingestion.suites import suite_of, table_of
from nightshift.lake import append_log, audit, raw
from nightshift.lake.canonical import arrow_schema
from nightshift.lake.protection import HIDDEN_TEXT, protect
from nightshift.lake.raw import RawManifest
from nightshift.quality.quarantine import plain_rows, read_quarantine, rows_hash
from nightshift.quality.rows import from_plain, row_id, to_plain
from nightshift.sources.contract import parse_value
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

Row = dict[str, Any]

# What ``from_plain`` raises where a value does not fit its type.
_MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError)


class Fix(BaseModel):
    """One decision about one row. ``before`` and ``after`` are whole rows, as ``to_plain`` gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    partition: date
    row_id: str
    before: Row
    after: Row
    reason: str
    by: str
    at: AwareDatetime


@dataclass(frozen=True)
class InQuarantine:
    """What is in quarantine of one version of a partition.

    ``entries`` are the rows as they are kept, with rule and reason; ``rows`` the same as the source gave
    them, in the same order; ``accepted`` the version's other rows as the source gave them.
    """

    manifest: RawManifest
    entries: pa.Table
    rows: list[Row]
    accepted: list[Row]


def record_fixes(
    uc: UseCase,
    suite: str,
    partition: date,
    changes: Mapping[str, Mapping[str, Any]],
    *,
    reason: str,
    by: str,
) -> list[Fix]:
    """Record what quarantined rows should say; nothing is landed before the partition is replayed.

    When one change is refused, none is recorded. A change that says what the row says already, as fixed so
    far, is not recorded again. A row that was fixed before may be fixed anew, also back to what it was.

    Args:
        uc: The use case.
        suite: The suite that quarantined the rows.
        partition: Their partition.
        changes: By row id, the new values by column, as ``contract.parse_value`` takes them.
        reason: Why, for whoever asks later.
        by: Who decided.

    Returns:
        The fixes recorded now.

    Raises:
        DataError: The suite judges no raw table, there is no reason, a row is not in quarantine or was
            accepted too, a column or value does not fit the catalogue, another row has the new key, or
            personal columns cannot be protected.
        TransientError: The quarantine is not that of a version that stands; see ``in_quarantine``.
    """
    source, table = table_of(uc, suite)
    if not reason.strip():
        raise _refused(
            uc,
            suite,
            partition,
            "a fix without a reason",
            "a fix says why, for whoever has to judge it later",
            "give the reason in a sentence",
        )
    recorded = protected_fixes(uc, source, table, fixes_of(uc, source, table, partition))
    version = in_quarantine(uc, source, table, partition)
    given, entries = (version.rows, plain_rows(version.entries)) if version else ([], [])
    # They may have been put aside before their columns were to be protected.
    bad = protected_rows(uc, source, table, given)
    accepted = protected_rows(uc, source, table, version.accepted if version else [])
    key = uc.sources[source].tables[table].key
    matched = list(_matched(recorded, [*bad, *accepted], key))
    now_says = {fix.row_id: fix.after for fix in recorded} | _says(matched)
    known = {fix.row_id: fix.before for fix in recorded} | {row_id(row): row for row in bad}
    # The id of before the catalogue changed still names the row.
    renamed = {
        row_id(shown): row_id(row)
        for those in (entries, given)
        for shown, row in zip(those, bad, strict=True)
        if row_id(shown) not in known
    }
    renamed |= {fix.row_id: row_id(row) for row, fix in matched if fix.row_id != row_id(row)}
    known |= {row_id(row): row for row, fix in matched if fix.row_id in renamed}
    changes = {renamed.get(identity, identity): values for identity, values in changes.items()}
    copied = {row_id(row) for row in bad} & {row_id(row) for row in accepted} - now_says.keys()
    wanted: dict[str, Row] = {}
    for identity, values in changes.items():
        if identity not in known:
            raise _refused(
                uc,
                suite,
                partition,
                f"there is no row {identity!r} in quarantine",
                "a fix is of a row that is, or was, in quarantine",
                f"take the id from `nightshift quarantine show {suite} {partition}`",
            )
        if identity in copied:
            raise _refused(
                uc,
                suite,
                partition,
                f"row {identity} is a copy of a row that was accepted",
                "a fix is of one row, told from all others by its content",
                "leave it: nothing is missing; or, if it should have said something else, correct the source",
            )
        # On top of what earlier fixes say: one of another column is not to undo them.
        before = now_says.get(identity, known[identity])
        after = _changed(uc, source, table, before, values)
        if after != before:
            wanted[identity] = after
    _refuse_taken_keys(uc, suite, partition, [*bad, *accepted], {**now_says, **wanted}, wanted)
    now = datetime.now(UTC)
    fixes = [
        Fix(
            suite=suite,
            partition=partition,
            row_id=identity,
            before=known[identity],
            after=after,
            reason=reason,
            by=by,
            at=now,
        )
        for identity, after in wanted.items()
    ]
    if fixes:
        log_name = _log(uc, source, table, partition)
        with audit.recorded(
            "fix",
            usecase=uc.name,
            subject=f"{suite} {partition}",
            who=by,
            why=reason,
            # Not the values: they may be personal, and what is here is never removed.
            details={"rows": sorted(wanted)},
            identity=[len(recorded), sorted(wanted), reason, by],
        ):
            append_log.append(log_name, {"fixes": [fix.model_dump(mode="json") for fix in fixes]})
    return fixes


def fixes_of(uc: UseCase, source: str, table: str, partition: date) -> list[Fix]:
    """Return the fixes that count for one partition of a table, oldest first."""
    return _fixes(_log(uc, source, table, partition))


def protected_fixes(uc: UseCase, source: str, table: str, fixes: Iterable[Fix]) -> list[Fix]:
    """Return fixes with the columns protected that the catalogue wants protected by now; ids stay.

    Raises:
        DataError: As ``protect``.
    """
    protected = []
    for fix in fixes:
        before, after = protected_rows(uc, source, table, [fix.before, fix.after])
        protected.append(fix.model_copy(update={"before": before, "after": after}))
    return protected


def protected_rows(uc: UseCase, source: str, table: str, rows: Sequence[Row]) -> list[Row]:
    """Return rows that ``to_plain`` gave with the columns protected that the catalogue wants protected.

    A column that holds a value of a type that it had once, which nobody can protect, is null in all of them.

    Raises:
        DataError: As ``protect``.
    """
    declared = uc.sources[source].tables[table]
    schema = arrow_schema(declared)
    protected = [dict(row) for row in rows]
    for name in declared.protected:
        holders = [row for row in protected if row.get(name) is not None]
        try:
            values = from_plain(holders, pa.schema([schema.field(name)]))
        except _MISFITS:
            values = from_plain([{}] * len(holders), pa.schema([schema.field(name)]))
        if holders:
            for row, value in zip(holders, to_plain(protect(uc, source, table, values)), strict=True):
                row.update(value)
    return protected


def decided(fixes: Sequence[Fix], rows: Iterable[Row], key: Sequence[str]) -> dict[str, Row]:
    """Return by row id what those of ``rows`` are to say that a fix is of."""
    return _says(_matched(fixes, rows, key))


def in_quarantine(uc: UseCase, source: str, table: str, partition: date) -> InQuarantine | None:
    """Return the version of a partition whose bad rows are in quarantine; None when none was ever landed.

    It is the current version, or the one before a replay that was killed: such a replay has landed rows as a
    new version and did not come to take them out of the quarantine.

    Raises:
        TransientError: The quarantine is of another landing, which is under way, or was killed and did not
            run again.
    """
    versions = raw.versions(uc, source, table, partition)
    current = raw.newest(versions)
    if current is None:
        return None
    entries = read_quarantine(uc, suite_of(table), partition, partition)
    digest = rows_hash(entries)
    for manifest in reversed(versions):
        if manifest.as_of == current.as_of and manifest.quarantine_hash == digest:
            aside, landed = plain_rows(entries), to_plain(raw.read(manifest))
            given = _as_given([*aside, *landed], fixes_of(uc, source, table, partition), manifest.fixed)
            return InQuarantine(manifest, entries, given[: len(aside)], given[len(aside) :])
    raise TransientError(
        f"{uc.name}, {source}.{table}, partition {partition}: the {entries.num_rows} rows in quarantine are "
        f"not the {current.rows_quarantined} that version {current.version} put aside. A landing was killed "
        "or is not finished: ingest the partition again, then replay it"
    )


def with_fixes(
    uc: UseCase, source: str, table: str, parts: Mapping[date, pa.Table]
) -> dict[date, tuple[pa.Table, dict[str, list[str]]]]:
    """Return partitions with their fixes applied, and for each the rows that were fixed.

    These are named by the id of what they say now; the ids that their fixes have, one a row. A fix that
    would give a row the key of another one, which came after the fix was recorded, is left out: no fix may
    cost a row that the source gave.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        parts: The rows by partition, protected.

    Raises:
        DataError: A fix does not fit the catalogue any more, or personal columns of it cannot be protected.
    """
    names = {day: _log(uc, source, table, day) for day in parts}
    there = append_log.names(_logs(uc, table)) & set(names.values())
    key = uc.sources[source].tables[table].key
    fixes = {name: protected_fixes(uc, source, table, _fixes(name)) for name in there}
    fixed: dict[date, tuple[pa.Table, dict[str, list[str]]]] = {}
    for day, part in parts.items():
        fixed[day] = part, {}
        if names[day] in there:
            given = to_plain(part)
            matched = list(_matched(fixes[names[day]], given, key))
            rows = _apply(uc, source, table, day, given, _says(matched))
            origin = {row_id(row): fix.row_id for row, fix in matched}
            done: dict[str, list[str]] = {}
            for row, after in zip(given, rows, strict=True):
                if after != row:
                    done.setdefault(row_id(after), []).append(origin[row_id(row)])
            if done:
                fixed[day] = as_table(uc, source, table, day, rows), dict(sorted(done.items()))
    return fixed


def as_table(uc: UseCase, source: str, table: str, partition: date, rows: Sequence[Row]) -> pa.Table:
    """Return rows that ``to_plain`` gave in the catalogue's types.

    Raises:
        DataError: They no longer fit, since the catalogue has changed.
    """
    try:
        return from_plain(rows, arrow_schema(uc.sources[source].tables[table]))
    except _MISFITS as error:
        raise DataError(
            f"rows that were kept do not fit the catalogue any more: {error}",
            rule="quarantined and fixed rows have the types of the catalogue",
            where=f"{uc.name}/{source}/{table}, partition {partition}",
            cure="ingest the partition again from its source",
        ) from error


def _fixes(name: str) -> list[Fix]:
    return [Fix.model_validate(fix) for record in append_log.read_log(name) for fix in record["fixes"]]


def _says(matched: Iterable[tuple[Row, Fix]]) -> dict[str, Row]:
    """Return by row id what rows are to say by the fixes that are of them."""
    says = {}
    for row, fix in matched:
        changed = {name: value for name, value in fix.after.items() if value != fix.before.get(name)}
        says[row_id(row)] = row | {name: value for name, value in changed.items() if name in row}
    return says


def _matched(fixes: Sequence[Fix], rows: Iterable[Row], key: Sequence[str]) -> Iterator[tuple[Row, Fix]]:
    """Yield each of ``rows`` that a fix is of, with the last one.

    The catalogue may have gained or lost columns since a fix was recorded, and with them a row has another
    id: it is known by the columns that both have, if its key is among them.
    """
    known: dict[frozenset[str], dict[frozenset[str], dict[str, tuple[int, Fix]]]] = {}
    for row in rows:
        columns = frozenset(row)
        if columns not in known:
            known[columns] = {}
            for number, fix in enumerate(fixes):
                common = columns.intersection(fix.before)
                if common.issuperset(key):
                    identity = row_id({name: fix.before[name] for name in common})
                    known[columns].setdefault(common, {})[identity] = number, fix
        found = [
            of[identity]
            for common, of in known[columns].items()
            if (identity := row_id({name: row[name] for name in common})) in of
        ]
        if found:
            yield row, max(found, key=itemgetter(0))[1]


def _changed(uc: UseCase, source: str, table: str, row: Row, values: Mapping[str, Any]) -> Row:
    """Return a row with new values, which a person gives as they are: personal ones are protected here."""
    schema = arrow_schema(uc.sources[source].tables[table])
    parsed = {
        name: pa.array([parse_value(uc, source, table, name, value)], schema.field(name).type)
        for name, value in values.items()
    }
    return row | to_plain(protect(uc, source, table, pa.table(parsed)))[0] if parsed else row


def _apply(
    uc: UseCase, source: str, table: str, day: date, given: Sequence[Row], says: Mapping[str, Row]
) -> list[Row]:
    """Return rows as fixed, all at once, so that two of them may swap their keys."""
    key = uc.sources[source].tables[table].key
    rows = [says.get(row_id(row), row) for row in given]
    while True:
        taken = Counter(_key(row, key) for row in rows)
        clashes = [
            place
            for place, (row, after) in enumerate(zip(given, rows, strict=True))
            if _key(after, key) != _key(row, key) and taken[_key(after, key)] > 1
        ]
        for place in clashes:
            log.warning(
                "%s, %s: the fix of row %s waits, for its key is taken: %s",
                suite_of(table),
                day,
                row_id(given[place]),
                _shown_key(uc, source, table, rows[place]),
            )
            rows[place] = given[place]
        if not clashes:
            return rows


def _refuse_taken_keys(
    uc: UseCase,
    suite: str,
    partition: date,
    rows: Sequence[Row],
    says: Mapping[str, Row],
    wanted: Mapping[str, Row],
) -> None:
    source, table = table_of(uc, suite)
    key = uc.sources[source].tables[table].key
    taken = Counter(_key(says.get(row_id(row), row), key) for row in rows)
    for row in rows:
        identity = row_id(row)
        if identity not in wanted:
            continue
        new = _key(wanted[identity], key)
        if new != _key(row, key) and taken[new] > 1:
            shown = _shown_key(uc, source, table, wanted[identity])
            raise _refused(
                uc,
                suite,
                partition,
                f"row {identity} would have a key which another row has: {shown}",
                f"a fix changes a key ({', '.join(key)}) only to one that is free",
                "correct the key, or the other row first",
            )


def _as_given(rows: Sequence[Row], fixes: Sequence[Fix], fixed: Mapping[str, list[str]]) -> list[Row]:
    """Return rows of a version as the source gave them: with the fixes undone that its manifest names."""
    before = {fix.row_id: fix.before for fix in fixes}
    undo = {identity: list(given) for identity, given in fixed.items()}
    # Each name stands for one row: the source may itself have given another one that says the same.
    return [
        row | {name: value for name, value in before[named.pop()].items() if name in row}
        if undo and (named := undo.get(row_id(row)))
        else row
        for row in rows
    ]


def _key(row: Row, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in key)


def _shown_key(uc: UseCase, source: str, table: str, row: Row) -> str:
    """Return the key of a row as errors and logs may show it."""
    declared = uc.sources[source].tables[table]
    return HIDDEN_TEXT if declared.hidden.intersection(declared.key) else str(_key(row, declared.key))


def _refused(uc: UseCase, suite: str, partition: date, message: str, rule: str, cure: str) -> DataError:
    return DataError(message, rule=rule, where=f"{uc.name}, {suite}, partition {partition}", cure=cure)


def _logs(uc: UseCase, table: str) -> str:
    return f"fixes/{uc.name}/{suite_of(table)}"


def _log(uc: UseCase, source: str, table: str, partition: date) -> str:
    """Return the log of a partition's fixes; a slow table has one for all its snapshots."""
    slow = uc.sources[source].tables[table].refresh == "slow"
    return f"{_logs(uc, table)}/{'all' if slow else partition}"
