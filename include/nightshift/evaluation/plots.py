"""Models in one picture each: ROC, precision and recall, calibration, and how trainers did over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nightshift.metrics import calibration_curve
from nightshift.training.plots import MUTED, PALETTE, new_figure

Scores = Mapping[str, npt.NDArray[np.float64]]


def roc_figure(label: npt.NDArray[np.float32], scores: Scores, title: str) -> Figure:
    """Draw true against false positive rate for each of ``scores`` (name: probabilities)."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = new_figure(title)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="chance")
    for (name, score), colour in zip(scores.items(), PALETTE, strict=False):
        fpr, tpr, _ = roc_curve(label, score)
        axes.plot(fpr, tpr, color=colour, linewidth=1.8, label=f"{name}: {roc_auc_score(label, score):.3f}")
    _finish(axes, "false positive rate", "true positive rate", "lower right")
    return figure


def precision_recall_figure(label: npt.NDArray[np.float32], scores: Scores, title: str) -> Figure:
    """Draw precision against recall; the dashed line is the share of positives."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = new_figure(title)
    base = float(np.mean(label))
    axes.axhline(base, color=MUTED, linestyle="--", linewidth=1, label=f"base rate: {base:.3f}")
    for (name, score), colour in zip(scores.items(), PALETTE, strict=False):
        precision, recall, _ = precision_recall_curve(label, score)
        found = average_precision_score(label, score)
        axes.plot(recall, precision, color=colour, linewidth=1.8, label=f"{name}: {found:.3f}")
    _finish(axes, "recall", "precision", "upper right")
    axes.set_ylim(0, 1.02)
    return figure


def calibration_figure(label: npt.NDArray[np.float32], scores: Scores, title: str) -> Figure:
    """Draw observed rate against mean score over bins of equally many rows."""
    figure, axes = new_figure(title)
    top = 0.0
    for (name, score), colour in zip(scores.items(), PALETTE, strict=False):
        predicted, observed, _ = calibration_curve(label, score)
        axes.plot(predicted, observed, marker="o", markersize=4, color=colour, linewidth=1.6, label=name)
        top = max(top, float(predicted.max()), float(observed.max()))
    axes.plot([0, top], [0, top], color=MUTED, linestyle="--", linewidth=1, label="perfect", zorder=0)
    _finish(axes, "mean score", "observed rate", "upper left")
    return figure


def backtest_figure(
    cutoffs: Sequence[date], values: Mapping[str, Sequence[float | None]], metric: str, title: str
) -> Figure:
    """Draw ``metric`` over cut-offs, a line for each trainer; None where the rows did not define it."""
    figure, axes = new_figure(title, height=4)
    place = range(len(cutoffs))
    for (name, of_trainer), colour in zip(values.items(), PALETTE, strict=False):
        drawn = [np.nan if value is None else value for value in of_trainer]
        axes.plot(place, drawn, marker="o", markersize=5, color=colour, linewidth=1.8, label=name)
    axes.set_xticks(place, [cutoff.isoformat() for cutoff in cutoffs])
    _finish(axes, "cut-off", metric.replace("_", " "), "best")
    return figure


def _finish(
    axes: Axes, x: str, y: str, legend: Literal["lower right", "upper right", "upper left", "best"]
) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=9, loc=legend)
