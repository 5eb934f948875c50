"""Weights by class change what a model pays attention to, and never what its probabilities mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightshift.metrics import expected_calibration_error
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import Kind, scorer_of
from nightshift.training.calibration import fit_calibration
from nightshift.training.logistic_trainer import LogisticTrainer
from nightshift.training.torch_trainer import TorchTrainer
from nightshift.training.trainer import Examples, Trainer
from nightshift.training.watch import Unwatched
from nightshift.training.weights import weigh
from nightshift.training.xgboost_trainer import XGBoostTrainer

TRAINERS: dict[Kind, tuple[Trainer, dict[str, Any]]] = {
    "xgboost": (XGBoostTrainer(), {"rounds": 80, "early_stopping_rounds": 10, "max_depth": 3}),
    "torch": (TorchTrainer(), {"hidden": [16], "epochs": 6, "batch_rows": 512, "learning_rate": 1e-2}),
    "logistic": (LogisticTrainer(), {}),
}


def _rare(seed: int, rows: int = 8000) -> Examples:
    """Rows of which about one in twenty is positive."""
    random = np.random.default_rng(seed)
    wind, rain = random.normal(size=(2, rows))
    chance = 1 / (1 + np.exp(-(1.5 * wind + 0.7 * rain - 4)))
    features = pa.table({"city": random.choice(["x", "y"], rows).tolist(), "wind": wind, "rain": rain})
    return Examples(features, (random.random(rows) < chance).astype(np.float32))


ROWS = {"train": _rare(1), "validation": _rare(2)}
TEST = _rare(3)
ENCODER = Encoder.fit(ROWS["train"].features, ("city",), ("wind", "rain"))


@pytest.mark.parametrize("kind", list(TRAINERS))
def test_probabilities_stay_calibrated(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    raw, calibrated = {}, {}
    for rule in ("none", "balanced", 4.0):
        rows = weigh(ROWS, rule)
        fit = trainer.fit(rows["train"], rows["validation"], ENCODER, params, 1, watch=Unwatched())
        scorer = scorer_of(kind, fit.weights, ENCODER)
        calibration = fit_calibration(
            ROWS["validation"].label, scorer.probabilities(ROWS["validation"].features)
        )
        raw[rule] = scorer.probabilities(TEST.features)
        calibrated[rule] = calibration.apply(raw[rule])
    base_rate = TEST.label.mean()
    assert base_rate < 0.08
    # The weighted models themselves see far more positives than there are ...
    assert raw["none"].mean() < 1.5 * base_rate
    assert raw["balanced"].mean() > raw[4.0].mean() > 2 * base_rate
    # ... and calibration, fitted on rows that count once each, knows better.
    for rule, scores in calibrated.items():
        assert scores.mean() == pytest.approx(base_rate, rel=0.2), rule
        assert expected_calibration_error(TEST.label, scores) < 0.015, rule


def test_balanced_gives_both_classes_the_same_weight() -> None:
    train, validation = weigh(ROWS, "balanced").values()
    assert train.weight is not None
    assert validation.weight is not None
    positive = train.label == 1
    assert train.weight[positive].sum() == pytest.approx(train.weight[~positive].sum(), rel=1e-4)
    assert train.weight.sum() == pytest.approx(len(train.label), rel=1e-4)
    # By the classes of the training rows, in validation too.
    assert set(validation.weight) == set(train.weight)


def test_none_leaves_rows_as_they_are() -> None:
    assert weigh(ROWS, "none") == ROWS
