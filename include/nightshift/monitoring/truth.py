"""Delayed truth: predictions joined with labels as they become known, and the metrics observed on them.

Each judged day is a partition of ``outcomes`` (a row a prediction), of ``monitoring_observed`` (one row of
metrics with intervals) and, once its figures have changed, of ``monitoring_restated`` (a row a restatement:
what they were, what they became). They follow from the day's predictions and labels alone, and labels say
from which night on each was known, so nights that run in any order end with the same: a night judges the days
whose labels it brought or corrected, and its own day where the truth was there first.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.intervals import Interval
from nightshift.lake import tables
from nightshift.lake.hashing import content_hash
from nightshift.lake.tables import PartitionVersion
from nightshift.monitoring.figures import OBSERVED_METRICS, figures, labelled
from nightshift.partition import days
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

OUTCOMES = "outcomes"
OBSERVED = "monitoring_observed"
RESTATED = "monitoring_restated"

SLICE = "slice_"
"""Begins the name of each column of ``outcomes`` that holds a slice; the rest is the feature's name."""

_COUNTS = ("rows", "unlabelled", "unpredicted")
_INPUTS = ("partition", "model_hash", "predictions_hash", "labels_hash")
_RESTATED_METRICS = ("base_rate", *OBSERVED_METRICS)


@dataclass(frozen=True)
class Restatement:
    """One change of a judged day's figures.

    Attributes:
        partition: The judged day.
        number: 1 for the first change.
        cause: ``labels`` (more of them, or corrected ones) or ``predictions`` (the day was scored again).
        was: Rows and metrics before.
        now: Rows and metrics after.
        was_labels_hash: Content hash of the labels behind ``was``.
        labels_hash: Content hash of the labels behind ``now``.
    """

    partition: date
    number: int
    cause: str
    was: dict[str, float]
    now: dict[str, float]
    was_labels_hash: str
    labels_hash: str


@dataclass(frozen=True)
class _State:
    """What a day's figures were at one time, and what they rested on."""

    predictions_hash: str
    labels_hash: str
    metrics: dict[str, float]

    @property
    def inputs(self) -> tuple[str, str]:
        return self.predictions_hash, self.labels_hash


def judge(uc: UseCase, night: date) -> dict[str, Any]:
    """Judge the predictions whose truth the night of ``night`` may have brought or corrected.

    Returns:
        By day (``YYYY-MM-DD``): ``status`` (``judged``; ``no predictions``; ``no labels``) and, for a judged
        day, ``rows`` (labelled), ``unlabelled`` (predicted, truth missing or undefined), ``unpredicted``
        (labelled, never predicted) and the metrics of ``forecast_metrics`` that its rows define.
    """
    found: dict[str, Any] = {}
    for day in days_of(uc, night):
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


def days_of(uc: UseCase, night: date) -> list[date]:
    """Return the days whose truth the night of ``night`` may bring or correct, oldest first."""
    newest = night - timedelta(days=uc.label.lag_days)
    corrections = max((table.correction_days for _, _, table in uc.tables()), default=0)
    window = days(max(newest - timedelta(days=corrections), uc.history_start), newest)
    return [*window, night]


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


def observed_intervals(uc: UseCase, start: date, end: date) -> dict[date, dict[str, Interval]]:
    """Return the metrics of ``figures.OBSERVED_METRICS`` with their intervals, for each judged day."""
    return {day: intervals_of(row) for day, row in _kept(uc, start, end).items()}


