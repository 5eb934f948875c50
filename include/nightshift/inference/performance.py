"""How scoring went: seconds, rows a second, latency of chunks, rows and attempts that failed.

Clocks never tell the same twice, so this lies beside the predictions and is no part of them. It is of the run
that made them: who scores the same again, with the same result, leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from nightshift.lake import tables
from nightshift.usecase import UseCase

LAYER = "monitoring_performance"
_COLUMNS = pa.schema(
    [
        ("partition", pa.date32()),
        ("predictions_hash", pa.string()),
        ("model_hash", pa.string()),
        ("rows", pa.int64()),
        ("chunks", pa.int64()),
        ("seconds", pa.float64()),
        ("rows_per_second", pa.float64()),
        ("p50_ms", pa.float64()),
        ("p95_ms", pa.float64()),
        ("p99_ms", pa.float64()),
        ("attempts_failed", pa.int64()),
        ("error_rate", pa.float64()),
    ]
)


def scored(
    uc: UseCase, partition: date, predictions_hash: str, model_hash: str, rows: int, seconds: Sequence[float]
) -> None:
    """Record that ``partition`` was scored: ``seconds`` for each chunk of its ``rows`` in all."""
    kept = _kept(uc, partition)
    if kept and kept["predictions_hash"] == predictions_hash:
        return
    failed = kept["attempts_failed"] if kept and not kept["predictions_hash"] else 0
    total = float(np.sum(seconds))
    latency = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99]) if seconds else [None] * 3
    _keep(
        uc,
        partition,
        {
            "predictions_hash": predictions_hash,
            "model_hash": model_hash,
            "rows": rows,
            "chunks": len(seconds),
            "seconds": total,
            "rows_per_second": rows / total if total else None,
            **dict(zip(("p50_ms", "p95_ms", "p99_ms"), latency, strict=True)),
            "attempts_failed": failed,
            "error_rate": failed / (failed + 1),
        },
    )


def failed(uc: UseCase, partition: date, model_hash: str) -> None:
    """Record that the model could not score ``partition``; the next attempt that can keeps the number."""
    kept = _kept(uc, partition)
    before = kept["attempts_failed"] if kept and not kept["predictions_hash"] else 0
    _keep(
        uc,
        partition,
        {"predictions_hash": "", "model_hash": model_hash, "attempts_failed": before + 1, "error_rate": 1.0},
    )


def _kept(uc: UseCase, partition: date) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = tables.read_partitions(uc, LAYER, partition, partition).to_pylist()
    return rows[0] if rows else None


def _keep(uc: UseCase, partition: date, row: dict[str, Any]) -> None:
    whole = {name: row.get(name) for name in _COLUMNS.names} | {"partition": partition}
    tables.replace_partition(
        uc, LAYER, partition, pa.Table.from_pylist([whole], schema=_COLUMNS), ["partition"]
    )
