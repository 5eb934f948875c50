"""What calibrated scores promise is what comes true on average."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.metrics import forecast_metrics
from nightshift.monitoring.estimates import METRICS, expected_metrics
from nightshift.usecase import Costs

COSTS = Costs(false_positive=1, false_negative=3)


def _scores(rows: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    # Rounded, so that many rows share a score.
    return np.round(1 / (1 + np.exp(-random.normal(-1.2, 1.1, rows))), 2)


def test_the_estimate_is_the_mean_of_what_calibrated_scores_bring() -> None:
    score = _scores(400, 1)
    acted_on = score >= 0.25
    random = np.random.default_rng(2)
    threshold = np.where(acted_on, -np.inf, np.inf)
    drawn = [
        forecast_metrics(random.random(score.size) < score, score, threshold=threshold, costs=COSTS)
        for _ in range(600)
    ]
    estimate = expected_metrics(score, acted_on, COSTS)
    assert set(estimate) == set(METRICS)
    for name, value in estimate.items():
        outcomes = np.array([found[name] for found in drawn])
        assert value == pytest.approx(outcomes.mean(), abs=4 * outcomes.std() / np.sqrt(outcomes.size))


def test_the_estimate_does_not_see_that_the_world_has_changed() -> None:
    score = _scores(4000, 3)
    label = np.random.default_rng(4).random(score.size) < np.random.default_rng(5).permutation(score)
    observed = forecast_metrics(label, score, threshold=0.25, costs=COSTS)
    estimate = expected_metrics(score, score >= 0.25, COSTS)
    assert observed["roc_auc"] == pytest.approx(0.5, abs=0.03)
    assert estimate["roc_auc"] > 0.7


def test_what_scores_do_not_define_is_left_out() -> None:
    assert expected_metrics(np.array([]), np.array([], dtype=bool), COSTS) == {}
    sure = expected_metrics(np.array([0.0, 0.0]), np.array([False, False]), COSTS)
    assert "roc_auc" not in sure
    assert (sure["brier"], sure["cost"], sure["log_loss"]) == (0.0, 0.0, 0.0)
