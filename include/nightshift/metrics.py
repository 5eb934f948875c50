"""The numbers a probability forecast is judged by, the same in training, evaluation and monitoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nightshift.usecase import Costs

Floats = npt.NDArray[np.floating[Any]]

ECE_BINS = 15
# Probabilities of exactly 0 or 1 would make the log loss of one surprise infinite.
EPSILON = 1e-7


def forecast_metrics(
    label: npt.NDArray[Any], score: Floats, *, threshold: float | Floats, costs: Costs
) -> dict[str, float]:
    """Judge ``score`` (probabilities of the positive class) against ``label`` (0 or 1), both of shape (n,).

    Returns:
        ``rows``, ``base_rate``, ``mean_score``, ``brier``, ``log_loss``, ``ece``, ``cost`` (mean cost of a
        row when every row at or above ``threshold``, one for all or one a row, is acted on, in the unit of
        ``costs``), ``precision`` and ``recall`` at ``threshold``, ``roc_auc``, ``pr_auc`` (average
        precision). A metric that the rows do not define (ROC AUC of a single class, anything of no rows) is
        left out.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = np.asarray(label, dtype=np.float64)
    probability = np.asarray(score, dtype=np.float64)
    rows = truth.size
    found: dict[str, float] = {"rows": float(rows)}
    if rows == 0:
        return found
    positive = truth > 0.5
    acted_on = probability >= threshold
    hits = int(np.count_nonzero(acted_on & positive))
    false_alarms = int(np.count_nonzero(acted_on & ~positive))
    misses = int(np.count_nonzero(~acted_on & positive))
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    found |= {
        "base_rate": float(truth.mean()),
        "mean_score": float(probability.mean()),
        "brier": float(np.mean((probability - truth) ** 2)),
        "log_loss": float(-np.mean(np.where(positive, np.log(clipped), np.log1p(-clipped)))),
        "ece": expected_calibration_error(truth, probability),
        "cost": (costs.false_positive * false_alarms + costs.false_negative * misses) / rows,
    }
    if hits + false_alarms:
        found["precision"] = hits / (hits + false_alarms)
    if hits + misses:
        found["recall"] = hits / (hits + misses)
        found["pr_auc"] = float(average_precision_score(positive, probability))
        if hits + misses < rows:
            found["roc_auc"] = float(roc_auc_score(positive, probability))
    return found


def calibration_curve(
    label: npt.NDArray[Any], score: Floats, bins: int = ECE_BINS
) -> tuple[Floats, Floats, Floats]:
    """Return mean score, observed rate and rows of ``bins`` bins that hold equally many rows each.

    Equal mass rather than equal width: with few high scores, equal-width bins put most rows into two bins
    and judge the rest on a handful (Nixon et al. 2019, "Measuring Calibration in Deep Learning").
    """
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    return (
        np.array([np.mean(score[part]) for part in parts]),
        np.array([np.mean(label[part]) for part in parts]),
        np.array([float(part.size) for part in parts]),
    )


def expected_calibration_error(label: npt.NDArray[Any], score: Floats, bins: int = ECE_BINS) -> float:
    """Return the mean gap between score and observed rate over equal-mass bins, weighted by rows."""
    predicted, observed, rows = calibration_curve(label, score, bins)
    return float(np.sum(rows * np.abs(predicted - observed)) / np.sum(rows))
