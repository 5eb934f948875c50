"""A training killed (SIGKILL) at random, anywhere from its snapshot to its promotion, and run again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests import synthetic
from tests.forked import preload, start

from nightshift import stages
from nightshift.lake.store import open_store
from nightshift.registry import card, deployments, states
from nightshift.registry import mlflow as tracking
from nightshift.settings import settings
from nightshift.usecase import UseCase

FIRST = date(2020, 2, 3)
SECOND = date(2020, 2, 12)
KILLS = 25
# Of what one undisturbed run does. Few enough that most reruns are killed again before they end.
SHARE = 0.4

preload(
    "great_expectations",
    "nightshift.stages",
    "nightshift.evaluation.evaluate",
    "nightshift.evaluation.gate",
    "nightshift.evaluation.report",
    "nightshift.quality.reference",
    "nightshift.quality.snapshot",
    "nightshift.registry.card",
    "nightshift.training.logistic_trainer",
    "nightshift.training.torch_trainer",
    "nightshift.training.train",
    "nightshift.training.xgboost_trainer",
    "torch._dynamo",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)


def _use_case() -> UseCase:
    training = {
        "window_days": 60,
        "validation_days": 7,
        "holdout_days": 7,
        "seed": 7,
        "trainers": {
            "trees": {"kind": "xgboost", "params": {"rounds": 20, "early_stopping_rounds": 10}},
            "network": {
                "kind": "torch",
                "params": {"hidden": [8], "members": 2, "epochs": 2, "batch_rows": 512, "threads": 1},
            },
            "logistic": {"kind": "logistic"},
        },
        # Every step may keep a checkpoint.
        "checkpoint_seconds": 0.001,
    }
    # Whatever comes next is good enough: the second night is promoted, too.
    gate = {"primary": "roc_auc", "min_improvement": -1, "floors": {"roc_auc": 0.6}}
    return synthetic.use_case(training=training, gate=gate, evaluation={"resamples": 100})


def _retrain(uc: UseCase, night: date) -> None:
    """Do one after the other what the tasks of a training do."""
    if stages.superseded(uc, night):
        return
    frozen = stages.take_snapshot(uc, night)
    candidates = [stages.train_candidate(uc, frozen, name) for name in uc.training.trainers]
    decision = stages.propose(uc, stages.gate(uc, stages.evaluate(uc, frozen, candidates)))
    stages.promote(uc, night, decision)


def _retrain_until(night: date, moment: int, told: str) -> None:
    """Retrain in this process, which is killed just before it changes a file or a database for the nth time.

    Args:
        night: Whose training it is.
        moment: Number of the change, from 1; 0: it is not killed.
        told: File that gets the number of changes and the end state, when it was not killed.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    # MLflow hands its setting down to children; a task of its own would not have it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    changes = 0

    def change() -> None:
        nonlocal changes
        changes += 1
        if changes == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_file(name: str, arguments: tuple[Any, ...]) -> None:
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or name in ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"):
            change()

    def on_statement(*of: Any) -> None:
        if not of[2].lstrip().upper().startswith(("SELECT", "PRAGMA")):
            change()

    sys.addaudithook(on_file)
    event.listen(Engine, "before_cursor_execute", on_statement)
    event.listen(Engine, "commit", lambda connection: change())
    _retrain(_use_case(), night)
    ended = {"changes": changes, "state": _end_state(_use_case())}
    Path(told).write_text(json.dumps(ended), encoding="utf-8")


def _end_state(uc: UseCase) -> dict[str, Any]:
    """All that trainings leave, but for clocks and the names that MLflow draws."""
    client = tracking.client(uc)
    drawn = {"usecase", "recorded_at", "run_id", "evaluation_hash"}
    runs = client.search_runs([tracking.setup(uc)])
    registered = client.search_model_versions(f"name = '{uc.name}'")
    measured = ("system/", "latency_", "fit_seconds")
    log = [entry.model_dump(mode="json", exclude=drawn) for entry in states.read(uc)]
    for entry in log:
        entry["reasons"] = [
            reason for reason in entry["reasons"] if not reason.startswith("a single row takes")
        ]
    return {
        "log": log,
        "aliases": client.get_registered_model(uc.name).aliases,
        "tags": {str(version.version): version.tags for version in registered},
        "cards": {str(version.version): _cards(uc, version.run_id) for version in registered},
        "runs": sorted(
            (
                run.info.run_name,
                run.info.status,
                run.data.tags["model_hash"],
                run.data.params,
                {name: value for name, value in run.data.metrics.items() if not name.startswith(measured)},
                sorted(item.path for item in client.list_artifacts(run.info.run_id)),
            )
            for run in runs
        ),
        "lake": open_store().list(""),
        "manifests": {
            key: json.loads(open_store().get(key)) | {"made_at": "then"}
            for key in open_store().list(f"snapshots/{uc.name}/manifests/")
        },
    }


def _cards(uc: UseCase, run_id: str) -> list[str]:
    """A version's cards, without its run's name and that of the evaluation, which has clocks in it."""
    client = tracking.client(uc)
    evaluated = client.get_run(run_id).data.tags["evaluation_hash"]
    texts = [
        Path(client.download_artifacts(run_id, name)).read_text(encoding="utf-8")
        for name in (card.MARKDOWN, card.HTML)
    ]
    assert all(run_id in text and evaluated[:12] in text for text in texts)
    return [text.replace(run_id, "RUN").replace(evaluated[:12], "EVALUATION") for text in texts]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that has the suites of the made-up use case."""
    synthetic.write_suites(tmp_path / "project")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()


def test_killed_at_random_between_snapshot_and_promotion_a_rerun_ends_as_if_undisturbed(
    home: Path, project: None, tmp_path: Path
) -> None:
    uc, told, prepared = _use_case(), tmp_path / "told", tmp_path / "prepared"
    synthetic.publish(uc, synthetic.START, SECOND)

    def attempt(moment: int, night: date = SECOND) -> dict[str, Any]:
        process = start(_retrain_until, night, moment, str(told))
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return {} if process.exitcode else json.loads(told.read_text(encoding="utf-8"))

    assert attempt(0, FIRST)
    before = deployments.newest(uc)
    # MLflow's database names the folder its artifacts lie in: every round happens in that one.
    shutil.copytree(home, prepared)
    undisturbed = attempt(0)
    champion = deployments.newest(uc)
    assert before is not None
    assert champion is not None
    assert (before.trained_night, champion.trained_night) == (FIRST, SECOND)
    chance = random.Random(25)
    kills = 0
    while kills < KILLS:
        shutil.rmtree(home)
        shutil.copytree(prepared, home)
        killed_at: list[int] = []
        while not (ended := attempt(moment := chance.randint(1, int(undisturbed["changes"] * SHARE)))):
            killed_at.append(moment)
            in_force = deployments.newest(uc)
            assert in_force is not None
            assert in_force.model_hash in (before.model_hash, champion.model_hash)
        kills += len(killed_at)
        for what, expected in undisturbed["state"].items():
            assert ended["state"][what] == expected, f"{what}, killed at changes {killed_at}"
