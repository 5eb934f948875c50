"""Faults of a running stack, each in the middle of a night that must end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psutil
import pytest
import redis

from nightshift.registry import deployments
from nightshift.secrets import secrets_folder
from nightshift.services import processes, production
from nightshift.services.airflow_api import ApiError, DagRun, TaskInstance
from nightshift.services.compose import ComposeService
from nightshift.settings import settings
from tests.faults import RecordFault
from tests.production.conftest import Nights
from tests.stacks import CHAIN, Stack


def service(name: str) -> ComposeService:
    return next(found for found in production.services() if found.name == name)


def family(name: str) -> list[psutil.Process]:
    """Return the process that is kept running as ``name``, with all that it has started; not the keeper."""
    running = processes.alive(name)
    assert running
    found = psutil.Process(running.pid).children(recursive=True)
    assert found, f"{name} has no process"
    return found


def each(found: list[psutil.Process], act: Callable[[psutil.Process], object]) -> None:
    """Do something to processes, of which some may have ended meanwhile."""
    for process in found:
        with suppress(psutil.NoSuchProcess):
            act(process)


def kill(name: str) -> None:
    """Kill a service with all that it has started, as a lost machine would be; it is started again."""
    each(family(name), psutil.Process.kill)


def running_task(stack: Stack, dag: str, night: date) -> tuple[DagRun, TaskInstance]:
    """Return a task of the night's run of ``dag`` that runs right now."""
    found: list[tuple[DagRun, TaskInstance]] = []

    def runs() -> bool:
        for run in stack.api.runs(stack.dag(dag), partition_key=night.isoformat()):
            found.extend((run, task) for task in stack.api.tasks(run) if task.state == "running")
        return bool(found)

    stack.wait(runs, f"a running task of {dag} for {night}")
    return found[0]


def happened(stack: Stack, night: date) -> str:
    """Tell how often tasks of the night were tried again."""
    again = [
        task
        for name in CHAIN
        for run in stack.api.runs(stack.dag(name), partition_key=night.isoformat())
        for task in stack.api.tasks(run)
        if task.try_number > 1
    ]
    return f"the night ended; {len(again)} of its tasks were tried again"


@pytest.fixture
def night_with(nights: Nights, record_fault: RecordFault) -> Any:
    """Return a block in which a night meets a fault while a task of a DAG runs, and ends as if it had not."""

    @contextmanager
    def meets(dag: str, fault: str, done: str) -> Iterator[tuple[DagRun, TaskInstance]]:
        night = nights.next()
        began = nights.begin(night)
        yield running_task(nights.stack, dag, night)
        nights.stack.finish(night, began)
        nights.compare()
        record_fault(fault, done, happened(nights.stack, night))

    return meets


@pytest.mark.parametrize("dag", ["ingest", "features", "score"])
def test_killed_workers(night_with: Any, dag: str) -> None:
    done = f"all of `default` killed with what they had started, while a task of `{dag}` ran"
    with night_with(dag, "workers killed", done):
        for name in processes_of("worker"):
            kill(name)


def test_a_killed_scheduler(night_with: Any) -> None:
    with night_with("features", "scheduler killed", "while a task of `features` ran"):
        kill("scheduler")


def test_postgres_restarted(night_with: Any) -> None:
    done = "the server of Airflow, MLflow and the warehouse, while a task of `features` ran"
    with night_with("features", "PostgreSQL restarted", done):
        processes.stop(["postgres"])
        production.start(service("postgres"))


def test_a_flushed_queue(nights: Nights, record_fault: RecordFault) -> None:
    """Tasks that wait in Redis are forgotten by it, with nobody to take them before."""
    stack, night = nights.stack, nights.next()
    workers = processes_of("worker")
    for name in workers:
        each(family(name), psutil.Process.suspend)
    try:
        began = nights.begin(night)
        broker = (secrets_folder() / "run" / "airflow_broker").read_text(encoding="ascii")
        with redis.Redis.from_url(broker) as queue:
            stack.wait(lambda: queue.llen("default") > 0, "a message in the queue")
            queue.flushall()
    finally:
        for name in workers:
            each(family(name), psutil.Process.resume)
    stack.finish(night, began)
    nights.compare()
    record_fault("Redis flushed", "with a task in the queue", happened(stack, night))


