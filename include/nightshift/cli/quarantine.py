"""What is in quarantine and why, and what people decided about it; works with all services down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table

from nightshift.cli.output import console
from nightshift.errors import DataError, TransientError
from nightshift.ingestion import replay
from nightshift.ingestion.fixes import Fix, decided, fixes_of, in_quarantine
from nightshift.ingestion.suites import raw_suites, table_of
from nightshift.lake import raw, tables
from nightshift.quality.quarantine import kept, plain_rows, read_quarantine
from nightshift.quality.rows import row_id
from nightshift.quality.suites import suite_names
from nightshift.usecase import UseCase

_LAYER = "quarantine_"
_AFTERWARDS = (
    "What was built from it before is stale now: `nightshift stale` lists it, `nightshift stale --rebuild` "
    "builds exactly that again."
)


@dataclass(frozen=True)
class Kept:
    """What is in quarantine of one partition. ``rules``: number of rows by the first rule they broke."""

    suite: str
    partition: date
    rows: int
    rules: dict[str, int]


@dataclass(frozen=True)
class KeptRow:
    """One row in quarantine.

    ``row_id`` is that of what the source gave, and stays when a fix did not help; ``says`` is the id of what
    the row says as shown. ``fixed``: what the last fix will make of the row when it is replayed; None when it
    says so already.
    """

    row_id: str
    says: str
    rule: str
    reason: str
    row: dict[str, Any]
    fixed: dict[str, Any] | None


def list_kept(uc: UseCase, suite: str | None, start: date, end: date) -> Iterator[Kept]:
    """Yield what is in quarantine from ``start`` to ``end``, suite by suite, oldest first; one when named.

    Raises:
        DataError: There is no such suite.
    """
    found = [name.removeprefix(_LAYER) for name in tables.layers(uc) if name.startswith(_LAYER)]
    if suite is not None:
        _require_suite(uc, suite)
    for name in found:
        if suite not in (None, name):
            continue
        rows = read_quarantine(uc, name, start, end, columns=["partition", "rule"])
        broken: dict[date, Counter[str]] = {}
        for day, rule in zip(rows["partition"].to_pylist(), rows["rule"].to_pylist(), strict=True):
            broken.setdefault(day, Counter())[rule] += 1
        for day, rules in sorted(broken.items()):
            yield Kept(name, day, rules.total(), dict(sorted(rules.items())))


def show_kept(uc: UseCase, suite: str, partition: date) -> list[KeptRow]:
    """Return the rows in quarantine of one partition.

    Raises:
        DataError: There is no such suite, or nothing of this partition is in quarantine.
    """
    _require_suite(uc, suite)
    rows = _rows(uc, suite, partition)
    if not rows:
        raise _nothing(uc, suite, partition)
    return rows


def print_kept(uc: UseCase, found: Sequence[Kept]) -> None:
    """Print a line for each suite and partition."""
    if not found:
        console.print(f"{uc.name}: nothing is in quarantine")
        return
    table = Table(
        "suite", "partition", "rows", "rules broken", title=f"{uc.name}: quarantine", title_justify="left"
    )
    for item in found:
        rules = ", ".join(f"{rule} {rows}" for rule, rows in item.rules.items())
        table.add_row(item.suite, str(item.partition), str(item.rows), rules)
    console.print(table)
    console.print("Look at the rows: nightshift quarantine show SUITE PARTITION")


def print_rows(uc: UseCase, suite: str, partition: date, rows: Sequence[KeptRow]) -> None:
    """Print each row with what is wrong with it, and how it may be mended."""
    console.print(f"{uc.name}, {suite}, partition {partition}: {len(rows)} rows", markup=False)
    for item in rows:
        console.print(f"\n{item.row_id}  {item.rule}", markup=False, style="bold")
        console.print(f"  {item.reason}", markup=False)
        for name, value in item.row.items():
            fixed = (
                "" if item.fixed is None or item.fixed.get(name) == value else f"  ->  {item.fixed.get(name)}"
            )
            console.print(f"  {name:<28} {'' if value is None else value}{fixed}", markup=False)
    if suite not in raw_suites(uc):
        console.print(
            "\nRows of this suite are made from others: mend those or the rule, and rebuild the day."
        )
        return
    console.print(
        f"""
If the row is wrong: nightshift quarantine fix {suite} {partition} --row ID --set COLUMN=VALUE --reason "..."
                     or many at once: show --json > rows.jsonl, edit `row`, fix --from rows.jsonl
