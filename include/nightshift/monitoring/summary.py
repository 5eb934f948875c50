"""What monitoring knows of a use case, in the shape that ``nightshift status --json`` promises."""

from __future__ import annotations

from datetime import date
from typing import Any

from nightshift.lake import tables
from nightshift.lake.hashing import combine_hashes
from nightshift.monitoring import drift, retrain, truth
from nightshift.usecase import UseCase


def summary(uc: UseCase) -> dict[str, Any]:
    """Return ``predictions`` (with ``observed`` by day), ``drift`` by day and ``retrain_requests``.

    Days are written ``YYYY-MM-DD``. Reads the lake's logs and one small row a night; no model, no prediction.
    """
    versions = tables.partition_versions(uc, "predictions")
    return {
        "predictions": {
            "partitions": len(versions),
            "rows": sum(version.rows for version in versions.values()),
            "content_hash": combine_hashes(
                (day.isoformat(), version.content_hash) for day, version in versions.items()
            ),
            "observed": {day.isoformat(): metrics for day, metrics in truth.observed(uc).items()},
        },
        "drift": {
            day.isoformat(): {
                "verdict": result.verdict,
                "share": result.share,
                "columns": list(result.columns),
            }
            for day, result in drift.results(uc, uc.history_start, date.max).items()
        },
        "retrain_requests": len(retrain.requests(uc)),
    }
