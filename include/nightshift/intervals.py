"""How far the figures of a model could be off: bootstrap over whole days.

Rows of one day share its weather and its congestion, so days are drawn, not rows: intervals of single rows
would be too narrow. Every model is judged on the same draws, so the difference of two models is paired.

Of a single day there are no others to draw: ``row_groups`` puts its rows into groups that take the place of
days, and the interval says how far off the figure could be for want of rows, no more.

A resample is a number per day, how often it was drawn. All metrics follow from sums per day, so a resample
costs a few products instead of a pass over sorted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from nightshift.metrics import ECE_BINS, EPSILON
from nightshift.usecase import Costs, Metric

Floats = npt.NDArray[np.float64]

# The rows of one day are drawn in so many groups at most: the cost of a resample does not grow with the rows.
_ROW_GROUPS = 200
# Of one or two days there are no resamples that tell how much days differ.
MIN_DAYS = 3
# An interval of fewer defined resamples says more about the gaps than about the metric.
_MIN_DEFINED = 0.95
# Resamples worked on at once: some megabytes for tens of thousands of rows.
_BLOCK = 64
_GROUPS = 65536


METRICS: tuple[Metric, ...] = get_args(Metric)


class Interval(BaseModel):
    """A figure and the percentile interval of its bootstrap distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


def draw_days(days: int, resamples: int, seed: int) -> Floats:
    """Return how often each day was drawn, of shape (resamples, days); each row sums to ``days``."""
    random = np.random.default_rng(seed)
    return random.multinomial(days, np.full(days, 1 / days), size=resamples).astype(np.float64)


