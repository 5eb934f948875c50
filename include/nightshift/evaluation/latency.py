"""What scoring costs: single rows, batches, and the space of the stored model."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.registry.model import Model

_SINGLE_ROWS = 200
_WARM_UP = 5
_BATCH_ROWS = 20_000


class Latency(BaseModel):
    """Milliseconds of scoring one row, rows a second of a batch, and megabytes on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float
    p95_ms: float
    p99_ms: float
    rows_per_second: float
    size_mb: float


def measure(model: Model, rows: pa.Table) -> Latency:
    """Time ``model`` on ``rows``: up to 200 of them one by one, then 20,000 (repeated as needed) at once."""
    ready = rows.select(list(model.feature_columns)).combine_chunks()
    for number in range(_WARM_UP):
        model.predict_proba(ready.slice(number % ready.num_rows, 1))
    seconds = []
    for number in range(min(_SINGLE_ROWS, ready.num_rows)):
        row = ready.slice(number, 1)
        began = time.perf_counter()
        model.predict_proba(row)
        seconds.append(time.perf_counter() - began)
    batch = ready.take(pa.array(np.arange(_BATCH_ROWS) % ready.num_rows)).combine_chunks()
    began = time.perf_counter()
    model.predict_proba(batch)
    throughput = batch.num_rows / (time.perf_counter() - began)
    p50, p95, p99 = (float(value) for value in 1000 * np.quantile(seconds, [0.5, 0.95, 0.99]))
    size = sum(file.stat().st_size for file in model.folder.iterdir() if file.is_file())
    return Latency(p50_ms=p50, p95_ms=p95, p99_ms=p99, rows_per_second=throughput, size_mb=size / 1e6)