If the rule is wrong: mend it in the suite
Then: nightshift quarantine replay {suite} {partition}""",
        markup=False,
    )


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return values by column from ``column=value``; an empty value is null.

    Raises:
        DataError: One has no equals sign, or a column comes twice.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        column, equals, value = setting.partition("=")
        if not equals or column in values:
            raise DataError(
                f"cannot read {setting!r}",
                rule="--set takes column=value, each column once; nothing after the sign means null",
                where="--set",
                cure="write it as --set column=12",
            )
        values[column] = value or None
    return values


def read_edited(uc: UseCase, suite: str, partition: date, file: Path) -> dict[str, dict[str, Any]]:
    """Return the changed values by row id from a file that ``show --json`` wrote and a person edited.

    Raises:
        DataError: The file cannot be read, a line is not such a row, or it is of no row in quarantine.
    """
    known = {item.row_id: item for item in _rows(uc, suite, partition)}
    changes: dict[str, dict[str, Any]] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(f"cannot be read: {error}", str(file)) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            edited = json.loads(line)
            item, row, said = known[edited["row_id"]], edited["row"], edited["says"]
            changed = {
                name: value for name, value in row.items() if name not in item.row or item.row[name] != value
            }
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise _unreadable(f"holds no row of this quarantine: {error!r}", where) from error
        if said != item.says:
            raise _unreadable(f"row {item.row_id} says something else since the export", where)
        if changed:
            changes[item.row_id] = changed
    return changes


def print_fixes(suite: str, partition: date, fixes: Sequence[Fix]) -> None:
    """Print what was recorded, and what to do next."""
    if not fixes:
        console.print("nothing to record: the rows say so already")
    for fix in fixes:
        for name, value in fix.after.items():
            if fix.before.get(name) != value:
                console.print(f"{fix.row_id}  {name}: {fix.before.get(name)}  ->  {value}", markup=False)
    if fixes:
        console.print(f"Recorded. Land them: nightshift quarantine replay {suite} {partition}")


def replay_kept(uc: UseCase, suite: str, partition: date) -> None:
    """Judge a partition again, and print what became of it.

    Raises:
        DataError: The suite judges no raw table, or the partition was never landed.
    """
    source, table = table_of(uc, suite)
    before = raw.current(uc, source, table, partition)
    if before is None:
        raise DataError(
            f"{source}.{table} {partition} was never landed",
            rule="a partition is replayed from what was landed",
            where=f"{uc.name}, {suite}, partition {partition}",
            cure="`nightshift quarantine list` names the partitions",
        )
    replayed = replay(uc, source, table, partition)
    console.print(
        f"{suite} {partition}: {replayed['replayed']} rows were in quarantine; now "
        f"{replayed['accepted'] + replayed['quarantined']} rows = {replayed['accepted']} accepted + "
        f"{replayed['quarantined']} quarantined"
    )
    if raw.current(uc, source, table, partition) == before:
        console.print("Nothing has changed.")
    else:
        console.print(_AFTERWARDS)


def _rows(uc: UseCase, suite: str, partition: date) -> list[KeptRow]:
    version, says = None, {}
    if suite in raw_suites(uc):
        source, table = table_of(uc, suite)
        says = decided(fixes_of(uc, source, table, partition))
        # A quarantine that is of no version is shown as it is: nobody can tell what was fixed in it.
        with suppress(TransientError):
            version = in_quarantine(uc, source, table, partition)
    entries = version.entries if version else read_quarantine(uc, suite, partition, partition)
    rows = plain_rows(entries)
    given = version.rows if version else rows
    found = []
    for entry, row, before in zip(entries.to_pylist(), rows, given, strict=True):
        after = says.get(row_id(before), row)
        fixed = after if after != row else None
        found.append(KeptRow(row_id(before), row_id(row), entry["rule"], entry["reason"], row, fixed))
    return found


def _require_suite(uc: UseCase, suite: str) -> None:
    known = suite_names(uc)
    if suite not in known and f"{_LAYER}{suite}" not in tables.layers(uc):
        raise DataError(
            f"there is no suite {suite!r}",
            rule=f"the suites are {', '.join(known)}",
            where=f"{uc.name}, suite {suite}",
            cure="use one of these",
        )


def _nothing(uc: UseCase, suite: str, partition: date) -> DataError:
    days = [f"{day}" for day in kept(uc, suite)]
    return DataError(
        f"nothing of {suite} {partition} is in quarantine",
        rule="only quarantined rows can be shown",
        where=f"{uc.name}, suite {suite}",
        cure=f"partitions with such rows: {', '.join(days[-5:]) or 'none'}; see `nightshift quarantine list`",
    )


def _unreadable(message: str, where: str) -> DataError:
    return DataError(
        message,
        rule="a file of fixes holds lines that `quarantine show --json` gave, with values of `row` edited",
        where=where,
        cure="export the rows again and edit only the values under `row`",
    )
