"""A replay runs the loop night by night; killed and started again, it ends where an unbroken one does."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from replaying import LAST, THROUGH, replay_until, use_case
from tests.forked import preload, start
from tests.lakes import MEASURED, environment

from nightshift import databases, nights
from nightshift.cli import replay_report
from nightshift.cli.replay import FROZEN, replay
from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.monitoring import requests
from nightshift.partition import days
from nightshift.registry import deployments

preload("nightshift.cli.replay", "nightshift.stages")

REPLAYED = list(days(THROUGH + timedelta(days=1), LAST))


@contextmanager
def state(home: Path, postgres: str) -> Iterator[None]:
    """Use a state folder whose applications read from ``postgres``, where nothing is served yet."""
    with environment(home, NIGHTSHIFT_POSTGRES_URL=postgres):
        databases.ensure(["serving"])
        with psycopg.connect(databases.url("serving")) as connection:
            connection.execute("drop schema if exists predictions cascade")
        yield


def contents() -> dict[str, Any]:
    """Everything a replay leaves behind, by content."""
    uc = use_case()
    layers = {
        layer: {day: version.content_hash for day, version in tables.partition_versions(uc, layer).items()}
        for layer in tables.layers(uc)
        if layer not in MEASURED
    }
    champions = [(entry.effective_from, entry.model_hash) for entry in deployments.history(uc)]
    asked = [(request.night, request.reasons) for request in requests.read(uc)]
    return {"layers": layers, "champions": champions, "requests": asked}


def versions() -> dict[str, dict[date, tables.PartitionVersion]]:
    uc = use_case()
    return {layer: tables.partition_versions(uc, layer) for layer in tables.layers(uc)}


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Path:
    """A state folder with three weeks of real history and a first champion."""
    home = tmp_path_factory.mktemp("bootstrapped")
    with state(home, postgres):
        nights.bootstrap(use_case(), use_case().history_start, THROUGH)
    return home


@pytest.fixture(scope="module")
def replayed(bootstrapped: Path, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state after an unbroken replay."""
    home = tmp_path_factory.mktemp("replayed") / "state"
    shutil.copytree(bootstrapped, home)
    with state(home, postgres):
        replay(use_case(), THROUGH, LAST, lambda _: None)
    return home


def test_a_replay_runs_every_night_and_retrains(replayed: Path, postgres: str) -> None:
    with state(replayed, postgres):
        found = contents()
    for layer in ("predictions", "monitoring", FROZEN):
        assert list(found["layers"][layer]) == REPLAYED
    assert [night for night, _ in found["requests"]] == [LAST]
    assert [day for day, _ in found["champions"]] == [REPLAYED[0], LAST + timedelta(days=1)]
    assert found["champions"][0][1] != found["champions"][1][1]


def test_a_killed_replay_ends_as_an_unbroken_one(
    bootstrapped: Path, replayed: Path, postgres: str, tmp_path: Path
) -> None:
    home = tmp_path / "state"
    shutil.copytree(bootstrapped, home)
    with state(home, postgres):
        for stage, night in (("check_drift", REPLAYED[0]), ("train_candidate", LAST)):
            process = start(replay_until, stage, night)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert night not in tables.partition_versions(use_case(), FROZEN)
        replay(use_case(), THROUGH, LAST, lambda _: None)
        killed = contents()
    with state(replayed, postgres):
        assert killed == contents()


def test_replaying_again_changes_nothing(replayed: Path, postgres: str) -> None:
    said: list[str] = []
    with state(replayed, postgres):
        before = versions()
        replay(use_case(), THROUGH, LAST, said.append)
        assert versions() == before
    assert said == []


def test_another_bootstrap_in_the_same_state_is_refused(replayed: Path, postgres: str) -> None:
    with state(replayed, postgres), pytest.raises(DataError, match=f"through {THROUGH}, not 2013-01-20"):
        replay(use_case(), THROUGH - timedelta(days=1), LAST, lambda _: None)


def test_both_models_are_compared_on_the_same_rows_and_drawn(
    replayed: Path, postgres: str, tmp_path: Path
) -> None:
    picture = tmp_path / "replay.svg"
    with state(replayed, postgres):
        found = replay_report.compare(use_case(), FROZEN, REPLAYED[0], LAST)
        judged = tables.read_partitions(use_case(), "outcomes", REPLAYED[0], LAST)
    # Until the new champion takes over, the loop is the frozen model.
    assert found.total.rows == judged.num_rows - judged["label"].null_count > 500
    assert found.total.frozen == found.total.loop
    assert 0.5 < found.total.loop.metrics["roc_auc"] < 0.9
    assert found.total.retrains == 1
    replay_report.draw(found, picture)
    first = picture.read_text()
    replay_report.draw(found, picture)
    assert picture.read_text() == first
    for words in ("never trained again", "the loop", "ROC AUC", "Brier score"):
        assert words in first
