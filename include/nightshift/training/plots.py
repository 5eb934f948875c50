"""Pictures of a training: how it converged, and what the model leans on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nightshift.registry.model import Model

# Distinguishable in print and for colour-blind readers (Okabe and Ito).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MUTED = "#6b7280"
# Enough for a stable mean; a network's contributions cost it two dozen scores a row.
_EXPLAINED_ROWS = 1000
# Features in a picture.
_SHOWN = 25


def new_figure(title: str, height: float = 5.2) -> tuple[Figure, Axes]:
    """Return an empty figure, 7 inches wide, in the style all pictures share. It needs no display."""
    figure = Figure(figsize=(7, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=MUTED)
    return figure, axes


def shap_importance(model: Model, table: pa.Table, seed: int) -> dict[str, float]:
    """Return the mean absolute SHAP value of each feature, largest first, in log-odds before calibration.

    On at most 1000 rows of ``table``; the same rows, model and seed give the same. Lundberg et al. 2020,
    "From local explanations to global understanding with explainable AI for trees".
    """
    rows = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:_EXPLAINED_ROWS])
    values = np.abs(model.contributions(table.take(pa.array(rows)).combine_chunks()).values).mean(axis=0)
    found = zip(model.feature_columns, values.tolist(), strict=True)
    return dict(sorted(found, key=lambda item: -item[1]))


def shap_figure(importance: Mapping[str, float], title: str) -> Figure:
    """Draw the features of the largest SHAP values as bars."""
    top = list(importance.items())[:_SHOWN][::-1]
    figure, axes = new_figure(title, height=1.2 + 0.26 * len(top))
    axes.barh([name for name, _ in top], [value for _, value in top], color=PALETTE[0], height=0.7)
    axes.set_xlabel("mean absolute SHAP value, in log-odds (validation rows)")
    axes.grid(visible=False, axis="y")
    return figure


def history_figure(history: Mapping[str, list[float]], title: str) -> Figure:
    """Draw loss by round or epoch and mark the one that was kept, the best on validation."""
    figure, axes = new_figure(title, height=4)
    for (name, values), colour in zip(history.items(), PALETTE, strict=False):
        axes.plot(range(1, len(values) + 1), values, label=name.replace("_", " "), color=colour)
    best = int(np.argmin(history["validation_log_loss"]))
    axes.axvline(best + 1, color=MUTED, linestyle="--", linewidth=1, label=f"kept: {best + 1}")
    axes.set_xlabel("round")
    axes.set_ylabel("log loss")
    axes.legend(frameon=False)
    return figure
