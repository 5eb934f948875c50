"""The metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.metrics import calibration_curve, expected_calibration_error, forecast_metrics
from nightshift.usecase import Costs

COSTS = Costs(false_positive=1, false_negative=3)


def test_every_metric_of_four_rows() -> None:
    found = forecast_metrics(
        np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.1]), threshold=0.5, costs=COSTS
    )
    assert found["rows"] == 4
    assert found["base_rate"] == 0.5
    assert found["mean_score"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert found["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.4, 0.4, 0.9])))
    # One hit, one false alarm, one miss: three of four pairs are in order.
    assert found["cost"] == pytest.approx((1 + 3) / 4)
    assert found["precision"] == 0.5
    assert found["recall"] == 0.5
    assert found["roc_auc"] == pytest.approx(0.75)
    assert found["pr_auc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_score_at_the_threshold_is_acted_on() -> None:
    found = forecast_metrics(np.array([1, 0]), np.array([0.25, 0.2]), threshold=0.25, costs=COSTS)
    assert found["recall"] == 1
    assert found["cost"] == 0


def test_what_rows_do_not_define_is_left_out() -> None:
    nobody = forecast_metrics(np.array([0, 0]), np.array([0.2, 0.3]), threshold=0.5, costs=COSTS)
    assert {"roc_auc", "pr_auc", "recall", "precision"}.isdisjoint(nobody)
    assert nobody["brier"] == pytest.approx((0.04 + 0.09) / 2)
    assert forecast_metrics(np.array([]), np.array([]), threshold=0.5, costs=COSTS) == {"rows": 0.0}


def test_calibration_bins_hold_equally_many_rows_however_skewed_the_scores() -> None:
    score = np.random.default_rng(1).beta(0.3, 8, 3000)
    _, _, rows = calibration_curve((score > 0.5).astype(float), score, bins=10)
    assert rows.tolist() == [300.0] * 10


def test_calibration_error_is_the_gap_between_score_and_rate() -> None:
    score = np.repeat([0.2, 0.6], 100)
    label = np.concatenate([np.arange(100) < 30, np.arange(100) < 60]).astype(float)
    # The lower half is 0.1 off, the upper half is right.
    assert expected_calibration_error(label, score, bins=2) == pytest.approx(0.05)


def test_a_surprise_after_certainty_has_a_finite_log_loss() -> None:
    found = forecast_metrics(np.array([1, 0]), np.array([0.0, 0.0]), threshold=0.5, costs=COSTS)
    assert np.isfinite(found["log_loss"])
