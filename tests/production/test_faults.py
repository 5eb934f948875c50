"""Faults of a running stack, each in the middle of a night that must end as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import psutil
import pytest
import redis
from tests.production.conftest import Nights
from tests.stacks import Stack

from nightshift.secrets import secrets_folder
from nightshift.services import processes, production
from nightshift.services.airflow_api import DagRun, TaskInstance
from nightshift.services.compose import ComposeService


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
    began = nights.stack.ingest([night], wait=False)
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
        began = stack.ingest([night], wait=False)
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
    """Its supervisor is frozen, it is given to another worker, and then it wakes up and writes too."""
    with night_with(nights, "score") as (_, run, task):
        frozen = [
            process
            for name in processes_of("worker")
            for process in family(name)
            if task.task_id in " ".join(process.cmdline()) or "supervisor" in process.name()
        ]
        assert frozen
        for process in frozen:
            os.kill(process.pid, signal.SIGSTOP)
        nights.stack.wait(
            lambda: any(
                again.task_id == task.task_id and again.try_number > task.try_number
                for again in nights.stack.api.tasks(run)
            ),
            "another try",
        )
        for process in frozen:
            os.kill(process.pid, signal.SIGCONT)


def processes_of(name: str) -> list[str]:
    return production.names(service(name))
