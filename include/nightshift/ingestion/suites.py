"""Which suite judges which raw table."""

from __future__ import annotations

from nightshift.errors import DataError
from nightshift.usecase import UseCase


def suite_of(table: str) -> str:
    """Return the name of the suite that judges a raw table, and of what it quarantines."""
    return f"raw_{table}"


def raw_suites(uc: UseCase) -> dict[str, tuple[str, str]]:
    """Return source and table by the suite that judges them."""
    return {suite_of(table): (source, table) for source, table, _ in uc.tables()}


def table_of(uc: UseCase, suite: str) -> tuple[str, str]:
    """Return source and table whose rows ``suite`` judges.

    Raises:
        DataError: The suite judges no raw table: its rows are made from raw ones.
    """
    known = raw_suites(uc)
    if suite not in known:
        raise DataError(
            f"rows of {suite} are not landed from a source",
            rule=f"rows are fixed and replayed where they come from: {', '.join(known)}",
            where=f"{uc.name}, suite {suite}",
            cure="fix the raw row behind them, or mend the model or the rule, and rebuild the partition",
        )
    return known[suite]
