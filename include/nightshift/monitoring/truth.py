"""Delayed truth: predictions joined with labels as they become known, and the metrics observed on them.

Each judged day is a partition of ``outcomes`` (a row a prediction) and of ``monitoring_observed`` (one row
of metrics). Both follow from the day's predictions and labels alone, so nights that run in any order end
with the same: a night judges the days whose labels it brought or corrected, and its own day where the
truth was there first.
"""

from __future__ import annotations

import json
import logging
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.lake.tables import PartitionVersion
from nightshift.metrics import forecast_metrics
from nightshift.partition import days
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

OUTCOMES = "outcomes"
OBSERVED = "monitoring_observed"

_COUNTS = ("rows", "unlabelled", "unpredicted")
_INPUTS = ("partition", "model_hash", "predictions_hash", "labels_hash")


def judge(uc: UseCase, night: date) -> dict[str, Any]:
    """Judge the predictions whose truth the night of ``night`` may have brought or corrected.

    Returns:
        By day (``YYYY-MM-DD``): ``status`` (``judged``; ``no predictions``; ``no labels``) and, for a judged
        day, ``rows`` (labelled), ``unlabelled`` (predicted, truth missing or undefined), ``unpredicted``
        (labelled, never predicted) and the metrics of ``forecast_metrics`` that its rows define.
    """
    found: dict[str, Any] = {}
    for day in _days_of(uc, night):
        predictions = tables.partition_version(uc, "predictions", day)
        labels = tables.partition_version(uc, "labels", day)
        if day == night and labels is None:
            continue  # Its truth is not due yet.
        if predictions is None or labels is None:
            status = "no predictions" if predictions is None else "no labels"
            log.warning("%s %s cannot be judged: %s", uc.name, day, status)
            found[day.isoformat()] = {"status": status}
            continue
        found[day.isoformat()] = {"status": "judged", **_judge(uc, day, predictions, labels)}
    return found


def observed(uc: UseCase) -> dict[date, dict[str, float]]:
    """Return the metrics observed on each judged day, oldest first, without touching a prediction.

    As ``judge`` reports them, without ``status``; a metric the day's rows do not define is left out.
    """
    return {day: _metrics(row) for day, row in _kept(uc, uc.history_start, date.max).items()}


def observed_models(uc: UseCase, start: date, end: date) -> dict[date, tuple[str, dict[str, float]]]:
    """Return the content hash of the model and its metrics, for each judged day of ``start`` to ``end``."""
    return {day: (row["model_hash"], _metrics(row)) for day, row in _kept(uc, start, end).items()}


def observed_inputs(uc: UseCase, start: date, end: date) -> dict[date, tuple[str, str]]:
    """Return the content hashes of the predictions and labels behind each judged day's metrics."""
    return {day: (row["predictions_hash"], row["labels_hash"]) for day, row in _kept(uc, start, end).items()}


def _days_of(uc: UseCase, night: date) -> list[date]:
    newest = night - timedelta(days=uc.label.lag_days)
    corrections = max((table.correction_days for _, _, table in uc.tables()), default=0)
    window = days(max(newest - timedelta(days=corrections), uc.history_start), newest)
    return [*window, night]


def _judge(uc: UseCase, day: date, predictions: PartitionVersion, labels: PartitionVersion) -> dict[str, Any]:
    kept = _kept(uc, day, day).get(day)
    if kept and (kept["predictions_hash"], kept["labels_hash"]) == (
        predictions.content_hash,
        labels.content_hash,
    ):
        return _metrics(kept)
    outcomes, unpredicted = _join(uc, day)
    metrics = _measure(uc, outcomes) | {"unpredicted": unpredicted}
    tables.replace_partition(uc, OUTCOMES, day, outcomes, [uc.entity])
    # Written last: a run killed in between finds no row for these inputs, and judges again.
    row = metrics | {
        "model_hash": _model_of(outcomes),
        "predictions_hash": predictions.content_hash,
        "labels_hash": labels.content_hash,
    }
    tables.replace_partition(
        uc, OBSERVED, day, pa.Table.from_pylist([row | {"partition": day}]), ["partition"]
    )
    return metrics


def _join(uc: UseCase, day: date) -> tuple[pa.Table, int]:
    """Return the day's outcomes, and how many labelled entities were never predicted."""
    columns = [uc.entity, "score", "decision", "model_hash"]
    predictions = tables.read_partitions(uc, "predictions", day, day, columns=columns)
    labels = tables.read_partitions(uc, "labels", day, day, columns=[uc.entity, uc.label.column])
    labels = labels.filter(pc.is_valid(labels.column(uc.label.column)))
    labels = labels.select([uc.entity, uc.label.column]).rename_columns([uc.entity, "label"])
    labels = labels.set_column(1, "label", pc.cast(labels.column("label"), pa.int64()))
    joined = (
        predictions.select(columns).join(labels, keys=uc.entity, join_type="left outer").sort_by(uc.entity)
    )
    unpredicted = labels.num_rows - (joined.num_rows - joined.column("label").null_count)
    return joined, unpredicted


def _measure(uc: UseCase, outcomes: pa.Table) -> dict[str, float]:
    judged = outcomes.filter(pc.is_valid(outcomes.column("label")))
    score = judged.column("score").to_numpy()
    acted_on = judged.column("decision").to_numpy()
    # The predictions say which rows were acted on; any threshold that separates them gives the same figures.
    threshold = float(score[acted_on].min()) if acted_on.any() else np.inf
    metrics = forecast_metrics(judged.column("label").to_numpy(), score, threshold=threshold, costs=uc.costs)
    counts = {"rows": judged.num_rows, "unlabelled": outcomes.num_rows - judged.num_rows}
    return metrics | counts


def _model_of(outcomes: pa.Table) -> str:
    models = sorted(set(outcomes.column("model_hash").to_pylist()))
    return models[0] if len(models) == 1 else json.dumps(models)


def _kept(uc: UseCase, start: date, end: date) -> dict[date, dict[str, Any]]:
    rows = tables.read_partitions(uc, OBSERVED, start, end).to_pylist()
    return {row["partition"]: row for row in rows}


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    values = {
        name: value for name, value in row.items() if name not in _INPUTS and isinstance(value, int | float)
    }
    return {name: int(value) if name in _COUNTS else value for name, value in values.items()}
