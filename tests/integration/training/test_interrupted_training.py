"""The whole of a training, killed on its way: one run, one model, and nothing left over."""

from __future__ import annotations

import signal
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests import synthetic
from tests.forked import die_at_step, preload, start

from nightshift.lake.store import open_store
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Candidate
from nightshift.training import progress
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

NIGHT = date(2020, 2, 3)

preload("mlflow", "mlflow.store.tracking.sqlalchemy_store", "nightshift.training.train")


def _usecase(name: str = "synthetic", **changes: Any) -> UseCase:
    training = synthetic.use_case().training.model_dump() | {"checkpoint_seconds": 1e-6} | changes
    return synthetic.use_case(name=name, training=training)


def train_and_be_killed(at_step: int) -> None:
    """Train in this process, which is killed once it has reported a step."""
    die_at_step(at_step)
    uc = _usecase()
    train(uc, snapshot(uc, NIGHT), "trees")


def _runs(uc: UseCase) -> list[Any]:
    return list(tracking.client(uc).search_runs([tracking.setup(uc)]))


def test_it_goes_on_in_its_run_and_leaves_nothing_behind(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uc = _usecase()
    synthetic.publish(uc, synthetic.START, NIGHT)
    for step in (25, 47):
        victim = start(train_and_be_killed, step)
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
    assert open_store().list("checkpoints/")
    [killed] = _runs(uc)
    with caplog.at_level("INFO"):
        candidate = train(uc, snapshot(uc, NIGHT), "trees")
    assert "trees: goes on from a checkpoint" in caplog.text
    assert "trees: 60 of at most 60 steps" in caplog.text
    [run] = _runs(uc)
    assert run.info.run_id == killed.info.run_id == candidate.run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["progress/share"] == 1
    assert run.data.params["class_weight"] == "none"
    assert open_store().list("checkpoints/") == []
    undisturbed = _trained_undisturbed()
    assert candidate.run_id != undisturbed.run_id
    assert candidate.content_hash == undisturbed.content_hash
    assert candidate.metrics == undisturbed.metrics


def _trained_undisturbed() -> Candidate:
    """Train on the same rows as another use case, which finds neither the checkpoints nor the run."""
    other = _usecase("undisturbed")
    synthetic.publish(other, synthetic.START, NIGHT)
    return train(other, snapshot(other, NIGHT), "trees")


def test_what_decides_a_training_names_it(home: Path) -> None:
    uc = _usecase()
    synthetic.publish(uc, synthetic.START, NIGHT)
    taken = snapshot(uc, NIGHT)
    resolved = {"rounds": 60, "device": "cpu"}
    name = progress.training_hash(uc, taken, "xgboost", resolved)
    # Neither the night nor how often checkpoints are written changes the outcome.
    same = _usecase(checkpoint_seconds=30)
    assert progress.training_hash(same, taken, "xgboost", resolved) == name
    others = {
        progress.training_hash(uc, taken, "torch", resolved),
        progress.training_hash(uc, taken, "xgboost", resolved | {"rounds": 61}),
        progress.training_hash(uc, taken, "xgboost", resolved | {"device": "cuda"}),
        progress.training_hash(_usecase(class_weight="balanced"), taken, "xgboost", resolved),
        progress.training_hash(_usecase(seed=8), taken, "xgboost", resolved),
        progress.training_hash(uc, snapshot(uc, date(2020, 2, 2)), "xgboost", resolved),
    }
    assert len(others | {name}) == 7
