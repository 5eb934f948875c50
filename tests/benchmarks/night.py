"""One night through a running Airflow, against the same stage functions called in one process.

Both sides start from the same bootstrapped state, each in a state folder of its own, and run the same
nights; a night counts only when both published the same content.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from nightshift.services import stack
from nightshift.services.airflow_api import AirflowApi, DagRun
from nightshift.services.processes import free_port
from nightshift.settings import settings
from nightshift.usecase import load_usecase

from .harness import Comparison, DifferentResultsError, Timed, environment
from .one_process import published

_BOOTSTRAPPED = date(2013, 2, 28)
_PATIENCE_SECONDS = 600.0
# The last DAG of a night's chain, and those before it.
_CHAIN = ("ingest", "features", "score", "monitor")


@contextmanager
def comparison(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Bootstrap two months (six weeks when ``quick``), start Airflow, and compare the nights after them."""
    through = date(2013, 2, 11) if quick else _BOOTSTRAPPED
    project = _project(folder / "project")
    through_airflow = folder / "through_airflow"
    in_one_process = folder / "in_one_process"
    through_airflow.mkdir()
    common = {"NIGHTSHIFT_PROJECT": str(project), "NIGHTSHIFT_LAKE": "", "NIGHTSHIFT_POSTGRES_URL": ""}
    with environment(through_airflow, **common, **_ports()):
        _one_process("bootstrap", through.isoformat())
        # Before any service writes: MLflow's artifacts stay where they are, both sides read them there.
        shutil.copytree(through_airflow, in_one_process)
        stack.up()
        try:
            with AirflowApi() as api, _Worker(in_one_process, common) as worker:
                uc = load_usecase("flight_delays")
                api.wait_for_dags(f"{uc.name}.{name}" for name in _CHAIN)

                def ours(number: int) -> Timed:
                    night = through + timedelta(days=1 + number)
                    seconds = _through_airflow(api, uc.name, night)
                    return Timed(seconds, published(uc, night))

                def other(number: int) -> Timed:
                    return worker.run(through + timedelta(days=1 + number))

                yield Comparison(
                    name="one night through Airflow",
                    against="the same stage functions in one process",
                    measure="overhead",
                    at_most=45.0,
                    ours=ours,
                    other=other,
                    check=_check,
                    note=f"The nights after {through}: ingest, features, score, monitor, with all validation "
                    "and publishing, no training. Ours: from the trigger of ingest to the end of monitor, by "
                    "Airflow's own records. Other: the functions of nightshift.stages in a warm process.",
                )
        finally:
            stack.down()


def _through_airflow(api: AirflowApi, usecase: str, night: date) -> float:
    """Run one night down the chain and return seconds from the trigger to the end of the last run."""
    key = night.isoformat()
    api.trigger(f"{usecase}.ingest", partition_key=key)
    runs: dict[str, DagRun] = {}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (len(runs) == len(_CHAIN) and runs[_CHAIN[-1]].finished):
        if time.monotonic() > deadline:
            raise TimeoutError(f"night {key} is at {[(name, run.state) for name, run in runs.items()]}")
        time.sleep(0.5)
        runs = {name: run for name in _CHAIN for run in api.runs(f"{usecase}.{name}", partition_key=key)[:1]}
        failed = [run.dag_id for run in runs.values() if run.state == "failed"]
        if failed:
            raise RuntimeError(f"night {key}: {', '.join(failed)} failed\n{_log_of_failure(api, runs)}")
    return _seconds_between(runs[_CHAIN[0]].queued_at, runs[_CHAIN[-1]].ended_at)


def _log_of_failure(api: AirflowApi, runs: dict[str, DagRun]) -> str:
    failed = [task for run in runs.values() for task in api.tasks(run) if task.state == "failed"]
    return "\n".join(f"{task.dag_id} {task.label}\n{api.log(task)}" for task in failed)


def _seconds_between(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None:
        raise RuntimeError("Airflow recorded no queueing or no end of a finished run")
    return (end - start).total_seconds()


def _check(ours: Any, other: Any) -> None:
    if ours != other or not all(ours.values()):
        raise DifferentResultsError(f"published through Airflow: {ours}\npublished in one process: {other}")


def _project(copy: Path) -> Path:
    """Copy the checkout's folders with retraining turned off, so that every night does the same work."""
    for name in ("dags", "plugins", "dbt_project", "expectations", "include/usecases"):
        ignored = shutil.ignore_patterns("__pycache__", "target", "logs")
        if (settings().project / name).exists():
            shutil.copytree(settings().project / name, copy / name, ignore=ignored)
    shutil.copy(settings().project / "constraints.txt", copy)
    for file in copy.glob("include/usecases/*/usecase.yml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        content["retrain"]["enabled"] = False
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return copy


def _ports() -> dict[str, str]:
    return {f"NIGHTSHIFT_{name}_PORT": str(free_port()) for name in ("AIRFLOW", "MLFLOW", "POSTGRES")}


def _one_process(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tests.benchmarks.one_process", *arguments], check=True)


class _Worker:
    """The process that runs nights on its own state folder, one after another, imports kept warm."""

    def __init__(self, home: Path, common: dict[str, str]) -> None:
        self._home, self._common = home, common

    def __enter__(self) -> _Worker:
        with environment(self._home, **self._common, **_ports()):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.one_process", "nights"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        # The end of its input tells it to stop its database and end.
        self._process.communicate()

    def run(self, night: date) -> Timed:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{night}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs nights ended in the night of {night}")
        return Timed(**json.loads(answer))
