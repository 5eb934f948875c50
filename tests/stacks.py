"""What tests do with a whole Nightshift that runs: trigger, wait, and read what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pytest
import yaml

from nightshift.cli.status import of_usecase
from nightshift.ingestion.land import judge, land_judged
from nightshift.lake import raw, tables
from nightshift.services import airflow
from nightshift.services.airflow_api import AirflowApi, DagRun
from nightshift.sources.base import Extract
from nightshift.usecase import UseCase
from tests.lakes import MEASURED

CHAIN = ("ingest", "features", "score", "monitor")
COPIED = ("dags", "plugins", "dbt_project", "expectations", "include", "docs")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "target", "node_modules")


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


def copy_project(project: Path, copy: Path, change: Callable[[dict[str, Any]], None], *more: str) -> None:
    """Copy what runs of a checkout, and let ``change`` edit its use case."""
    for name in (*COPIED, *more):
        if (project / name).exists():
            shutil.copytree(project / name, copy / name, ignore=NOT_COPIED)
    usecase = copy / "include" / "usecases" / "flight_delays" / "usecase.yml"
    content = yaml.safe_load(usecase.read_text())
    change(content)
    usecase.write_text(yaml.safe_dump(content))


def damage_flights(uc: UseCase, day: date, number: int) -> dict[str, int]:
    """Land a day of flights as if the source had called some of them years late: by id, what it had said."""
    (source,) = uc.sources
    standing = raw.current(uc, source, "flights", day)
    assert standing is not None
    flights = raw.read(standing)
    arrived = flights.filter(pc.is_valid(flights["arrival_delay_minutes"])).slice(0, number)
    wrong = pc.is_in(flights["flight_id"], arrived["flight_id"].combine_chunks())
    delays = pc.if_else(wrong, 99_999, flights["arrival_delay_minutes"])
    place = flights.column_names.index("arrival_delay_minutes")
    extract = Extract(flights.set_column(place, "arrival_delay_minutes", delays), standing.query)
    land_judged(uc, source, "flights", judge(uc, source, "flights", {day: extract}), {day: standing.as_of})
    return dict(
        zip(*(arrived[name].to_pylist() for name in ("flight_id", "arrival_delay_minutes")), strict=True)
    )


def contents(uc: UseCase) -> dict[str, Any]:
    """Return the content hash of every raw partition, and of every partition of every layer."""
    found: dict[str, Any] = {
        f"raw {name}": {day: one.content_hash for day, one in raw.current_many(uc, source, name).items()}
        for source, name, _ in uc.tables()
    }
    return found | {
        layer: {day: one.content_hash for day, one in tables.partition_versions(uc, layer).items()}
        for layer in tables.layers(uc)
        if layer not in MEASURED
    }
