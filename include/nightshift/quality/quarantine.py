"""Where bad rows are kept: one Delta layer a suite, ``quarantine_<suite>``, replaced partition by partition.

A partition without bad rows is absent. The rows say which rule they broke and why, and hold the original row
as JSON, so they can be judged again when the rule or the source was mended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from nightshift.lake import tables
from nightshift.lake.hashing import content_hash
from nightshift.usecase import UseCase

_KEY = ("row", "rule", "reason")


def quarantine(uc: UseCase, suite: str, partition: date, rows: pa.Table) -> str | None:
    """Make ``rows`` (as ``validate`` gives them) all that is kept for one partition.

    Returns:
        Content hash of what is kept; None when that is nothing.
    """
    if not rows.num_rows:
        clear(uc, suite, partition)
        return None
    return tables.replace_partition(uc, _layer(suite), partition, rows, _KEY).content_hash


def clear(uc: UseCase, suite: str, partition: date) -> None:
    """Keep no rows of a partition."""
    tables.delete_partition(uc, _layer(suite), partition)


def kept(uc: UseCase, suite: str) -> dict[date, str]:
    """Return the content hash of every partition of which rows are kept; reads no rows."""
    return {
        day: version.content_hash for day, version in tables.partition_versions(uc, _layer(suite)).items()
    }


def read_quarantine(
    uc: UseCase, suite: str, start: date, end: date, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows kept for the partitions from ``start`` to ``end``.

    Columns, if no others are asked for: partition, suite, rule, severity, reason, row.
    """
    return tables.read_partitions(uc, _layer(suite), start, end, columns)


def rows_hash(rows: pa.Table) -> str | None:
    """Return the content hash of quarantined rows whatever rule they broke; None when there are none."""
    return content_hash(rows.select(["row"]), ["row"]) if rows.num_rows else None


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Return quarantined rows as ``to_plain`` gave them."""
    return [json.loads(row) for row in rows["row"].to_pylist()] if rows.num_rows else []


def _layer(suite: str) -> str:
    return f"quarantine_{suite}"