def test_a_task_that_was_taken_for_dead_and_goes_on(nights: Nights, night_with: Any) -> None:
    """Its worker freezes, the task is given to the other one, and then the first wakes up and writes too."""
    done = "a worker frozen until another had ended its task of `score`, then woken"
    with night_with("score", "zombie task", done) as (run, _):
        name = next((name for name in processes_of("worker") if works(name)), "")
        assert name, "the task ended before its worker could be frozen"
        frozen = family(name)
        each(frozen, psutil.Process.suspend)
        try:
            nights.stack.wait(
                lambda: any(task.try_number > 1 for task in nights.stack.api.tasks(run)), "another try"
            )
            nights.stack.wait(lambda: nights.stack.api.run(run.dag_id, run.run_id).finished, "its end")
        finally:
            each(frozen, psutil.Process.resume)
        nights.stack.wait(lambda: not works(name), "the end of the first try")


def test_two_operators_start_the_same_backfill(nights: Nights, record_fault: RecordFault) -> None:
    """In the same moment both may be taken; a later one is refused. Both may rebuild the night at once."""
    stack, night = nights.stack, nights.next()
    began = datetime.now(UTC)
    when = datetime.combine(night, datetime.min.time(), tzinfo=UTC)

    def start(_: int) -> bool:
        try:
            stack.api.backfill(stack.dag("ingest"), when, when + timedelta(days=1), patience=0)
        except ApiError as error:
            # None: refused by us, who ask first; else by Airflow.
            if error.status not in (None, 409):
                raise
            return False
        return True

    with ThreadPoolExecutor(2) as operators:
        # Airflow looks for another backfill and then makes one: two that look at once are both taken.
        taken = sum(operators.map(start, range(2)))
    assert taken >= 1
    assert not start(2), "one that comes later is refused"
    stack.finish(night, began)

    def runs() -> list[DagRun]:
        return stack.api.runs(stack.dag("ingest"), partition_key=night.isoformat())

    stack.wait(lambda: all(run.finished for run in runs()), "the end of every run")
    assert {run.state for run in runs()} == {"success"}
    conf = {
        "start": night.isoformat(),
        "end": night.isoformat(),
        "stages": ["raw", "features", "predictions"],
    }
    with ThreadPoolExecutor(2) as operators:
        list(operators.map(lambda _: stack.run("rebuild", conf), range(2)))
    nights.compare()
    done = "the same backfill twice at once, then the same rebuild twice at once"
    record_fault("two operators", done, f"{taken} of them ran, a third was refused; both rebuilds ended")


def test_an_upgrade_in_the_middle_of_a_night(night_with: Any) -> None:
    """DAG files change, every service is started anew, and workers let their tasks end first."""
    done = "other DAG files, every service of Airflow started anew, while a task of `features` ran"
    servers = ("api-server", "scheduler", "dag-processor", "triggerer")
    with night_with("features", "upgrade", done):
        for file in (settings().project / "dags").glob("*.py"):
            file.write_text(f"{file.read_text()}\n# of the next release\n")
        old = [main(name) for name in (*servers, *processes_of("worker"))]
        each(old, psutil.Process.terminate)
        # Those who ask meanwhile are told that nobody answers; workers end when their tasks do.
        psutil.wait_procs(old[: len(servers)], timeout=120)
        production.wait_ready([service(name) for name in servers])
    for name in processes_of("worker"):
        assert "ended with 0;" in processes.log_file(name).read_text(), "a worker was not stopped warmly"


def test_mlflow_down_while_a_training_ends(nights: Nights, record_fault: RecordFault) -> None:
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
    done = "stopped while a candidate was trained, started again once a task had failed for it"
    record_fault("MLflow down", done, "the training ended in one promotion, with the same model")


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
    titles: list[str] = []
    each(family(name), lambda process: titles.append(" ".join(process.cmdline())))
    return any("airflow worker" in title for title in titles)


def processes_of(name: str) -> list[str]:
    return production.names(service(name))
