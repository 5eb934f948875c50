"""A whole Nightshift of the tests' own: a copy of the project, empty state, free ports, real services."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.servers import Hook, serving

from nightshift.cli.status import of_usecase
from nightshift.services import airflow, processes, stack
from nightshift.services.airflow_api import AirflowApi, DagRun
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase

CHAIN = ("ingest", "features", "score", "monitor")
COPIED = ("dags", "plugins", "dbt_project", "expectations", "include")
HISTORY = (date(2013, 1, 1), date(2013, 3, 10))


@dataclass
class Stack:
    """A running Nightshift."""

    api: AirflowApi
    uc: UseCase
    home: Path

    def dag(self, name: str) -> str:
        return f"{self.uc.name}.{name}"

    def status(self) -> dict[str, Any]:
        return of_usecase(self.uc)

    def run(self, name: str, conf: dict[str, Any], state: str = "success") -> DagRun:
        """Trigger a DAG, wait for its end, and check the state Airflow gives it."""
        run = self.api.wait_for_run(self.api.trigger(self.dag(name), conf))
        assert run.state == state, self.story(run)
        return run

    def ingest(self, nights: Sequence[date], *, backwards: bool = False) -> datetime:
        """Backfill nights of ``ingest`` as an operator would; return, once done, the time before that."""
        since = datetime.now(UTC)
        first, last = (
            datetime.combine(day, datetime.min.time(), tzinfo=UTC) for day in (nights[0], nights[-1])
        )
        self.api.backfill(self.dag("ingest"), first, last + timedelta(days=1), backwards=backwards)
        for night in nights:
            self.wait(lambda night=night: self.ended("ingest", night, since), f"ingest of {night}")
        return since

    def ended(self, name: str, night: date, since: datetime) -> bool:
        """Tell whether a run of the night has succeeded after ``since``; fail when it failed."""
        runs = self.api.runs(self.dag(name), partition_key=night.isoformat())
        for run in runs:
            if run.ended_at is not None and run.ended_at > since and run.finished:
                assert run.state == "success", self.story(run)
                return True
        return False

    def finish(self, night: date, since: datetime) -> None:
        """Wait until every DAG of the night's chain has succeeded after ``since``."""
        for name in CHAIN:
            self.wait(lambda name=name: self.ended(name, night, since), f"{name} of {night}")

    def wait(self, condition: Any, what: str, seconds: float = 600) -> None:
        """Return when ``condition`` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come about in {seconds:.0f} s")
            time.sleep(0.5)

    def failures(self, run: DagRun) -> str:
        """Return the logs of the tasks of a run that failed by themselves."""
        failed = [task for task in self.api.tasks(run) if task.state == "failed"]
        return "\n".join(f"{task.label}: {self.api.log(task, 60)}" for task in failed)

    def story(self, run: DagRun) -> str:
        return f"{run.dag_id} {run.run_id} is {run.state}\n{self.failures(run)}"


def token() -> str:
    """Log in as other programs do."""
    answer = httpx.post(
        f"{airflow.address()}/auth/token",
        json={"username": airflow.ADMIN, "password": airflow.admin_password()},
        timeout=30,
        trust_env=False,
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])


@pytest.fixture(scope="package")
def hook() -> Iterator[Hook]:
    """A web server that all alerts of ``running`` are posted to."""
    with serving(Hook()) as server:
        yield server


@pytest.fixture(scope="package")
def running(hook: Hook) -> Iterator[Stack]:
    """Start everything once for all end-to-end tests, and stop it after the last: others use the checkout.

    The retrain policy is off, so that results depend on the data alone. The gate asks less: what is learned
    from ten weeks of winter does not beat the baseline, and takes a carrier for late as such. A run is late
    after a minute. The state is not under pytest's own folder: as root, PostgreSQL runs as another user, who
    may not enter it.
    """
    project = settings().project
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-e2e-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        copy, home = Path(folder) / "project", Path(folder) / "state"
        for name in COPIED:
            if (project / name).exists():
                shutil.copytree(
                    project / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "target")
                )
        usecase = copy / "include" / "usecases" / "flight_delays" / "usecase.yml"
        content = yaml.safe_load(usecase.read_text())
        content["retrain"]["enabled"] = False
        content["training"]["baseline"] = None
        content["gate"]["fairness"] = {}
        content["schedule"]["sla_minutes"] = 1
        content["alerts"] = {
            "notifiers": {"tickets": {"kind": "webhook", "connection": "tickets"}},
            "routes": [{"to": ["log", "tickets"]}],
        }
        usecase.write_text(yaml.safe_dump(content))
        patch.setenv("NIGHTSHIFT_HOME", str(home))
        patch.setenv("NIGHTSHIFT_PROJECT", str(copy))
        patch.setenv("NIGHTSHIFT_RETRY_SECONDS", "3")
        patch.setenv("AIRFLOW_CONN_TICKETS", json.dumps({"conn_type": "http", "host": hook.url}))
        for name in ("AIRFLOW", "MLFLOW", "POSTGRES"):
            patch.setenv(f"NIGHTSHIFT_{name}_PORT", str(processes.free_port()))
        settings.cache_clear()
        try:
            stack.up()
            uc = load_usecase("flight_delays")
            with AirflowApi() as api:
                api.wait_for_dags(f"{uc.name}.{name}" for name in (*CHAIN, "bootstrap", "watch", "maintain"))
                yield Stack(api, uc, home)
        finally:
            stack.down()
            settings.cache_clear()


@pytest.fixture(scope="package")
def bootstrapped(running: Stack) -> Stack:
    """The stack with ten weeks of history and a first champion."""
    running.run("bootstrap", {"start": HISTORY[0].isoformat(), "end": HISTORY[1].isoformat()})
    return running
