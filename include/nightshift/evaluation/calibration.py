"""What recalibration, fitted on validation rows, does to the probabilities of rows that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.metrics import calibration_curve, forecast_metrics
from nightshift.registry.model import Model
from nightshift.usecase import UseCase

_SHOWN = ("ece", "log_loss", "brier", "mean_score")


class Bin(BaseModel):
    """One of equally large bins of ascending score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float
    rate: float
    rows: int


class Calibration(BaseModel):
    """ECE (equal-mass bins), log loss, Brier score and mean score, and the reliability curves behind them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: dict[str, float]
    after: dict[str, float]
    curve_before: list[Bin]
    curve: list[Bin]


def calibration(
    uc: UseCase, model: Model, rows: pa.Table, label: npt.NDArray[Any], score: npt.NDArray[np.float64]
) -> Calibration:
    """Hold the model's raw probabilities of ``rows`` beside its calibrated ones, ``score``."""
    raw = model.scorer.probabilities(rows)

    def shown(values: npt.NDArray[np.float64]) -> dict[str, float]:
        found = forecast_metrics(label, values, threshold=model.threshold, costs=uc.costs)
        return {name: found[name] for name in _SHOWN if name in found}

    return Calibration(
        before=shown(raw), after=shown(score), curve_before=_curve(label, raw), curve=_curve(label, score)
    )


def _curve(label: npt.NDArray[Any], score: npt.NDArray[np.float64]) -> list[Bin]:
    return [
        Bin(score=float(predicted), rate=float(observed), rows=int(rows))
        for predicted, observed, rows in zip(*calibration_curve(label, score), strict=True)
    ]
