"""A training killed (SIGKILL) between its promotion and the outcome of its request."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.forked import preload, start

from nightshift import stages
from nightshift.lake import append_log, audit
from nightshift.monitoring.retrain import ask_by_hand
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.records import Decision
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]
NIGHT = date(2013, 1, 20)

preload(
    "nightshift.stages",
    "nightshift.registry.deployments",
    "nightshift.registry.card",
    "nightshift.monitoring.requests",
    "markdown_it",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)


def _promote_until(usecase: str, decision: str, moment: int, told: str) -> None:
    """Promote in this process, killed just before it changes a file for the nth time; 0: it is not."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    changes = 0

    def on_event(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or name in ("os.rename", "os.link", "os.remove"):
            changes += 1
            if changes == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    stages.promote(UseCase.model_validate_json(usecase), NIGHT, json.loads(decision))
    Path(told).write_text(str(changes), encoding="utf-8")


def test_killed_anywhere_its_request_has_one_outcome_and_it_is_the_truth(
    usecase: UseCase, day_of_features: Day, publish_truth: Day, home: Path, tmp_path: Path
) -> None:
    ask_by_hand(usecase, NIGHT, "drill", by="ann")
    for day in days(date(2013, 1, 16), NIGHT - timedelta(days=1)):
        publish_truth(day, day_of_features(day))
    candidate = train(usecase, snapshot(usecase, NIGHT), "xgboost")
    decision = Decision(
        promote=True, candidate=candidate, metrics={"roc_auc": 0.7}, reasons=["good"], rival="1"
    ).model_dump(mode="json")
    stages.begin_training(usecase, NIGHT, "run 1")
    stages.propose(usecase, decision)
    prepared, told = tmp_path / "prepared", tmp_path / "told"
    shutil.copytree(home, prepared)

    def attempt(moment: int) -> None:
        process = start(_promote_until, usecase.model_dump_json(), json.dumps(decision), moment, str(told))
        process.join()
        assert process.exitcode == (-signal.SIGKILL if moment else 0)

    attempt(0)
    changes = int(told.read_text(encoding="utf-8"))
    found = set()
    for moment in range(1, changes + 1):
        shutil.rmtree(home)
        shutil.copytree(prepared, home)
        attempt(moment)
        newest = deployments.newest(usecase)
        promoted = newest is not None and newest.version == "2"
        if moment % 2:
            attempt(0)  # the task is retried, and then the run fails for another reason
            promoted = True
        stages.training_failed(usecase, "run 1", "killed")
        (outcome,) = append_log.read_log(f"retrain_outcomes/{usecase.name}")
        assert (outcome["kind"], outcome["version"]) == (("promoted", "2") if promoted else ("failed", None))
        acts = [(entry.what, entry.subject) for entry in audit.read()]
        assert ("retrain", f"{NIGHT}") in acts
        recorded = acts.count(("promote", "version 2"))
        assert recorded <= 1
        assert recorded or not promoted, "nothing was done that was not recorded before"
        assert audit.verify().problem is None
        found.add((outcome["kind"], bool(moment % 2)))
    assert found == {("promoted", True), ("promoted", False), ("failed", False)}
