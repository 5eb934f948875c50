"""Faults of a running stack, each in the middle of a night that must end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import psutil
import pytest
import redis
from tests.production.conftest import Nights
from tests.stacks import Stack

from nightshift.registry import deployments
from nightshift.secrets import secrets_folder
from nightshift.services import processes, production
from nightshift.services.airflow_api import ApiError, DagRun, TaskInstance
from nightshift.services.compose import ComposeService
from nightshift.settings import settings


def service(name: str) -> ComposeService:
    return next(found for found in production.services() if found.name == name)


def family(name: str) -> list[psutil.Process]:
    """Return the process that is kept running as ``name``, with all that it has started; not the keeper."""
    running = processes.alive(name)
    assert running
    return psutil.Process(running.pid).children(recursive=True)


def kill(name: str) -> None:
    """Kill a service with all that it has started, as a lost machine would be; it is started again."""
    for process in family(name):
        process.kill()


def running_task(stack: Stack, dag: str, night: date) -> tuple[DagRun, TaskInstance]:
    """Return a task of the night's run of ``dag`` that runs right now."""
    found: list[tuple[DagRun, TaskInstance]] = []

    def runs() -> bool:
        for run in stack.api.runs(stack.dag(dag), partition_key=night.isoformat()):
            found.extend((run, task) for task in stack.api.tasks(run) if task.state == "running")
        return bool(found)

    stack.wait(runs, f"a running task of {dag} for {night}")
    return found[0]


@contextmanager
def night_with(nights: Nights, dag: str) -> Iterator[tuple[date, DagRun, TaskInstance]]:
    """Start a night, hand over when a task of ``dag`` runs, and then compare what the night has left."""
    night = nights.next()
    began = nights.begin(night)
    run, task = running_task(nights.stack, dag, night)
    yield night, run, task
    nights.stack.finish(night, began)
    nights.compare()


@pytest.mark.parametrize("dag", ["ingest", "features", "score"])
def test_killed_workers(nights: Nights, dag: str) -> None:
    with night_with(nights, dag):
        for name in processes_of("worker"):
            kill(name)


def test_a_killed_scheduler(nights: Nights) -> None:
    with night_with(nights, "features"):
        kill("scheduler")


def test_postgres_restarted(nights: Nights) -> None:
    with night_with(nights, "features"):
        processes.stop(["postgres"])
        production.start(service("postgres"))


def test_a_flushed_queue(nights: Nights) -> None:
    """Tasks that wait in Redis are forgotten by it, with nobody to take them before."""
    stack, night = nights.stack, nights.next()
    workers = processes_of("worker")
    for name in workers:
        for process in family(name):
            process.suspend()
    try:
        began = nights.begin(night)
        broker = (secrets_folder() / "run" / "airflow_broker").read_text(encoding="ascii")
        with redis.Redis.from_url(broker) as queue:
            stack.wait(lambda: queue.llen("default") > 0, "a message in the queue")
            queue.flushall()
    finally:
        for name in workers:
            for process in family(name):
                process.resume()
    stack.finish(night, began)
    nights.compare()


def test_a_task_that_was_taken_for_dead_and_goes_on(nights: Nights) -> None:
    """Its worker freezes, the task is given to the other one, and then the first wakes up and writes too."""
    with night_with(nights, "score") as (_, run, _):
        frozen = family(next(name for name in processes_of("worker") if works(name)))
        for process in frozen:
            process.suspend()
        try:
            nights.stack.wait(
                lambda: any(task.try_number > 1 for task in nights.stack.api.tasks(run)), "another try"
            )
            nights.stack.wait(lambda: nights.stack.api.run(run.dag_id, run.run_id).finished, "its end")
        finally:
            for process in frozen:
                process.resume()


def test_two_operators_start_the_same_backfill(nights: Nights) -> None:
    """One is taken and the other refused; both may rebuild the night afterwards, at once."""
    stack, night = nights.stack, nights.next()
    began = datetime.now(UTC)
    when = datetime.combine(night, datetime.min.time(), tzinfo=UTC)

    def start(_: int) -> bool:
        try:
            stack.api.backfill(stack.dag("ingest"), when, when + timedelta(days=1), patience=0)
        except ApiError:
            return False
        return True

    with ThreadPoolExecutor(2) as operators:
        assert sum(operators.map(start, range(2))) == 1
    stack.finish(night, began)
    conf = {
        "start": night.isoformat(),
        "end": night.isoformat(),
        "stages": ["raw", "features", "predictions"],
    }
    with ThreadPoolExecutor(2) as operators:
        list(operators.map(lambda _: stack.run("rebuild", conf), range(2)))
    nights.compare()


def test_an_upgrade_in_the_middle_of_a_night(nights: Nights) -> None:
    """DAG files change, every service is started anew, and workers let their tasks end first."""
    with night_with(nights, "features"):
        for file in (settings().project / "dags").glob("*.py"):
            file.write_text(f"{file.read_text()}\n# of the next release\n")
        for name in ("api-server", "scheduler", "dag-processor", "triggerer", *processes_of("worker")):
            main(name).terminate()


def test_mlflow_down_while_a_training_ends(nights: Nights) -> None:
    stack, night = nights.stack, nights.next()
    stack.finish(night, nights.begin(night))
    champions = len(deployments.history(stack.uc))
    run = stack.api.trigger(stack.dag("train"), {"partition": night.isoformat()})
    stack.wait(lambda: state(stack, run, "model.train_xgboost") == "running", "the training")
    processes.stop(["mlflow"])
    stack.wait(lambda: "up_for_retry" in states(stack, run).values(), "a task that needs MLflow")
    production.start(service("mlflow"))
    assert stack.api.wait_for_run(run).state == "success", stack.story(run)
    assert len(deployments.history(stack.uc)) == champions + 1
    nights.default.train(night)
    # What it learned is in the scores of the next night.
    after = nights.next()
    stack.finish(after, nights.begin(after))
    nights.compare()


def state(stack: Stack, run: DagRun, task: str) -> str:
    return states(stack, run).get(task, "")


def states(stack: Stack, run: DagRun) -> dict[str, str]:
    return {task.task_id: task.state for task in stack.api.tasks(run)}


def main(name: str) -> psutil.Process:
    """Return the process that is kept running as ``name``."""
    running = processes.alive(name)
    assert running
    return psutil.Process(running.pid).children()[0]


def works(name: str) -> bool:
    """Tell whether a worker has a task in hand."""
    return any("airflow worker" in " ".join(process.cmdline()) for process in family(name))


def processes_of(name: str) -> list[str]:
    return production.names(service(name))
