"""Fixes: what a row that a source got wrong should have said, decided by a person and kept for good.

A fix is a record in an append-only log: which row (by the id of its content), what it said, what it is to
say, who decided so, when and why. No raw object is edited. Whenever a row with that content is landed again,
by a replay or because the source still says the same, it is landed as fixed, so the nightly correction window
does not undo what a person mended. The last fix of a row counts. A row that the source itself corrects has
other content, and no fix touches it.

A fix of a daily table is for one partition; one of a slow table is for every snapshot, since each repeats the
rows of the one before.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.ingestion.suites import suite_of, table_of
from nightshift.lake import append_log, raw
from nightshift.quality.quarantine import read_quarantine
from nightshift.quality.rows import from_plain, row_id, to_plain
from nightshift.sources.contract import arrow_schema, parse_value
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

Row = dict[str, Any]


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
            accepted too, a column or value does not fit the catalogue, or another row has the new key.
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
    manifest = raw.current(uc, source, table, partition)
    accepted = {row_id(row): row for row in to_plain(raw.read(manifest))} if manifest else {}
    kept = {row_id(row): row for row in quarantined_rows(uc, suite, partition)}
    recorded = fixes_of(uc, source, table, partition)
    known = {fix.row_id: fix.before for fix in recorded} | kept
    for identity in changes:
        if identity not in known:
            raise _refused(
                uc,
                suite,
                partition,
                f"there is no row {identity!r} in quarantine",
                "a fix is of a row that is, or was, in quarantine",
                f"take the id from `nightshift quarantine show {suite} {partition}`",
            )
        if identity in kept and identity in accepted:
            raise _refused(
                uc,
                suite,
                partition,
                f"row {identity} is a copy of a row that was accepted",
                "a fix is of one row, told from all others by its content",
                "leave it: nothing is missing; or, if it should have said something else, correct the source",
            )
    says = says_now(recorded)
    wanted: dict[str, Row] = {}
    for identity, values in changes.items():
        # On top of what earlier fixes say: one of another column is not to undo them.
        after = _changed(uc, source, table, final(known[identity], says), values)
        if after != final(known[identity], says):
            wanted[identity] = after
    _refuse_taken_keys(uc, suite, partition, known, wanted, accepted=accepted, kept=kept, says=says)
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
    for fix in fixes:
        append_log.append(_log(uc, suite), fix.model_dump(mode="json"))
    return fixes


def fixes_of(uc: UseCase, source: str, table: str, partition: date) -> list[Fix]:
    """Return the fixes that count for one partition of a table, oldest first."""
    slow = uc.sources[source].tables[table].refresh == "slow"
    records = append_log.read_log(_log(uc, suite_of(table)))
    return [fix for fix in map(Fix.model_validate, records) if slow or fix.partition == partition]


def with_fixes(
    uc: UseCase, source: str, table: str, parts: Mapping[date, pa.Table]
) -> dict[date, tuple[pa.Table, list[str]]]:
    """Return partitions with their fixes applied, and for each the ids of the rows that were fixed.

    A fix that would give a row the key of another one, which came after the fix was recorded, is left out:
    no fix may cost a row that the source gave.
    """
    suite, key = suite_of(table), uc.sources[source].tables[table].key
    slow = uc.sources[source].tables[table].refresh == "slow"
    recorded = [Fix.model_validate(record) for record in append_log.read_log(_log(uc, suite))]
    fixed: dict[date, tuple[pa.Table, list[str]]] = {}
    for day, part in parts.items():
        says = says_now([fix for fix in recorded if slow or fix.partition == day])
        fixed[day] = (part, [])
        if not says:
            continue
        rows = to_plain(part)
        taken = Counter(_key(row, key) for row in rows)
        done = []
        for position, row in enumerate(rows):
            after = final(row, says)
            if after == row:
                continue
            old, new = _key(row, key), _key(after, key)
            if old != new and taken[new]:
                log.warning("%s, %s: the fix of row %s waits, for %s is taken", suite, day, row_id(row), new)
                continue
            taken[old] -= 1
            taken[new] += 1
            rows[position] = after
            done.append(row_id(row))
        if done:
            fixed[day] = (as_table(uc, source, table, day, rows), done)
    return fixed


def says_now(fixes: Sequence[Fix]) -> dict[str, Row]:
    """Return by row id what the row is to say next; see ``final``."""
    says: dict[str, Row] = {}
    for fix in fixes:
        # Whatever earlier fixes made of the row becomes what this one says, and that is final.
        passed = [fix.row_id]
        while (after := says.get(passed[-1])) and row_id(after) not in passed:
            passed.append(row_id(after))
        says |= dict.fromkeys(passed, fix.after)
        says.pop(row_id(fix.after), None)
    return says


def final(row: Row, says: Mapping[str, Row]) -> Row:
    """Return what ``row`` is to say in the end: a row that was fixed and still failed may be fixed again."""
    while after := says.get(row_id(row)):
        row = after
    return row


def quarantined_rows(uc: UseCase, suite: str, partition: date) -> list[Row]:
    """Return the quarantined rows of one partition, as ``to_plain`` gives them."""
    kept = read_quarantine(uc, suite, partition, partition)
    return [json.loads(row) for row in kept["row"].to_pylist()] if kept.num_rows else []


def as_table(uc: UseCase, source: str, table: str, partition: date, rows: Sequence[Row]) -> pa.Table:
    """Return rows that ``to_plain`` gave in the catalogue's types.

    Raises:
        DataError: They no longer fit, since the catalogue has changed.
    """
    try:
        return from_plain(rows, arrow_schema(uc.sources[source].tables[table]))
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise DataError(
            f"rows that were kept do not fit the catalogue any more: {error}",
            rule="quarantined and fixed rows have the types of the catalogue",
            where=f"{uc.name}/{source}/{table}, partition {partition}",
            cure="ingest the partition again from its source",
        ) from error


def _changed(uc: UseCase, source: str, table: str, row: Row, values: Mapping[str, Any]) -> Row:
    schema = arrow_schema(uc.sources[source].tables[table])
    parsed = {
        name: to_plain(
            pa.table({name: pa.array([parse_value(uc, source, table, name, value)], schema.field(name).type)})
        )[0][name]
        for name, value in values.items()
    }
    return row | parsed


def _refuse_taken_keys(
    uc: UseCase,
    suite: str,
    partition: date,
    known: Mapping[str, Row],
    wanted: Mapping[str, Row],
    *,
    accepted: Mapping[str, Row],
    kept: Mapping[str, Row],
    says: Mapping[str, Row],
) -> None:
    source, table = table_of(uc, suite)
    key = uc.sources[source].tables[table].key
    # What earlier fixes made of these rows makes way for what they are to say now.
    replaced = {*wanted, *(row_id(final(known[identity], says)) for identity in wanted)}
    others = [row for identity, row in accepted.items() if identity not in replaced]
    others += [final(row, says) for identity, row in kept.items() if identity not in replaced]
    taken = Counter(_key(row, key) for row in [*others, *wanted.values()])
    for identity, after in wanted.items():
        if _key(after, key) != _key(known[identity], key) and taken[_key(after, key)] > 1:
            raise _refused(
                uc,
                suite,
                partition,
                f"row {identity} would have the key {_key(after, key)}, which another row has",
                f"a fix changes a key ({', '.join(key)}) only to one that is free",
                "correct the key, or the other row first",
            )


def _key(row: Row, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in key)


def _refused(uc: UseCase, suite: str, partition: date, message: str, rule: str, cure: str) -> DataError:
    return DataError(message, rule=rule, where=f"{uc.name}, {suite}, partition {partition}", cure=cure)


def _log(uc: UseCase, suite: str) -> str:
    return f"fixes/{uc.name}/{suite}"
