"""Fits the map from a model's raw probabilities to calibrated ones, on validation rows only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nightshift.registry.model import BetaCalibration
from nightshift.usecase import Costs

# Far below any slope seen in practice: it only keeps the map increasing when a model is no good.
_MIN_SLOPE = 0.05
_EPSILON = 1e-7


def fit_calibration(label: npt.NDArray[Any], raw: npt.NDArray[np.float64]) -> BetaCalibration:
    """Return the beta calibration of least log loss on ``label`` and ``raw``, both of shape (rows,).

    Slopes are bounded from below, so the result is strictly increasing whatever the data.
    """
    from scipy.optimize import minimize

    clipped = np.clip(raw, _EPSILON, 1 - _EPSILON)
    low, high = np.log(clipped), -np.log1p(-clipped)
    truth = label.astype(np.float64)

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logit = parameters[0] * low + parameters[1] * high + parameters[2]
        # Plain sums, no matrix product: a threaded one may round differently from run to run.
        value = np.mean(np.logaddexp(0, logit) - truth * logit)
        error = 1 / (1 + np.exp(-logit)) - truth
        return float(value), np.array([np.mean(error * low), np.mean(error * high), np.mean(error)])

    found = minimize(
        loss,
        x0=np.array([1.0, 1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(_MIN_SLOPE, None), (_MIN_SLOPE, None), (None, None)],
    )
    return BetaCalibration(
        slope_low=float(found.x[0]), slope_high=float(found.x[1]), intercept=float(found.x[2])
    )


def threshold_of(costs: Costs) -> float:
    """Return the probability from which acting is cheaper: c_fp / (c_fp + c_fn).

    Exact for calibrated probabilities (Elkan 2001, "The Foundations of Cost-Sensitive Learning", eq. 2), and
    steadier than searching the threshold that happened to be cheapest on the validation rows.
    """
    return costs.false_positive / (costs.false_positive + costs.false_negative)
