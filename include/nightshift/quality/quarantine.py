"""Where bad rows are kept: one Delta layer a suite, ``quarantine_<suite>``, replaced partition by partition.

A partition without bad rows is absent. The rows say which rule they broke and why, and hold the original row
as JSON, so they can be judged again when the rule or the source was mended.
"""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from nightshift.lake import tables
from nightshift.usecase import UseCase

_KEY = ("row", "rule", "reason")


def quarantine(uc: UseCase, suite: str, partition: date, rows: pa.Table) -> str | None:
    """Make ``rows`` (as ``validate`` gives them) all that is kept for one partition.

    Returns:
        Content hash of what is kept; None when that is nothing.
    """
    if not rows.num_rows:
        tables.delete_partition(uc, _layer(suite), partition)
        return None
    return tables.replace_partition(uc, _layer(suite), partition, rows, _KEY).content_hash


def kept(uc: UseCase, suite: str) -> dict[date, str]:
    """Return the content hash of every partition of which rows are kept; reads no rows."""
    return {
        day: version.content_hash for day, version in tables.partition_versions(uc, _layer(suite)).items()
    }


def read_quarantine(uc: UseCase, suite: str, start: date, end: date) -> pa.Table:
    """Return the rows kept for the partitions from ``start`` to ``end``.

    Columns: partition, suite, rule, severity, reason, row.
    """
    return tables.read_partitions(uc, _layer(suite), start, end)


def _layer(suite: str) -> str:
    return f"quarantine_{suite}"
