"""What is in quarantine: how much of which partition, and each row with what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from nightshift.errors import DataError, TransientError
from nightshift.ingestion.fixes import Fix, decided, fixes_of, in_quarantine, protected_fixes, protected_rows
from nightshift.ingestion.suites import raw_suites, table_of
from nightshift.lake import tables
from nightshift.quality.quarantine import kept, plain_rows, read_quarantine
from nightshift.quality.rows import row_id, without_hidden
from nightshift.quality.suites import suite_names
from nightshift.usecase import UseCase

_LAYER = "quarantine_"


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


def count_kept(uc: UseCase, suite: str, start: date, end: date) -> Counter[date]:
    """Return how many rows of a suite are in quarantine, by partition from ``start`` to ``end``."""
    if f"{_LAYER}{suite}" not in tables.layers(uc):
        return Counter()
    return Counter(read_quarantine(uc, suite, start, end, columns=["partition"])["partition"].to_pylist())


def show_kept(uc: UseCase, suite: str, partition: date) -> list[KeptRow]:
    """Return the rows in quarantine of one partition.

    Raises:
        DataError: There is no such suite, or nothing of this partition is in quarantine.
    """
    _require_suite(uc, suite)
    rows = rows_kept(uc, suite, partition)
    if not rows:
        raise _nothing(uc, suite, partition)
    return rows


def rows_kept(uc: UseCase, suite: str, partition: date) -> list[KeptRow]:
    """Return the rows in quarantine of one partition, none where nothing is."""
    version, fixes = None, list[Fix]()
    key: Sequence[str] = ()
    if suite in raw_suites(uc):
        source, table = table_of(uc, suite)
        fixes, key = fixes_of(uc, source, table, partition), uc.sources[source].tables[table].key
        # A quarantine that is of no version is shown as it is: nobody can tell what was fixed in it. Without
        # any fix, the rows are as the source gave them, and nobody has to read the whole partition for that.
        if fixes:
            with suppress(TransientError):
                version = in_quarantine(uc, source, table, partition)
    entries = version.entries if version else read_quarantine(uc, suite, partition, partition)
    rows = plain_rows(entries)
    given = version.rows if version else rows
    if suite in raw_suites(uc):
        # Who only looks may have no key: fixes older than a column's protection are then not shown.
        with suppress(DataError):
            fixes, given = (
                protected_fixes(uc, source, table, fixes),
                protected_rows(uc, source, table, given),
            )
    says = decided(fixes, given, key)
    found = []
    for entry, row, before in zip(entries.to_pylist(), rows, given, strict=True):
        after = says.get(row_id(before), row)
        fixed = after if after != row else None
        found.append(KeptRow(row_id(before), row_id(row), entry["rule"], entry["reason"], row, fixed))
    return found


def masked(uc: UseCase, row: KeptRow) -> KeptRow:
    """Return a row without the values that the catalogue calls personal, or keeps encrypted."""
    fixed = row.fixed and without_hidden(row.fixed, uc.hidden_columns)
    return replace(row, row=without_hidden(row.row, uc.hidden_columns), fixed=fixed)


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
