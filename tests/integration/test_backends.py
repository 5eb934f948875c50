"""The whole loop on every pair of storage and warehouse ends with the same content."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from psycopg import sql
from tests.benchmarks.one_process import bootstrap, run
from tests.forked import PROCESSES, preload, start
from tests.servers import postgres_server

from nightshift.cli.status import of_usecase
from nightshift.monitoring.staleness import find_stale
from nightshift.registry import deployments
from nightshift.settings import settings
from nightshift.usecase import Trainer, UseCase, load_usecase

THROUGH = date(2013, 1, 20)
NIGHTS = [THROUGH + timedelta(days=1), THROUGH + timedelta(days=2)]
DEFAULT = ("file", "duckdb")
OTHERS = [("s3", "duckdb"), ("file", "postgres"), ("s3", "postgres")]

Backend = tuple[str, str]

preload("nightshift.stages", "great_expectations", "dbt.cli.main", "mlflow", "xgboost")


def _usecase() -> UseCase:
    """The real one, with windows that fit three weeks and a training that takes a moment."""
    whole = load_usecase("flight_delays")
    trainers = {"xgboost": Trainer(kind="xgboost", params={"rounds": 40, "max_depth": 3})}
    training = {
        "validation_days": 5,
        "holdout_days": 4,
        "trainers": trainers,
        "baseline": None,
        "search": None,
    }
    return whole.model_copy(update={"training": whole.training.model_copy(update=training)})


def _loop(uc: UseCase) -> dict[str, Any]:
    """Bootstrap, run two nights, and return what they leave: hashes, counts, model, verdicts, quality."""
    bootstrap(uc, THROUGH)
    for night in NIGHTS:
        run(uc, night)
    assert find_stale(uc) == []
    champion = deployments.newest(uc)
    assert champion is not None
    return of_usecase(uc) | {"model_hash": champion.model_hash}


def _loop_on(backends: list[Backend], server: str, folder: Path, result: Connection) -> None:
    """Send what the loop leaves on each pair, each in a state folder, a bucket and databases of its own."""
    for lake, warehouse in backends:
        os.environ |= {
            "NIGHTSHIFT_HOME": str(folder / f"{lake}-{warehouse}"),
            "NIGHTSHIFT_WAREHOUSE": warehouse,
            "NIGHTSHIFT_POSTGRES_URL": server,
            "NIGHTSHIFT_LAKE": f"s3://loop-{warehouse}/lake" if lake == "s3" else "",
        }
        settings.cache_clear()
        _empty_databases(server)
        result.send(((lake, warehouse), _loop(_usecase())))


@pytest.fixture(scope="module")
def looped(
    s3_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[Backend, dict[str, Any]]:
    """What the loop leaves on each pair; two loops at a time, as loops leave one of two cores idle."""
    left: dict[Backend, dict[str, Any]] = {}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        for warehouse in ("duckdb", "postgres"):
            boto3.client("s3").create_bucket(Bucket=f"loop-{warehouse}")
        running = []
        for backends in ([DEFAULT, OTHERS[2]], OTHERS[:2]):
            theirs, ours = PROCESSES.Pipe(duplex=False)
            server = stack.enter_context(postgres_server())
            folder = tmp_path_factory.mktemp("loops")
            running.append((start(_loop_on, backends, server, folder, ours), theirs))
            ours.close()
        for process, theirs in running:
            with suppress(EOFError):
                while True:
                    backend, found = theirs.recv()
                    left[backend] = found
            process.join()
            assert process.exitcode == 0
    return left


def _empty_databases(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        for name in ("serving", "warehouse"):
            database = sql.Identifier(name)
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(database))
            connection.execute(sql.SQL("create database {}").format(database))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", OTHERS, ids="-".join)
@pytest.mark.parametrize("layer", ["raw", "features", "predictions"])
def test_every_pair_ends_with_the_same_content(
    looped: dict[Backend, dict[str, Any]], backend: Backend, layer: str
) -> None:
    assert looped[DEFAULT][layer]["partitions"] >= len(NIGHTS)
    assert looped[backend][layer]["content_hash"] == looped[DEFAULT][layer]["content_hash"]


@pytest.mark.parametrize("backend", OTHERS, ids="-".join)
def test_every_pair_trains_the_same_model_and_judges_alike(
    looped: dict[Backend, dict[str, Any]], backend: Backend
) -> None:
    assert looped[backend] == looped[DEFAULT]
    assert set(looped[DEFAULT]["drift"]) == {night.isoformat() for night in NIGHTS}
    assert set(looped[DEFAULT]["predictions"]["observed"]) == {NIGHTS[0].isoformat()}
