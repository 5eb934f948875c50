"""Metrics of one model on the compared rows, over all and by slice, and of two models against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.evaluation.calibration import Calibration
from nightshift.evaluation.fairness import Parity
from nightshift.evaluation.latency import Latency
from nightshift.evaluation.robustness import Disturbed
from nightshift.evaluation.stress import StressResult
from nightshift.intervals import (
    MIN_DAYS,
    Floats,
    Interval,
    differences,
    draw_days,
    intervals,
    resampled_metrics,
)
from nightshift.metrics import forecast_metrics
from nightshift.usecase import Metric, UseCase

BySlice = dict[str, dict[str, dict[str, float]]]


class Judged(BaseModel):
    """How one model did.

    Attributes:
        metrics: Over all compared rows.
        slices: Per slice and value.
        intervals: Of the metrics; empty where there are too few days to draw from.
        slice_intervals: Of the primary metric, ECE and cost, per slice and value.
        calibration: Before and after recalibration, on the compared rows.
        fairness: One entry a column of groups, on the compared rows.
        robustness: What disturbed validation rows did to it.
        stress: One entry a case of stress.yml, on validation rows.
        importance: Mean absolute SHAP value by feature, largest first, on validation rows, in log-odds.
        latency: Measured once, when it was judged first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, float]
    slices: BySlice
    intervals: dict[str, Interval] = {}
    slice_intervals: dict[str, dict[str, dict[str, Interval]]] = {}
    calibration: Calibration | None = None
    fairness: list[Parity] = []
    robustness: list[Disturbed] = []
    stress: list[StressResult] = []
    importance: dict[str, float] = {}
    latency: Latency | None = None


class Comparison(BaseModel):
    """Paired differences (ours - theirs): of every metric, and of the primary one per slice and value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, Interval]
    slices: dict[str, dict[str, Interval]]


@dataclass(frozen=True)
class Compared:
    """The rows that models are compared on.

    Attributes:
        label: 0 or 1, of shape (rows,).
        day: Position of each row's day among the columns of ``drawn``.
        drawn: Bootstrap draws of days, the same for every model; None for fewer days than ``MIN_DAYS``.
        masks: Per slice and value, which rows belong to it.
    """

    uc: UseCase
    label: npt.NDArray[np.float32]
    day: npt.NDArray[np.int64]
    drawn: Floats | None
    masks: dict[str, dict[str, npt.NDArray[np.bool_]]]


@dataclass(frozen=True)
class Resampled:
    """A model's metrics on every resample, over all rows and per slice and value."""

    metrics: dict[str, Floats]
    slices: dict[str, dict[str, dict[str, Floats]]]


def compared(uc: UseCase, rows: pa.Table, label: npt.NDArray[np.float32]) -> Compared:
    """Prepare ``rows`` for judging; equal rows get equal draws, from the use case's seed."""
    found, day = np.unique(rows["partition"].to_numpy(), return_inverse=True)
    enough = found.size >= MIN_DAYS
    return Compared(
        uc=uc,
        label=label,
        day=day,
        drawn=draw_days(found.size, uc.evaluation.resamples, uc.training.seed) if enough else None,
        masks=_masks(uc, rows),
    )


def judge(rows: Compared, score: Floats, threshold: float) -> tuple[Judged, Resampled | None]:
    """Judge the probabilities ``score`` of shape (rows,), acted on from ``threshold``."""
    uc = rows.uc

    def metrics(inside: npt.NDArray[np.bool_]) -> dict[str, float]:
        return forecast_metrics(rows.label[inside], score[inside], threshold=threshold, costs=uc.costs)

    found = metrics(np.ones(rows.label.size, dtype=bool))
    slices = {
        column: {value: metrics(inside) for value, inside in masks.items()}
        for column, masks in rows.masks.items()
    }
    if rows.drawn is None:
        return Judged(metrics=found, slices=slices), None
    drawn = rows.drawn
    of_slices: tuple[Metric, ...] = (uc.gate.primary, "ece", "cost")
    resampled = Resampled(
        resampled_metrics(rows.label, score, rows.day, drawn, threshold=threshold, costs=uc.costs),
        {
            column: {
                value: resampled_metrics(
                    rows.label[inside],
                    score[inside],
                    rows.day[inside],
                    drawn,
                    threshold=threshold,
                    costs=uc.costs,
                    names=of_slices,
                )
                for value, inside in masks.items()
            }
            for column, masks in rows.masks.items()
        },
    )
    confidence = uc.gate.confidence
    judged = Judged(
        metrics=found,
        slices=slices,
        intervals=intervals(found, resampled.metrics, confidence),
        slice_intervals={
            column: {
                value: intervals(slices[column][value], samples, confidence)
                for value, samples in values.items()
            }
            for column, values in resampled.slices.items()
        },
    )
    return judged, resampled


def compare(
    rows: Compared,
    ours: tuple[Judged, Resampled | None],
    theirs: tuple[Judged, Resampled | None],
) -> Comparison | None:
    """Return the paired differences of two models judged on ``rows``; None where nothing could be drawn."""
    (judged, samples), (other, other_samples) = ours, theirs
    if samples is None or other_samples is None:
        return None
    confidence, primary = rows.uc.gate.confidence, rows.uc.gate.primary
    slices: dict[str, dict[str, Interval]] = {}
    for column, values in samples.slices.items():
        slices[column] = {}
        for value, resampled in values.items():
            found = differences(
                judged.slices[column][value],
                {primary: resampled[primary]},
                other.slices[column][value],
                other_samples.slices[column][value],
                confidence,
            )
            if primary in found:
                slices[column][value] = found[primary]
    return Comparison(
        metrics=differences(
            judged.metrics, samples.metrics, other.metrics, other_samples.metrics, confidence
        ),
        slices=slices,
    )


def _masks(uc: UseCase, rows: pa.Table) -> dict[str, dict[str, npt.NDArray[np.bool_]]]:
    columns = {name: pc.cast(rows[name], pa.string()) for name in uc.slices if name in rows.column_names}
    masks = {
        name: {
            str(value): _mask(pc.equal(column, value))
            for value in sorted(pc.unique(column).drop_null().to_pylist())
        }
        for name, column in columns.items()
    }
    for name, edges in uc.evaluation.bands.items():
        if name in rows.column_names:
            bounds = zip((None, *edges), (*edges, None), strict=True)
            masks[f"{name} band"] = {
                _band(low, high): inside
                for low, high in bounds
                if (inside := _between(rows[name], low, high)).any()
            }
    if uc.evaluation.months:
        month = pc.strftime(rows["partition"], format="%Y-%m")
        masks["month"] = {
            value: _mask(pc.equal(month, value)) for value in sorted(pc.unique(month).to_pylist())
        }
    return masks


def _mask(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), dtype=bool)


def _between(column: pa.ChunkedArray, low: float | None, high: float | None) -> npt.NDArray[np.bool_]:
    inside = pc.is_valid(column)
    if low is not None:
        inside = pc.and_kleene(inside, pc.greater_equal(column, low))
    if high is not None:
        inside = pc.and_kleene(inside, pc.less(column, high))
    return _mask(inside)


def _band(low: float | None, high: float | None) -> str:
    if low is None:
        return f"below {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to below {high:g}"
