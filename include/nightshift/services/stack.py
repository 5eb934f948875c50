"""All services together: up, down, and what answers where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nightshift.databases import ensure, url
from nightshift.errors import DataError
from nightshift.secrets import secrets_folder
from nightshift.services import airflow, checks, mlflow, postgres, processes
from nightshift.settings import settings
from nightshift.usecase import load_usecase, usecase_names

# In the order of starting; stopping goes the other way round, the database last.
NAMES = (postgres.NAME, *airflow.COMMANDS, mlflow.NAME)

# The database that applications read predictions from.
SERVING = "serving"


@dataclass(frozen=True)
class State:
    """A service as it is now: ``up`` when its process lives."""

    name: str
    up: bool
    pid: int | None
    log: str


def up(say: Callable[[str], None] = lambda _: None) -> None:
    """Start what does not run yet and return when all of it answers.

    If anything fails, what this call started is stopped again; what ran before is left running.

    Raises:
        DataError: Something in the environment or the state folder is in the way; the message has the cure.
        ServiceError: A service did not start; the message ends with its log.
    """
    checks.require(checks.before_up())
    with processes.exclusive():
        before = {name for name in NAMES if processes.alive(name)}
        for port in checks.ports():
            processes.require_free(port)
        with _undone_on_failure(before):
            # Nothing is said when there is nothing to start.
            everything = before >= set(airflow.COMMANDS)
            _start((lambda _: None) if everything else say, tracking=mlflow.NAME not in before)


def down() -> list[str]:
    """Stop every service with all it started, check that it is gone, and return the names of the stopped.

    Raises:
        ServiceError: Something survived; the message names it.
    """
    if not settings().home.exists():
        return []
    with processes.exclusive():
        return _stop(set(processes.supervised()))


def states() -> list[State]:
    """Return every service as it is now."""
    found = []
    for name in NAMES:
        running = processes.alive(name)
        found.append(
            State(name, bool(running), running.pid if running else None, str(processes.log_file(name)))
        )
    return found


def addresses() -> dict[str, str | None]:
    """Return where Airflow and MLflow are reached; None for what does not run here."""
    tracking = mlflow.address() if processes.alive(mlflow.NAME) else None
    return {
        "airflow": airflow.address() if processes.alive("airflow-api-server") else None,
        "mlflow": settings().mlflow_url or tracking,
    }


def serving_database() -> dict[str, str | int | None] | None:
    """Return how applications reach the predictions; None while the embedded server does not run.

    ``password_file`` holds the password of the embedded server; None where ``NIGHTSHIFT_POSTGRES_URL`` names
    another one, with its password.
    """
    embedded = not settings().postgres_url
    if embedded and not processes.alive(postgres.NAME):
        return None
    parts = urlsplit(url(SERVING))
    return {
        "host": parts.hostname,
        "port": parts.port or 5432,
        "database": SERVING,
        "user": parts.username,
        "password_file": str(secrets_folder().resolve() / "postgres") if embedded else None,
    }


def _start(say: Callable[[str], None], *, tracking: bool) -> None:
    say("PostgreSQL")
    postgres.start()
    # MLflow's own database takes seconds of imports and migrations: beside Airflow's, not after it.
    with ThreadPoolExecutor(1) as aside:
        prepared = aside.submit(_prepare_tracking) if tracking and not settings().mlflow_url else None
        ensure([SERVING])
        say("Airflow's database")
        airflow.prepare()
        say("Airflow")
        airflow.start()
        if prepared:
            prepared.result()
    if not settings().mlflow_url:
        mlflow.start()
    airflow.wait_ready()
    _ensure_pools()
    if not settings().mlflow_url:
        say("MLflow")
        mlflow.wait_ready()


def _prepare_tracking() -> None:
    # Read at import. The migrations of a new database are not news to whoever types `nightshift up`.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from nightshift.registry import mlflow as tracking

    for name in usecase_names():
        try:
            usecase = load_usecase(name)
        except DataError:
            continue  # its DAGs say so; the others still work
        tracking.setup(usecase)


def _ensure_pools() -> None:
    from nightshift.services.airflow_api import AirflowApi

    slots = settings().parallelism
    devices = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    with AirflowApi() as api:
        api.ensure_pool("default_pool", slots, "Tasks that need nothing in particular")
        api.ensure_pool(
            "warehouse",
            1 if settings().warehouse == "duckdb" else slots,
            "Load and dbt. One slot on DuckDB, whose file one process at a time may open",
        )
        api.ensure_pool("gpu", max(1, devices), "One slot a device; without one, training on the CPU")
        api.ensure_pool(
            "search", max(1, slots // 2), "Trials of searches: half of all tasks, so nights go on"
        )


@contextmanager
def _undone_on_failure(before: set[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _stop(set(processes.supervised()) - before)
        raise


def _stop(names: set[str]) -> list[str]:
    stopped = processes.stop(sorted(names - {postgres.NAME}))
    # Last, so that the others can still write down that they end.
    return stopped + processes.stop([postgres.NAME] if postgres.NAME in names else [])
