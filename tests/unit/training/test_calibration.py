"""Calibration mends probabilities and never their order; the threshold follows from the costs."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.metrics import expected_calibration_error
from nightshift.training.calibration import fit_calibration, threshold_of
from nightshift.usecase import Costs

RANDOM = np.random.default_rng(11)
TRUTH = RANDOM.beta(1.5, 4, 20_000)
LABEL = (RANDOM.random(20_000) < TRUTH).astype(np.float32)


@pytest.mark.parametrize(
    "distorted", [TRUTH**2, np.sqrt(TRUTH), TRUTH / 3, 1 / (1 + ((1 - TRUTH) / TRUTH) ** 3)]
)
def test_it_mends_a_distorted_forecast(distorted: np.ndarray) -> None:
    mended = fit_calibration(LABEL, distorted).apply(distorted)
    assert expected_calibration_error(LABEL, mended) < 0.5 * expected_calibration_error(LABEL, distorted)
    assert expected_calibration_error(LABEL, mended) < 0.02


def test_it_leaves_a_calibrated_forecast_alone() -> None:
    assert np.abs(fit_calibration(LABEL, TRUTH).apply(TRUTH) - TRUTH).max() < 0.03


@pytest.mark.parametrize("raw", [TRUTH, 1 - TRUTH, RANDOM.random(20_000)])
def test_order_is_kept_even_for_a_useless_model(raw: np.ndarray) -> None:
    grid = np.sort(RANDOM.random(5000))
    assert (np.diff(fit_calibration(LABEL, raw).apply(grid)) > 0).all()


def test_certainty_stays_a_probability() -> None:
    mended = fit_calibration(LABEL, TRUTH).apply(np.array([0.0, 1.0]))
    assert 0 < mended[0] < mended[1] < 1


def test_the_threshold_is_the_cheapest_one() -> None:
    costs = Costs(false_positive=1, false_negative=3)
    assert threshold_of(costs) == 0.25

    def cost(threshold: float) -> float:
        acted = threshold <= TRUTH
        return float(np.mean(acted * (1 - LABEL) * 1 + ~acted * LABEL * 3))

    # On 20,000 calibrated scores no threshold is noticeably cheaper than the one from the formula.
    assert cost(threshold_of(costs)) < min(cost(t) for t in np.linspace(0.05, 0.6, 56)) * 1.01
