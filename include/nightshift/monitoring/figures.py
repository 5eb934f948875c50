"""What outcomes say about quality: metrics with intervals, whatever stretch of days they are of.

Of three days or more, whole days are drawn (``intervals``): rows of one day are alike. Of a single day its
rows are drawn, and the interval says how far off the figure could be for want of rows, not how much days
differ. The seed is the use case's, so the same outcomes give the same interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.intervals import (
    MIN_DAYS,
    Floats,
    Interval,
    draw_days,
    intervals,
    resampled_metrics,
    row_groups,
)
from nightshift.metrics import forecast_metrics
from nightshift.usecase import Metric, UseCase

OBSERVED_METRICS: tuple[Metric, ...] = ("roc_auc", "pr_auc", "brier", "log_loss", "ece", "cost")
"""What is reported with an interval."""

MIN_JUDGED_DAYS = 7
"""Fewer days do not tell a bad week from a bad model: they get figures and intervals, and no verdict."""


@dataclass(frozen=True)
class Figures:
    """Metrics of labelled outcomes, as ``forecast_metrics`` names them, and intervals of some of them."""

    rows: int
    days: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]

    def as_row(self) -> dict[str, float]:
        """Return metrics as columns, the ends of each interval as ``<metric>_low`` and ``<metric>_high``."""
        ends = {
            f"{name}_{end}": getattr(interval, end)
            for name, interval in self.intervals.items()
            for end in ("low", "high")
        }
        return {**self.metrics, **ends, "rows": self.rows}


def labelled(outcomes: pa.Table) -> pa.Table:
    """Return the outcomes whose truth is known and defined."""
    return outcomes.filter(pc.is_valid(outcomes.column("label")))


def figures(uc: UseCase, judged: pa.Table, names: Sequence[Metric] = OBSERVED_METRICS) -> Figures:
    """Measure labelled outcomes.

    Args:
        uc: The use case: its costs, and the confidence of its gate.
        judged: Columns ``partition``, ``label``, ``score`` and ``decision``.
        names: Metrics that get an interval; none saves the resamples.
    """
    label, score = judged.column("label").to_numpy(), judged.column("score").to_numpy()
    threshold = thresholds(judged)
    metrics = forecast_metrics(label, score, threshold=threshold, costs=uc.costs)
    found, day = np.unique(judged.column("partition").to_numpy(), return_inverse=True)
    if names and found.size == 1:
        day = row_groups(label.size, uc.training.seed)
    groups = int(day.max(initial=-1)) + 1
    ends: dict[str, Interval] = {}
    if names and groups >= MIN_DAYS:
        resampled = resampled_metrics(
            label,
            score,
            day,
            draw_days(groups, uc.evaluation.resamples, uc.training.seed),
            threshold=threshold,
            costs=uc.costs,
            names=names,
        )
        ends = intervals(metrics, resampled, uc.gate.confidence)
    return Figures(rows=label.size, days=found.size, metrics=metrics, intervals=ends)


def thresholds(judged: pa.Table) -> Floats:
    """Return a threshold a row that decides as was decided, whichever model's threshold that was."""
    acted_on: npt.NDArray[np.bool_] = judged.column("decision").to_numpy()
    return np.where(acted_on, -np.inf, np.inf)


def rows_table(rows: Sequence[Mapping[str, Any]], keys: Mapping[str, pa.DataType]) -> pa.Table:
    """Return rows as a table of ``keys`` and every metric with its ends, null where undefined.

    A partition whose rows define fewer metrics has the same columns, so that tables keep their types.
    """
    named: list[str] = ["base_rate", "mean_score", "precision", "recall", *OBSERVED_METRICS]
    named += [f"{name}_{end}" for name in OBSERVED_METRICS for end in ("low", "high")]
    schema = pa.schema([*keys.items(), *((name, pa.float64()) for name in named)])
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