def intervals_of(row: dict[str, Any]) -> dict[str, Interval]:
    """Return the metrics of a row that have an interval, from its columns."""
    return {
        name: Interval(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"])
        for name in OBSERVED_METRICS
        if row.get(name) is not None and row.get(f"{name}_low") is not None
    }


def restatements(uc: UseCase, start: date, end: date) -> list[Restatement]:
    """Return every restatement of the judged days ``start`` to ``end``, by day, then number."""
    return [
        Restatement(
            partition=row["partition"],
            number=row["number"],
            cause=row["cause"],
            was=_stated(row, "was_"),
            now=_stated(row, ""),
            was_labels_hash=row["was_labels_hash"],
            labels_hash=row["labels_hash"],
        )
        for row in tables.read_partitions(uc, RESTATED, start, end).to_pylist()
    ]


def _judge(uc: UseCase, day: date, predictions: PartitionVersion, labels: PartitionVersion) -> dict[str, Any]:
    kept = _kept(uc, day, day).get(day)
    inputs = (predictions.content_hash, labels.content_hash)
    # A row that an earlier version kept has no intervals: its day is judged again.
    if kept and _inputs(kept) == inputs and (kept["rows"] == 0 or kept.get("brier_low") is not None):
        return _metrics(kept)
    truth = tables.read_partitions(uc, "labels", day, day)
    outcomes, unpredicted = _join(uc, day, truth)
    judged = labelled(outcomes)
    row = figures(uc, judged).as_row() | {
        "unlabelled": outcomes.num_rows - judged.num_rows,
        "unpredicted": unpredicted,
        "model_hash": model_of(outcomes),
        "predictions_hash": predictions.content_hash,
        "labels_hash": labels.content_hash,
    }
    tables.replace_partition(uc, OUTCOMES, day, outcomes, [uc.entity])
    _restate(uc, day, kept, [*_earlier(uc, predictions, truth, outcomes), _state(row)])
    # Written last: a run killed in between finds no row for these inputs, and judges again.
    tables.replace_partition(
        uc, OBSERVED, day, pa.Table.from_pylist([row | {"partition": day}]), ["partition"]
    )
    return _metrics(row)


def _join(uc: UseCase, day: date, truth: pa.Table) -> tuple[pa.Table, int]:
    """Return the day's outcomes, and how many labelled entities were never predicted."""
    columns = [uc.entity, "score", "decision", "model_hash"]
    predictions = tables.read_partitions(uc, "predictions", day, day, columns=columns)
    labels = truth.filter(pc.is_valid(truth.column(uc.label.column)))
    labels = labels.select([uc.entity, uc.label.column, "label_available_on"])
    labels = labels.rename_columns([uc.entity, "label", "known_on"])
    labels = labels.set_column(1, "label", pc.cast(labels.column("label"), pa.int64()))
    labels = labels.set_column(2, "known_on", pc.cast(labels.column("known_on"), pa.date32()))
    joined = predictions.select(columns).join(labels, keys=uc.entity, join_type="left outer")
    slices = _slices(uc, day)
    if slices is not None:
        joined = joined.join(slices, keys=uc.entity, join_type="left outer")
    unpredicted = labels.num_rows - (joined.num_rows - joined.column("label").null_count)
    named = joined.append_column("partition", pa.repeat(pa.scalar(day, pa.date32()), joined.num_rows))
    return named.sort_by(uc.entity), unpredicted


def _slices(uc: UseCase, day: date) -> pa.Table | None:
    """Return the slice columns of the day's features as text; None when the features are gone."""
    if not uc.slices or tables.partition_version(uc, "features", day) is None:
        return None
    features = tables.read_partitions(uc, "features", day, day, columns=[uc.entity, *uc.slices])
    columns = {SLICE + name: pc.cast(features.column(name), pa.string()) for name in uc.slices}
    return pa.table({uc.entity: features.column(uc.entity), **columns})


def _earlier(uc: UseCase, predictions: PartitionVersion, truth: pa.Table, outcomes: pa.Table) -> list[_State]:
    """Return what the day's figures were on each night that knew some of today's labels, and not yet all."""
    available = pc.cast(truth.column("label_available_on"), pa.date32())
    nights = sorted(pc.unique(available.drop_null()).to_pylist())
    states = []
    for night in nights[:-1]:
        known = truth.filter(pc.less_equal(available, night))
        judged = labelled(outcomes)
        judged = judged.filter(pc.less_equal(judged.column("known_on"), night))
        found = figures(uc, judged, names=())
        states.append(
            _State(
                predictions.content_hash,
                content_hash(known, [uc.entity]),
                {
                    name: value
                    for name, value in found.as_row().items()
                    if name in ("rows", *_RESTATED_METRICS)
                },
            )
        )
    return states


def _restate(uc: UseCase, day: date, kept: dict[str, Any] | None, derived: list[_State]) -> None:
    """Keep what the figures of a day were before they became the last of ``derived``.

    What the labels themselves tell of earlier nights is the same in whatever order nights are run. A figure
    that they no longer tell (a label was corrected, the day was scored again) is kept beside it.
    """
    rows = tables.read_partitions(uc, RESTATED, day, day).to_pylist()
    known = [_restated_state(rows[0], "was_"), *(_restated_state(row, "") for row in rows)] if rows else []
    if kept and not rows:
        known = [_state(kept)]
    if {state.inputs for state in known} <= {state.inputs for state in derived}:
        chain = derived
    elif known[-1].inputs == derived[-1].inputs:
        chain = known
    else:
        chain = [*known, derived[-1]]
    if len(chain) < 2:
        return
    table = pa.Table.from_pylist(
        [_restatement(day, number, *pair) for number, pair in enumerate(pairwise(chain), 1)],
        schema=_restated_schema(),
    )
    tables.replace_partition(uc, RESTATED, day, table, ["partition", "number"])


def _restatement(day: date, number: int, was: _State, now: _State) -> dict[str, Any]:
    return {
        "partition": day,
        "number": number,
        "cause": "labels" if was.predictions_hash == now.predictions_hash else "predictions",
        **{
            f"{prefix}{name}": value
            for prefix, state in (("was_", was), ("", now))
            for name, value in (
                *state.metrics.items(),
                ("labels_hash", state.labels_hash),
                ("predictions_hash", state.predictions_hash),
            )
        },
    }


def _restated_schema() -> pa.Schema:
    columns = [("partition", pa.date32()), ("number", pa.int64()), ("cause", pa.string())]
    for prefix in ("was_", ""):
        columns += [(f"{prefix}{name}", pa.string()) for name in ("labels_hash", "predictions_hash")]
        columns += [(f"{prefix}rows", pa.int64())]
        columns += [(f"{prefix}{name}", pa.float64()) for name in _RESTATED_METRICS]
    return pa.schema(columns)


def _state(row: dict[str, Any]) -> _State:
    return _State(row["predictions_hash"], row["labels_hash"], _stated(row, ""))


def _restated_state(row: dict[str, Any], prefix: str) -> _State:
    return _State(
        predictions_hash=row[f"{prefix}predictions_hash"],
        labels_hash=row[f"{prefix}labels_hash"],
        metrics=_stated(row, prefix),
    )


def _stated(row: dict[str, Any], prefix: str) -> dict[str, float]:
    values = {name: row.get(f"{prefix}{name}") for name in ("rows", *_RESTATED_METRICS)}
    return {name: value for name, value in values.items() if value is not None}


def _inputs(row: dict[str, Any]) -> tuple[str, str]:
    return row["predictions_hash"], row["labels_hash"]


def model_of(outcomes: pa.Table) -> str:
    """Return the content hash of the model that made all of ``outcomes``; of several, a JSON list."""
    models = sorted(set(outcomes.column("model_hash").to_pylist()))
    return models[0] if len(models) == 1 else json.dumps(models)


def _kept(uc: UseCase, start: date, end: date) -> dict[date, dict[str, Any]]:
    rows = tables.read_partitions(uc, OBSERVED, start, end).to_pylist()
    return {row["partition"]: row for row in rows}


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    values = {
        name: value
        for name, value in row.items()
        if name not in _INPUTS and isinstance(value, int | float) and not name.endswith(("_low", "_high"))
    }
    return {name: int(value) if name in _COUNTS else value for name, value in values.items()}
