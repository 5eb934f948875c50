"""The stack of docker/compose.yaml on loopback, and the same nights on the embedded default beside it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift import databases
from nightshift import nights as nightly
from nightshift.services import processes, production
from nightshift.services.airflow_api import AirflowApi
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase
from tests.lakes import environment
from tests.servers import ports_of_seaweedfs
from tests.stacks import CHAIN, Stack, contents, copy_project

HISTORY = (date(2013, 1, 1), date(2013, 2, 14))


def made_for_tests(usecase: dict[str, Any]) -> None:
    """Train one small model, promote it whatever it is worth, and ask for no other."""
    usecase["retrain"]["enabled"] = False
    usecase["training"] |= {
        "baseline": None,
        "search": None,
        "validation_days": 7,
        "holdout_days": 7,
        "trainers": {"xgboost": {"kind": "xgboost", "params": {"rounds": 40, "max_depth": 4}}},
    }
    usecase["gate"] = {"primary": "roc_auc", "min_improvement": -1, "slices": {"max_loss": 1}}
    usecase["evaluation"]["resamples"] = 200


def free_ports() -> dict[str, str]:
    """Return ports for all servers."""
    ports = {
        f"NIGHTSHIFT_{name}_PORT": str(processes.free_port())
        for name in ("AIRFLOW", "MLFLOW", "POSTGRES", "REDIS")
    }
    return {**ports, "NIGHTSHIFT_S3_PORT": str(ports_of_seaweedfs()[0])}


@pytest.fixture(scope="package")
def running() -> Iterator[Stack]:
    """Start everything once. The state is not in pytest's folder, which PostgreSQL's user may not enter."""
    project = settings().project
    subprocess.run(
        [project / "docker" / "install_package.sh", "redis-server", "the queue of the stack"], check=True
    )
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-stack-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        copy = Path(folder) / "project"
        copy_project(project, copy, made_for_tests, "docker")
        patch.setenv("NIGHTSHIFT_HOME", f"{folder}/state")
        patch.setenv("NIGHTSHIFT_PROJECT", str(copy))
        patch.setenv("NIGHTSHIFT_RETRY_SECONDS", "3")
        patch.setenv("TASK_HEARTBEAT_TIMEOUT", "20")
        patch.setenv("TASK_QUEUED_TIMEOUT", "30")
        for name, port in free_ports().items():
            patch.setenv(name, port)
        # The stack drops the first two for good; here all of them come back.
        for name in ("NIGHTSHIFT_POSTGRES_URL", "NIGHTSHIFT_SECRETS", "NIGHTSHIFT_STACK_FILES"):
            patch.delenv(name, raising=False)
        settings.cache_clear()
        production.enter()
        try:
            production.up()
            for name, value in production.command_environment().items():
                if name.startswith(("NIGHTSHIFT_", "AWS_")):
                    patch.setenv(name, value)
            settings.cache_clear()
            uc = load_usecase("flight_delays")
            with AirflowApi() as api:
                api.wait_for_dags(
                    f"{uc.name}.{name}" for name in (*CHAIN, "bootstrap", "rebuild", "maintain")
                )
                yield Stack(api, uc, settings().home)
        finally:
            production.down()
            settings.cache_clear()


@pytest.fixture(scope="package")
def bootstrapped(running: Stack) -> Stack:
    """The stack with six weeks of history and a first champion."""
    running.run("bootstrap", {"start": HISTORY[0].isoformat(), "end": HISTORY[1].isoformat()})
    return running


class Default:
    """The embedded default: a folder and DuckDB, one process, and nothing in the way."""

    def __init__(self, uc: UseCase, home: Path, postgres: str) -> None:
        self._uc = uc
        self._home = home
        others = ("NIGHTSHIFT_LAKE", "NIGHTSHIFT_MLFLOW_URL", "NIGHTSHIFT_SECRETS")
        own = {"NIGHTSHIFT_WAREHOUSE": "duckdb", "NIGHTSHIFT_POSTGRES_URL": postgres}
        self._environment = {**dict.fromkeys(others, ""), **own}
        self._due: list[Callable[[], object]] = [self._bootstrap]

    def run(self, night: date) -> None:
        """Run a night, once it is asked what all have left."""
        self._due.append(lambda: nightly.run(self._uc, night))

    def train(self, night: date) -> None:
        """Train on what is known by ``night``, once it is asked what all have left."""
        self._due.append(lambda: nightly.train(self._uc, night, by="tests"))

    def contents(self) -> dict[str, Any]:
        """Do what is due, and return the contents."""
        with environment(self._home, **self._environment):
            while self._due:
                self._due.pop(0)()
            return contents(self._uc)

    def _bootstrap(self) -> None:
        databases.ensure(["serving"])
        nightly.bootstrap(self._uc, *HISTORY)


@dataclass
class Nights:
    """The story of the stack's nights: each test takes the next one, and compares what all have left."""

    stack: Stack
    default: Default
    number: int = 0

    def next(self) -> date:
        """Return the night that comes next."""
        self.number += 1
        night = HISTORY[1] + timedelta(days=self.number)
        self.default.run(night)
        return night

    def begin(self, night: date) -> datetime:
        """Start a night as its schedule would; return the time before that."""
        since = datetime.now(UTC)
        self.stack.api.trigger(self.stack.dag("ingest"), partition_key=night.isoformat())
        return since

    def compare(self) -> None:
        """Check that the nights have left what they leave on the embedded default."""
        found, expected = contents(self.stack.uc), self.default.contents()
        for layer in ("raw flights", "features", "predictions", "monitoring"):
            assert len(expected[layer]) >= self.number
        assert found == expected


@pytest.fixture(scope="package")
def nights(bootstrapped: Stack, postgres: str) -> Iterator[Nights]:
    """All nights of the tests of this folder."""
    with tempfile.TemporaryDirectory(prefix="nightshift-default-") as folder:
        yield Nights(bootstrapped, Default(bootstrapped.uc, Path(folder) / "state", postgres))