def row_groups(rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Return a group for each of ``rows`` rows, to be drawn in place of days.

    Groups are of equal size, put together by chance from ``seed``: drawing them gives the variance that
    drawing single rows gives, at the cost of the number of groups.
    """
    return np.random.default_rng(seed).permutation(np.arange(rows) % _ROW_GROUPS)


def resampled_metrics(
    label: npt.NDArray[Any],
    score: Floats,
    day: npt.NDArray[np.int64],
    drawn: Floats,
    *,
    threshold: float | Floats,
    costs: Costs,
    names: Iterable[str] = METRICS,
) -> dict[str, Floats]:
    """Return metrics of ``metrics.forecast_metrics`` on every resample, each of shape (resamples,).

    Args:
        label: 0 or 1, of shape (rows,).
        score: Probabilities of the positive class, of shape (rows,).
        day: Position of each row's day among the columns of ``drawn``.
        drawn: As ``draw_days`` returns it.
        threshold: Score from which a row is acted on; one for all, or one a row.
        costs: Of the two mistakes.
        names: Which metrics.

    Returns:
        By name; NaN where a resample does not define it. The bins of ``ece`` are those of all rows, so that a
        resample moves rates and not edges.
    """
    positive = np.asarray(label) > 0.5
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    acted_on = score >= threshold

    def total(values: npt.NDArray[Any]) -> Floats:
        per_day = np.bincount(day, weights=values.astype(np.float64), minlength=drawn.shape[1])
        # No matrix product: a threaded one may round differently from run to run.
        return np.asarray((drawn * per_day).sum(axis=1))

    rows, positives = total(np.ones(day.size)), total(positive)
    hits, alarms = total(acted_on & positive), total(acted_on)
    mistakes = costs.false_positive * (alarms - hits) + costs.false_negative * (positives - hits)
    surprise = -np.where(positive, np.log(clipped), np.log1p(-clipped))
    parts: dict[str, Callable[[], tuple[Floats, Floats]]] = {
        "base_rate": lambda: (positives, rows),
        "mean_score": lambda: (total(score), rows),
        "brier": lambda: (total((score - positive) ** 2), rows),
        "log_loss": lambda: (total(surprise), rows),
        "cost": lambda: (mistakes, rows),
        "precision": lambda: (hits, alarms),
        "recall": lambda: (hits, positives),
        "ece": lambda: (_calibration_errors(positive, score, day, drawn), rows),
        "roc_auc": lambda: (_ordered_pairs(positive, score, day, drawn), positives * (rows - positives)),
        "pr_auc": lambda: (_precision_steps(positive, score, day, drawn), positives),
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: np.divide(*parts[name]()) for name in names}


def interval(value: float, resampled: Floats, confidence: float) -> Interval | None:
    """Return the two-sided percentile interval; None where too few resamples define the figure."""
    defined = resampled[np.isfinite(resampled)]
    if defined.size < _MIN_DEFINED * resampled.size or defined.size == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def intervals(
    found: Mapping[str, float], resampled: Mapping[str, Floats], confidence: float
) -> dict[str, Interval]:
    """Return the interval of each of the ``found`` metrics that has resamples.

    A sum of absolute gaps grows with noise, so resamples of ``ece`` lie too high: they are moved back until
    their middle is the value found, and never below zero.
    """
    made = {}
    for name, value in found.items():
        if name in resampled:
            samples = resampled[name]
            if name == "ece":
                samples = np.maximum(samples - np.median(samples) + value, 0)
            made[name] = interval(value, samples, confidence)
    return {name: item for name, item in made.items() if item is not None}


def differences(
    found: Mapping[str, float],
    resampled: Mapping[str, Floats],
    other: Mapping[str, float],
    other_resampled: Mapping[str, Floats],
    confidence: float,
) -> dict[str, Interval]:
    """Return the paired interval of (first - other) for each metric that both have on the same draws."""
    made = {
        name: interval(found[name] - other[name], resampled[name] - other_resampled[name], confidence)
        for name in found
        if name in other and name in resampled
    }
    return {name: item for name, item in made.items() if item is not None}


def _per_day(group: npt.NDArray[np.int64], day: npt.NDArray[np.int64], groups: int, days: int) -> Floats:
    """Return how many rows of each (group, day) there are, of shape (groups, days)."""
    return np.bincount(group * days + day, minlength=groups * days).reshape(groups, days).astype(np.float64)


def _tie_groups(score: Floats) -> npt.NDArray[np.int64]:
    """Return the rank of each ascending score, equal scores sharing one."""
    return np.cumsum(np.diff(score, prepend=score[:1]) > 0)


def _ordered_pairs(
    positive: npt.NDArray[np.bool_], score: Floats, day: npt.NDArray[np.int64], drawn: Floats
) -> Floats:
    """Return how many (positive, negative) pairs of each resample are in order, ties counting half.

    With w the draws and U[d, e] the ordered pairs of positives of day d and negatives of day e, this is
    w U w: the Mann-Whitney statistic of weighted rows, without sorting them again.
    """
    days = drawn.shape[1]
    order = np.argsort(score, kind="stable")
    group, positive, day = _tie_groups(score[order]), positive[order], day[order]
    pairs, below = np.zeros((days, days)), np.zeros(days)
    for first in range(0, int(group[-1]) + 1 if group.size else 0, _GROUPS):
        part = slice(*np.searchsorted(group, [first, first + _GROUPS]))
        inside, is_positive, of_day = group[part] - first, positive[part], day[part]
        groups = int(inside[-1]) + 1
        ups = _per_day(inside[is_positive], of_day[is_positive], groups, days)
        downs = _per_day(inside[~is_positive], of_day[~is_positive], groups, days)
        reached = below + np.cumsum(downs, axis=0)
        # Halves of whole numbers: exact, however a threaded product adds them up.
        pairs += ups.T @ (reached - downs / 2)
        below = reached[-1]
    return np.asarray(((drawn @ pairs) * drawn).sum(axis=1))


def _precision_steps(
    positive: npt.NDArray[np.bool_], score: Floats, day: npt.NDArray[np.int64], drawn: Floats
) -> Floats:
    """Return the sum over positives of the precision at their score, which average precision divides."""
    days = drawn.shape[1]
    order = np.argsort(-score, kind="stable")
    group, positive, day = _tie_groups(-score[order]), positive[order], day[order]
    summed = np.zeros(drawn.shape[0])
    hits_before, acted_before = np.zeros(days), np.zeros(days)
    for first in range(0, int(group[-1]) + 1 if group.size else 0, _GROUPS):
        part = slice(*np.searchsorted(group, [first, first + _GROUPS]))
        inside, is_positive, of_day = group[part] - first, positive[part], day[part]
        groups = int(inside[-1]) + 1
        ups = _per_day(inside[is_positive], of_day[is_positive], groups, days)
        hits = hits_before + np.cumsum(ups, axis=0)
        acted = acted_before + np.cumsum(_per_day(inside, of_day, groups, days), axis=0)
        # Only scores that positives have add to recall.
        step = ups.any(axis=1)
        for block in range(0, drawn.shape[0], _BLOCK):
            weights = drawn[block : block + _BLOCK]
            precision = (weights @ hits[step].T) / np.maximum(weights @ acted[step].T, 1)
            summed[block : block + _BLOCK] += (precision * (weights @ ups[step].T)).sum(axis=1)
        hits_before, acted_before = hits[-1], acted[-1]
    return summed


def _calibration_errors(
    positive: npt.NDArray[np.bool_], score: Floats, day: npt.NDArray[np.int64], drawn: Floats
) -> Floats:
    """Return the sum over equal-mass bins of |scores - positives|, which the rows divide."""
    summed = np.zeros(drawn.shape[0])
    gap = score - positive
    for part in np.array_split(np.argsort(score, kind="stable"), ECE_BINS):
        per_day = np.bincount(day[part], weights=gap[part], minlength=drawn.shape[1])
        summed += np.abs((drawn * per_day).sum(axis=1))
    return summed
