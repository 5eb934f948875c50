"""All trainers find the signal, keep to validation, and give the same bytes twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score
from tests import synthetic

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import Kind, scorer_of
from nightshift.training.logistic_trainer import LogisticTrainer
from nightshift.training.torch_trainer import TorchTrainer
from nightshift.training.trainer import Examples, Trainer
from nightshift.training.watch import PrunedError, Unwatched
from nightshift.training.xgboost_trainer import XGBoostTrainer

TRAINERS: dict[Kind, tuple[Trainer, dict[str, Any]]] = {
    "xgboost": (XGBoostTrainer(), {"rounds": 60, "early_stopping_rounds": 10, "min_child_weight": 5}),
    "torch": (
        TorchTrainer(),
        {"hidden": [32], "epochs": 12, "batch_rows": 128, "learning_rate": 3e-3, "dropout": 0.1},
    ),
    "logistic": (LogisticTrainer(), {}),
}


def _examples(first: int, last: int) -> Examples:
    days = [synthetic.START + timedelta(days=i) for i in range(first, last)]
    labels = pa.concat_tables(synthetic.labels_of(day) for day in days)["returned"].fill_null(0)
    return Examples(
        pa.concat_tables(synthetic.features_of(day) for day in days), labels.to_numpy().astype(np.float32)
    )


TRAIN, VALIDATION, TEST = _examples(0, 20), _examples(20, 25), _examples(25, 32)
ENCODER = Encoder.fit(TRAIN.features, synthetic.CATEGORICAL, synthetic.NUMERIC)


@pytest.fixture(params=list(TRAINERS))
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


iterative = pytest.mark.parametrize("kind", ["xgboost", "torch"])
"""Those that approach their best step by step, by chance, and may go past it."""


def test_it_finds_the_signal_and_stops_in_time(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    fit = trainer.fit(TRAIN, VALIDATION, ENCODER, params, 1, watch=Unwatched())
    score = scorer_of(kind, fit.weights, ENCODER).probabilities(TEST.features)
    assert roc_auc_score(TEST.label, score) > 0.75
    kept = scorer_of(kind, fit.weights, ENCODER).probabilities(VALIDATION.features)
    loss = -np.mean(np.where(VALIDATION.label > 0.5, np.log(kept), np.log1p(-kept)))
    assert loss == pytest.approx(min(fit.history["validation_log_loss"]), abs=1e-5)
    assert len(fit.history["train_log_loss"]) == len(fit.history["validation_log_loss"])


@iterative
def test_what_was_learned_by_heart_is_not_kept(kind: Kind) -> None:
    trainer, _ = TRAINERS[kind]
    eager: dict[Kind, dict[str, Any]] = {
        "xgboost": {"rounds": 60, "early_stopping_rounds": 20, "learning_rate": 0.5, "min_child_weight": 1},
        "torch": {
            "hidden": [64, 64],
            "epochs": 20,
            "patience": 6,
            "batch_rows": 64,
            "learning_rate": 0.03,
            "dropout": 0,
        },
    }
    few = Examples(TRAIN.features.slice(0, 300), TRAIN.label[:300])
    fit = trainer.fit(few, VALIDATION, ENCODER, eager[kind], 1, watch=Unwatched())
    by_round = fit.history["validation_log_loss"]
    assert by_round[-1] > min(by_round) + 0.01
    kept = scorer_of(kind, fit.weights, ENCODER).probabilities(VALIDATION.features)
    loss = -np.mean(np.where(VALIDATION.label > 0.5, np.log(kept), np.log1p(-kept)))
    assert loss == pytest.approx(min(by_round), abs=1e-5)


def test_labels_without_signal_are_not_learned(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    shuffled = Examples(TRAIN.features, np.random.default_rng(3).permutation(TRAIN.label))
    fit = trainer.fit(shuffled, VALIDATION, ENCODER, params, 1, watch=Unwatched())
    score = scorer_of(kind, fit.weights, ENCODER).probabilities(TEST.features)
    assert abs(roc_auc_score(TEST.label, score) - 0.5) < 0.12


@iterative
def test_equal_inputs_give_equal_bytes_and_another_seed_does_not(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    few = {"rounds": 8} if kind == "xgboost" else {"epochs": 2}
    weights = [
        trainer.fit(TRAIN, VALIDATION, ENCODER, {**params, **few}, seed, watch=Unwatched()).weights
        for seed in (1, 1, 2)
    ]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_trees_do_not_depend_on_the_number_of_threads() -> None:
    trainer, params = TRAINERS["xgboost"]
    one, three = (
        trainer.fit(
            TRAIN, VALIDATION, ENCODER, {**params, "rounds": 8, "nthread": threads}, 1, watch=Unwatched()
        )
        for threads in (1, 3)
    )
    assert one.weights == three.weights


def test_the_network_leaves_the_process_as_it_found_it() -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TorchTrainer().fit(TRAIN, VALIDATION, ENCODER, {"hidden": [4], "epochs": 1}, 1, watch=Unwatched())
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("trainer", "params"),
    [
        (TorchTrainer(), {"hiden": [4]}),
        (TorchTrainer(), {"dropout": 1.5}),
        (LogisticTrainer(), {"C": 1.0}),
        (XGBoostTrainer(), {"max_depth": -3}),
        (XGBoostTrainer(), {"tree_methode": "hist", "rounds": 2}),
    ],
)
def test_an_unusable_parameter_is_an_error_that_names_it(trainer: Trainer, params: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(params))):
        trainer.fit(TRAIN, VALIDATION, ENCODER, params, 1, watch=Unwatched())


def test_two_processes_train_the_network_that_one_does() -> None:
    # Without dropout, which each process draws for its own rows, they differ by rounding alone.
    params = {"hidden": [8], "epochs": 2, "batch_rows": 301, "dropout": 0.0}
    one, two, again = (
        TorchTrainer().fit(
            TRAIN, VALIDATION, ENCODER, {**params, "processes": processes}, 1, watch=Unwatched()
        )
        for processes in (1, 2, 2)
    )
    assert two.weights == again.weights
    scores = [scorer_of("torch", fit.weights, ENCODER).probabilities(TEST.features) for fit in (one, two)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    np.testing.assert_allclose(one.history["train_log_loss"], two.history["train_log_loss"], atol=1e-5)


def test_the_baseline_reads_missing_numbers_and_unknown_categories() -> None:
    fit = LogisticTrainer().fit(TRAIN, VALIDATION, ENCODER, {}, 1, watch=Unwatched())
    scorer = scorer_of("logistic", fit.weights, ENCODER)
    rows = TEST.features.slice(0, 3)
    place = rows.schema.get_field_index("shop")
    unknown, missing = (
        scorer.probabilities(rows.set_column(place, "shop", pa.array([value] * 3, pa.string())))
        for value in ("z", None)
    )
    np.testing.assert_array_equal(unknown, missing)
    place = rows.schema.get_field_index("demand")
    empty = scorer.probabilities(rows.set_column(place, "demand", pa.nulls(3, pa.float64())))
    assert np.isfinite(empty).all()


class Ledger(Unwatched):
    """Notes what a trainer reports, and may call the training off."""

    def __init__(self, called_off_at: int = 10**9) -> None:
        self.steps: list[tuple[int, int]] = []
        self.called_off_at = called_off_at

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        assert all(np.isfinite(value) for value in metrics.values())
        self.steps.append((step, total))
        if step >= self.called_off_at:
            raise PrunedError


def test_progress_is_told_step_by_step(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    ledger = Ledger()
    trainer.fit(TRAIN, VALIDATION, ENCODER, params, 1, watch=ledger)
    steps = [step for step, _ in ledger.steps]
    assert steps == list(range(1, len(steps) + 1))
    assert len({total for _, total in ledger.steps}) == 1
    assert steps[-1] <= ledger.steps[0][1]


@iterative
def test_a_watcher_may_call_it_off(kind: Kind) -> None:
    trainer, params = TRAINERS[kind]
    ledger = Ledger(called_off_at=4)
    with pytest.raises(PrunedError):
        trainer.fit(TRAIN, VALIDATION, ENCODER, params, 1, watch=ledger)
    assert len(ledger.steps) == 4
