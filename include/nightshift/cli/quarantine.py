"""What is in quarantine and why, and what people decided about it; works with all services down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table

from nightshift.cli.output import console
from nightshift.console.quarantine import Kept, KeptRow, rows_kept
from nightshift.errors import DataError
from nightshift.ingestion import replay
from nightshift.ingestion.fixes import Fix
from nightshift.ingestion.suites import raw_suites, table_of
from nightshift.lake import raw
from nightshift.usecase import UseCase

_AFTERWARDS = (
    "What was built from it before is stale now: `nightshift stale` lists it, `nightshift stale --rebuild` "
    "builds exactly that again."
)


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
    known = {item.row_id: item for item in rows_kept(uc, suite, partition)}
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


def replay_kept(uc: UseCase, suite: str, partition: date, *, by: str) -> None:
    """Judge a partition again, and print what became of it. ``by`` asks for it.

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
    replayed = replay(uc, source, table, partition, by=by)
    console.print(
        f"{suite} {partition}: {replayed['replayed']} rows were in quarantine; now "
        f"{replayed['accepted'] + replayed['quarantined']} rows = {replayed['accepted']} accepted + "
        f"{replayed['quarantined']} quarantined"
    )
    if raw.current(uc, source, table, partition) == before:
        console.print("Nothing has changed.")
    else:
        console.print(_AFTERWARDS)


def _unreadable(message: str, where: str) -> DataError:
    return DataError(
        message,
        rule="a file of fixes holds lines that `quarantine show --json` gave, with values of `row` edited",
        where=where,
        cure="export the rows again and edit only the values under `row`",
    )
