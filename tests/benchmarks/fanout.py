"""A range shared by two workers, against the same chunks of it through one.

The steps are those of the DAG ``rebuild``: publish features, score and publish, check drift, judge. Workers
are processes that take one task at a time, as a Celery worker with one slot does; Airflow itself is not here,
and costs the same second or two a task on both sides. dbt built the range before, in one task either way.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import psycopg

from nightshift import databases, nights, stages
from nightshift.usecase import UseCase
from tests.forked import PROCESSES, preload, take_over
from tests.integration.replaying import use_case
from tests.lakes import put_lake
from tests.servers import S3_CREDENTIALS, object_store, postgres_server
from tests.stacks import contents

from .harness import Comparison, DifferentResultsError, Timed, environment

_THROUGH = date(2013, 1, 31)
_DAYS, _QUICK_DAYS = 28, 14

# Workers are warm: what is timed is their work.
preload("nightshift.stages", "great_expectations", "mlflow", "xgboost", "evidently")


@contextmanager
def on_files(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Compare with the lake in a folder."""
    with postgres_server() as server:
        yield _comparison(folder, server, "file", "files", quick=quick)


@contextmanager
def on_s3(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Compare with the lake in a bucket of SeaweedFS."""
    with ExitStack() as stack:
        server, endpoint = stack.enter_context(postgres_server()), stack.enter_context(object_store())
        stack.enter_context(environment(folder, AWS_ENDPOINT_URL=endpoint, **S3_CREDENTIALS))
        boto3.client("s3").create_bucket(Bucket="bench")
        yield _comparison(folder, server, "s3", "S3", quick=quick)


@dataclass(frozen=True)
class _Range:
    """What is to be done, and the state it begins with."""

    uc: UseCase
    start: date
    end: date
    chunks: list[dict[str, Any]]


def _comparison(folder: Path, server: str, storage: str, called: str, *, quick: bool) -> Comparison:
    base = folder / "base"
    base.mkdir()
    common = {
        "NIGHTSHIFT_WAREHOUSE": "postgres",
        "NIGHTSHIFT_POSTGRES_URL": server,
        "NIGHTSHIFT_PARALLELISM": "2" if quick else "4",
    }
    # Both sides read the champion where it was trained.
    trained = {"NIGHTSHIFT_MLFLOW_URL": f"sqlite:///{base}/mlflow/mlflow.db"}
    with environment(base, NIGHTSHIFT_LAKE="", NIGHTSHIFT_MLFLOW_URL="", **common):
        databases.ensure(["serving"])
        whole = _prepared(_QUICK_DAYS if quick else _DAYS)

    def side(workers: int) -> Callable[[int], Timed]:
        def run(number: int) -> Timed:
            name = f"round-{number}-{workers}"
            lake = f"s3://bench/{name}" if storage == "s3" else ""
            home = folder / name
            shutil.copytree(base, home, ignore=shutil.ignore_patterns("mlflow", "lake"))
            with environment(home, NIGHTSHIFT_LAKE=lake, **common, **trained):
                put_lake(base / "lake")
                with psycopg.connect(databases.url("serving")) as connection:
                    connection.execute("drop schema if exists predictions cascade")
                seconds = _shared(whole, workers)
                left = contents(whole.uc)
            shutil.rmtree(home)
            return Timed(seconds, left)

        return run

    return Comparison(
        name=f"a range by two workers, {called}",
        against="the same chunks by one worker",
        measure="ratio",
        at_most=0.75,
        ours=side(2),
        other=side(1),
        check=_check,
        note=f"{_DAYS} days in four chunks: features validated and published, scored, predictions verified "
        "and published, drift checked, days and windows judged; each step over all chunks before the next "
        "as in the DAG `rebuild`. A worker is a warm process that takes a task at a time, as a Celery worker "
        "with one slot does; no Airflow. Warehouse and served table: PostgreSQL on the same machine; lake: "
        f"{'SeaweedFS on the same machine' if storage == 's3' else 'a folder'}.",
    )


def _prepared(number: int) -> _Range:
    """Bootstrap a month, and land, load and build the days after it."""
    uc = use_case()
    nights.bootstrap(uc, uc.history_start, _THROUGH)
    start, end = _THROUGH + timedelta(days=1), _THROUGH + timedelta(days=number)
    for part in nights.plan_months(uc, start, end):
        first, last = date.fromisoformat(part["start"]), date.fromisoformat(part["end"])
        stages.land(uc, part["source"], first, last, [part["refresh"]])
    stages.load(uc, start, end)
    built = nights.cut(uc, stages.build_features(uc, start, end), start, end)
    planned = nights.plan_chunks(start, end)
    chunks = [chunk | {"staged": staged} for chunk, staged in zip(planned, built, strict=True)]
    return _Range(uc, start, end, chunks)


def _publish_features(whole: _Range, chunk: dict[str, Any]) -> None:
    stages.publish_features(whole.uc, stages.validate_features(whole.uc, chunk["staged"]))


def _publish_predictions(whole: _Range, chunk: dict[str, Any]) -> None:
    scored = stages.score(whole.uc, *_days(chunk), "a run")
    stages.publish_predictions(whole.uc, stages.validate_predictions(whole.uc, scored))


def _check_drift(whole: _Range, chunk: dict[str, Any]) -> None:
    stages.check_drift_quietly(whole.uc, *_days(chunk))


def _judge_days(whole: _Range, chunk: dict[str, Any]) -> None:
    stages.judge_days(whole.uc, *_days(chunk))


def _judge_windows(whole: _Range, chunk: dict[str, Any]) -> None:
    stages.judge_windows(whole.uc, *_days(chunk), (whole.start, whole.end))


_STEPS = (_publish_features, _publish_predictions, _check_drift, _judge_days, _judge_windows)


def _days(chunk: dict[str, Any]) -> tuple[date, date]:
    return date.fromisoformat(chunk["start"]), date.fromisoformat(chunk["end"])


def _shared(whole: _Range, workers: int) -> float:
    """Let workers do every step of every chunk: seconds."""
    with PROCESSES.Pool(workers, initializer=take_over, initargs=(dict(os.environ),)) as pool:
        pool.map(_warm, range(workers), chunksize=1)
        began = time.perf_counter()
        for step in _STEPS:
            pool.starmap(step, [(whole, chunk) for chunk in whole.chunks], chunksize=1)
        return time.perf_counter() - began


def _warm(_: int) -> None:
    """Return once the process is there."""


def _check(ours: Any, other: Any) -> None:
    different = {layer for layer in ours.keys() | other.keys() if ours.get(layer) != other.get(layer)}
    if different or not ours["predictions"]:
        raise DifferentResultsError(f"two workers and one left other contents: {sorted(different)}")
