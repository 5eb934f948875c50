"""What the model said on a day, and what it was asked: one row of ``monitoring_predictions`` a day.

Scores (mean, deviation, deciles), decisions, confidence; rows with missing features; values beyond all that
the model saw in the sample of its training rows. And how fast it answered (``performance``), as scoring
measured it.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.lake import tables
from nightshift.metrics import EPSILON
from nightshift.monitoring.sketches import numbers
from nightshift.registry import models
from nightshift.registry.model import Model
from nightshift.usecase import UseCase

LAYER = "monitoring_predictions"
PERFORMANCE = "monitoring_performance"

_DECILES = tuple(range(10, 100, 10))


class Profile(BaseModel):
    """One day of predictions.

    Attributes:
        rows: Scored rows.
        model_hash: Content hash of the model that scored them.
        mean: Of the scores.
        deviation: Standard deviation of the scores.
        deciles: The nine scores that cut the day into ten equal parts.
        positive_rate: Share of rows that the model would act on.
        entropy: Mean entropy of the scores in bits: 1 knows nothing, 0 is sure of every row.
        margin: Mean distance of the scores from 0.5.
        rows_missing: Share of rows that lack a value of some feature the model reads.
        missing: Share of rows without a value, a feature; features without a gap are left out.
        rows_outside: Share of rows with some value beyond the training sample.
        outside: Share of rows beyond the training sample (smaller or greater; a category it lacks), a
            feature; features without such rows are left out.
        inputs: Content hash of the predictions, which name model and features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: date
    rows: int
    model_hash: str
    mean: float
    deviation: float
    deciles: tuple[float, ...]
    positive_rate: float
    entropy: float
    margin: float
    rows_missing: float
    missing: dict[str, float]
    rows_outside: float
    outside: dict[str, float]
    inputs: str


# Stored as JSON text, so that the table's schema does not follow the features.
_JSON = ("deciles", "missing", "outside")


def profile(uc: UseCase, partition: date) -> Profile | None:
    """Describe the predictions of ``partition``, and keep the description in the lake.

    Nothing is computed again while the predictions are those of the kept one.

    Returns:
        None where the day has no predictions, or their features are gone.
    """
    version = tables.partition_version(uc, "predictions", partition)
    if version is None or tables.partition_version(uc, "features", partition) is None:
        return None
    kept = profiles(uc, partition, partition).get(partition)
    if kept is not None and kept.inputs == version.content_hash:
        return kept
    named = ["model_version", "score", "decision"]
    predictions = tables.read_partitions(uc, "predictions", partition, partition, named)
    model = models.load_model(uc, predictions.column("model_version")[0].as_py())
    columns = [name for name in uc.features.columns if name in model.feature_columns]
    features = tables.read_partitions(uc, "features", partition, partition, columns)
    found = _describe(uc, partition, model, predictions, features, version.content_hash)
    row = found.model_dump(mode="json")
    row |= {name: json.dumps(row[name], sort_keys=True) for name in _JSON} | {"partition": partition}
    tables.replace_partition(uc, LAYER, partition, pa.Table.from_pylist([row]), ["partition"])
    return found


def profiles(uc: UseCase, start: date, end: date) -> dict[date, Profile]:
    """Return the kept descriptions of ``start`` to ``end``, by day."""
    rows = tables.read_partitions(uc, LAYER, start, end).to_pylist()
    found = (
        Profile.model_validate(
            {name: json.loads(row[name]) if name in _JSON else row[name] for name in Profile.model_fields}
        )
        for row in rows
    )
    return {item.partition: item for item in found}


def performance(uc: UseCase, start: date, end: date) -> dict[date, dict[str, Any]]:
    """Return how scoring went on each day of ``start`` to ``end``, as ``inference.score`` measured it."""
    rows = tables.read_partitions(uc, PERFORMANCE, start, end).to_pylist()
    return {row.pop("partition"): row for row in rows}


def _describe(
    uc: UseCase, partition: date, model: Model, predictions: pa.Table, features: pa.Table, inputs: str
) -> Profile:
    score = predictions.column("score").to_numpy()
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    entropy = -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped))
    missing, outside = {}, {}
    for name in features.column_names:
        if name in uc.features.numeric:
            values = numbers(features, name)
            missing[name] = ~np.isfinite(values)
            outside[name] = _beyond(values, numbers(model.reference, name))
        else:
            missing[name] = pc.is_null(features.column(name)).to_numpy()
            outside[name] = _unseen(features.column(name), model.reference.column(name))
    return Profile(
        partition=partition,
        rows=score.size,
        model_hash=model.content_hash,
        mean=_round(score.mean()),
        deviation=_round(score.std()),
        deciles=tuple(_round(value) for value in np.percentile(score, _DECILES)),
        positive_rate=_round(np.mean(predictions.column("decision").to_numpy())),
        entropy=_round(entropy.mean()),
        margin=_round(np.abs(score - 0.5).mean()),
        rows_missing=_any(missing, features.num_rows),
        missing=_shares(missing),
        rows_outside=_any(outside, features.num_rows),
        outside=_shares(outside),
        inputs=inputs,
    )


def _beyond(values: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    seen = reference[np.isfinite(reference)]
    if seen.size == 0:
        return np.isfinite(values)
    return np.asarray((values < seen.min()) | (values > seen.max()))


def _unseen(values: pa.ChunkedArray, reference: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    known = pc.unique(pc.cast(reference, pa.string()).drop_null())
    text = pc.cast(values, pa.string())
    return np.asarray(pc.and_(pc.is_valid(text), pc.invert(pc.is_in(text, known))).to_numpy())


def _shares(rows: dict[str, npt.NDArray[np.bool_]]) -> dict[str, float]:
    return {name: _round(inside.mean()) for name, inside in rows.items() if inside.any()}


def _any(rows: dict[str, npt.NDArray[np.bool_]], size: int) -> float:
    return _round(np.logical_or.reduce([np.zeros(size, dtype=bool), *rows.values()]).mean())


def _round(value: Any) -> float:
    return round(float(value), 6)
