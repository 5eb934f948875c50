"""Is the day like the days the champion learned from? Features and scores against its reference sample.

A numeric column is beyond its limit when it is further from the reference than ``drift.numeric_threshold``
and than any single training day was; a categorical one when it is further than
``drift.categorical_threshold``.

The verdict is ``drift`` when the share of features beyond their limit reaches ``drift.share_of_columns``;
``watch`` from half that share, or when the scores themselves are beyond it, or when a feature has no value
at all that had some on each training day; else ``quiet``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.lake import tables
from nightshift.monitoring import baseline, reports
from nightshift.registry import deployments, models
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "monitoring"
SCORE = "score"

Verdict = Literal["quiet", "watch", "drift"]


class DriftResult(BaseModel):
    """What was found for one day.

    Attributes:
        columns: Features, and ``score``, beyond their limit, the furthest first; those without any value come
            before all others.
        absent: Those of ``columns`` that have values on each day of the reference and none on this day.
        share: Features beyond their limit, as a share of those compared.
        rows: Rows of the day.
        distances: Distance of each column compared; see ``reports.Comparison``.
        limits: Distance from which a column counts.
        features_hash: Content hash of the features that were looked at.
        predictions_hash: Content hash of the predictions that were looked at.
        inputs: Hash of all that decides this result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: date
    verdict: Verdict
    columns: tuple[str, ...]
    absent: tuple[str, ...]
    share: float
    rows: int
    distances: dict[str, float]
    limits: dict[str, float]
    model_hash: str
    features_hash: str
    predictions_hash: str
    inputs: str


def check(uc: UseCase, partition: date, deployed: Sequence[Deployment] | None = None) -> DriftResult:
    """Compare the features and scores of ``partition`` with the reference of the champion in force on it.

    Keeps the result in the lake and Evidently's pages under ``reports``. Nothing is computed again while
    features, predictions, model, thresholds and page are those of the kept result.

    Args:
        deployed: ``deployments.history``, for who checks many days; read anew by default.

    Raises:
        DataError: No champion is in force on that day.
        TransientError: Features or predictions of the day are not published yet.
    """
    deployment = deployments.champion_at(uc, partition, deployed)
    if deployment is None:
        raise DataError(
            f"no champion of {uc.name} is in force on {partition}, so there is nothing to compare with",
            rule="drift is measured against the sample stored with the champion",
            where=f"{uc.name}, drift, partition {partition}",
            cure=f"run the {uc.name}.bootstrap DAG through a day before {partition}, or {uc.name}.train",
        )
    seen = _Seen(
        model=deployment.model_hash,
        features=_published(uc, "features", partition),
        predictions=_published(uc, "predictions", partition),
    )
    inputs = _inputs(uc, seen)
    page = reports.drift_report(uc, partition)
    kept = results(uc, partition, partition).get(partition)
    if kept is not None and kept.inputs == inputs and page.exists():
        return kept
    reference = models.load_model(uc, deployment.version).reference
    result, comparison = _judge(uc, partition, reference, _day(uc, partition), seen)
    if comparison is not None:
        reports.keep(page, comparison)
    tables.replace_partition(uc, LAYER, partition, _to_table(result), ["partition"])
    log.info("drift of %s %s: %s %s", uc.name, partition, result.verdict, ", ".join(result.columns[:5]))
    return result


def results(uc: UseCase, start: date, end: date) -> dict[date, DriftResult]:
    """Return the kept results of ``start`` to ``end``, by day."""
    rows = tables.read_partitions(uc, LAYER, start, end).to_pylist()
    # A row that an earlier version kept, without some field, counts as not there: its day is checked again.
    whole = [row for row in rows if all(row.get(name) is not None for name in DriftResult.model_fields)]
    found = [
        DriftResult.model_validate(
            {name: json.loads(row[name]) if name in _JSON else row[name] for name in DriftResult.model_fields}
        )
        for row in whole
    ]
    return {result.partition: result for result in found}


# Stored as JSON text, so that the table's schema does not follow the features.
_JSON = ("columns", "absent", "distances", "limits")


def _to_table(result: DriftResult) -> pa.Table:
    row = result.model_dump(mode="json")
    return pa.Table.from_pylist(
        [{name: json.dumps(value, sort_keys=True) if name in _JSON else value for name, value in row.items()}]
    )


@dataclass(frozen=True)
class _Seen:
    """Content hashes of what one check looks at."""

    model: str
    features: str
    predictions: str


def _published(uc: UseCase, layer: str, partition: date) -> str:
    version = tables.partition_version(uc, layer, partition)
    if version is None:
        raise TransientError(f"{layer} of {uc.name} {partition} are not published yet")
    return version.content_hash


def _inputs(uc: UseCase, seen: _Seen) -> str:
    hashes = asdict(seen) | {"policy": uc.drift.model_dump_json(), "columns": uc.features.model_dump_json()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _day(uc: UseCase, partition: date) -> pa.Table:
    """Return features and scores of one day, in order of the entity."""
    features = tables.read_partitions(
        uc, "features", partition, partition, columns=[uc.entity, *uc.features.columns]
    )
    scores = tables.read_partitions(uc, "predictions", partition, partition, columns=[uc.entity, SCORE])
    return features.join(scores, keys=uc.entity, join_type="left outer").sort_by(uc.entity)


def _judge(
    uc: UseCase, partition: date, reference: pa.Table, day: pa.Table, seen: _Seen
) -> tuple[DriftResult, reports.Comparison | None]:
    policy = uc.drift
    # A column the champion never read, or never saw a value of, has nothing to be compared with.
    known = [name for name in (*uc.features.numeric, SCORE) if _has_values(reference, name)]
    present = [name for name in known if _has_values(day, name)]
    absent = sorted({*known} - {*present} - baseline.sometimes_absent(reference, known))
    usual = baseline.largest_daily_distances(reports.thin(reference), present)
    numeric = {name: max(policy.numeric_threshold, usual[name]) for name in present}
    categorical = {
        name: policy.categorical_threshold
        for name in uc.features.categorical
        if day.num_rows and name in reference.column_names
    }
    comparison = (
        reports.compare(
            reference,
            day,
            numeric=numeric,
            categorical=categorical,
            picture=[name for name in (SCORE,) if name in numeric],
        )
        if day.num_rows
        else None
    )
    limits = {name: round(value, 6) for name, value in (numeric | categorical).items()}
    distances = {name: round(value, 6) for name, value in comparison.distances.items()} if comparison else {}
    beyond = [name for name, value in distances.items() if value > limits[name]]
    beyond.sort(key=lambda name: -distances[name] / limits[name])
    columns = [*absent, *beyond]
    share = sum(name != SCORE for name in columns) / max(1, len({*limits, *absent} - {SCORE}))
    verdict: Verdict = "quiet"
    if share >= policy.share_of_columns:
        verdict = "drift"
    elif share >= policy.share_of_columns / 2 or SCORE in columns or absent:
        verdict = "watch"
    result = DriftResult(
        partition=partition,
        verdict=verdict,
        columns=tuple(columns),
        absent=tuple(absent),
        share=round(share, 6),
        rows=day.num_rows,
        distances=distances,
        limits=limits,
        model_hash=seen.model,
        features_hash=seen.features,
        predictions_hash=seen.predictions,
        inputs=_inputs(uc, seen),
    )
    return result, comparison


def _has_values(table: pa.Table, name: str) -> bool:
    return name in table.column_names and bool(np.isfinite(baseline.numbers(table, name)).any())
