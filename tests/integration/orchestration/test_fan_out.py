"""Chunks of a range that workers share: at once, twice, or killed and repeated, they end as one worker does.

Each task of a chunk runs in a process of its own, as it does in a worker, and a step of all chunks is over
before the next one begins, as the DAG ``rebuild`` has it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from tests.forked import PROCESSES, preload, start
from tests.lakes import environment, on_both_storages
from tests.stacks import contents

from nightshift import databases, nights, stages
from nightshift.errors import TransientError
from nightshift.lake import tables
from nightshift.lake.staging import stage
from nightshift.monitoring.alerting import read_alerts
from nightshift.partition import days
from nightshift.usecase import UseCase

preload("nightshift.stages", "great_expectations", "mlflow", "xgboost", "evidently")

storage = on_both_storages

FIRST, LAST = date(2013, 1, 17), date(2013, 1, 30)
# From here on the days are others, over the edge of the two chunks.
SHIFTED = date(2013, 1, 22)
CHUNKS = [("2013-01-17", "2013-01-23"), ("2013-01-24", "2013-01-30")]

Day = Callable[..., pa.Table]
Chunk = tuple[str, str]


def _publish_features(uc: UseCase, staged: list[dict[str, Any]], start: date, end: date) -> None:
    chunks = dict(zip(CHUNKS, nights.cut(uc, staged, FIRST, LAST), strict=True))
    stages.publish_features(uc, chunks[start.isoformat(), end.isoformat()])


def _publish_predictions(uc: UseCase, _: Any, start: date, end: date) -> None:
    scored = stages.score(uc, start, end, "a run")
    stages.publish_predictions(uc, stages.validate_predictions(uc, scored))


# The steps of the DAG, each over all chunks before the next begins.
STEPS: list[Callable[[UseCase, list[dict[str, Any]], date, date], Any]] = [
    _publish_features,
    _publish_predictions,
    lambda uc, _, start, end: stages.check_drift_quietly(uc, start, end),
    lambda uc, _, start, end: stages.judge_days(uc, start, end),
    lambda uc, _, start, end: stages.judge_windows(uc, start, end, (FIRST, LAST)),
]


def _work(
    uc: UseCase,
    staged: list[dict[str, Any]],
    step: int,
    chunk: Chunk,
    begin: Barrier | None,
    last_commit: int | None,
) -> None:
    """Do one task of one chunk, in a process of its own; with ``last_commit``, be killed after so many."""
    if last_commit is not None:
        _die_after(last_commit)
    if begin is not None:
        begin.wait()
    STEPS[step](uc, staged, date.fromisoformat(chunk[0]), date.fromisoformat(chunk[1]))


def _die_after(commits: int) -> None:
    write, done = tables.write_deltalake, 0

    def deadly(*args: Any, **kwargs: Any) -> None:
        nonlocal done
        write(*args, **kwargs)
        done += 1
        if done == commits:
            os.kill(os.getpid(), signal.SIGKILL)

    tables.write_deltalake = deadly


def _at_once(
    uc: UseCase, staged: list[dict[str, Any]], step: int, chunks: list[Chunk], killed: Chunk | None
) -> list[int]:
    begin = PROCESSES.Barrier(len(chunks))
    workers = [
        start(_work, uc, staged, step, chunk, begin, 2 if chunk == killed else None) for chunk in chunks
    ]
    for worker in workers:
        worker.join()
    return [worker.exitcode or 0 for worker in workers]


def _stage(uc: UseCase, day_of_features: Day) -> list[dict[str, Any]]:
    """Stage what a build of the range would: its features, and the labels known by its last night."""
    made = {
        day: day_of_features(day, rows=150, shift=1.5 if day >= SHIFTED else 0.0)
        for day in days(FIRST - timedelta(days=1), LAST)
    }
    features = [
        stage(uc, "features", day, table.drop_columns("late"), (uc.entity,))
        for day, table in made.items()
        if day >= FIRST
    ]
    labels = [
        stage(
            uc,
            "labels",
            day,
            pa.table(
                {
                    uc.entity: table[uc.entity],
                    uc.label.column: table["late"].cast(pa.int64()),
                    "label_available_on": pa.repeat(pa.scalar(day + timedelta(days=1)), table.num_rows),
                }
            ),
            (uc.entity,),
        )
        for day, table in made.items()
        if day < LAST
    ]
    return [item.model_dump(mode="json") for item in [*features, *labels]]


def _left(uc: UseCase) -> dict[str, Any]:
    """Return what a range leaves: each partition's content, what is served, what people are told."""
    with psycopg.connect(databases.url("serving")) as connection:
        served = connection.execute(
            f"select partition, count(*), sum(score) from predictions.{uc.name} group by 1 order by 1"
        ).fetchall()
    told = sorted((alert.kind, alert.subject, alert.count) for alert in read_alerts(uc.name))
    return {"contents": contents(uc), "served": served, "told": told}


@pytest.fixture(scope="module")
def one_after_the_other(
    trained_state: Path,
    small_usecase: UseCase,
    day_of_features: Day,
    postgres: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What one worker leaves that has the whole range as one piece."""
    uc, state = small_usecase, tmp_path_factory.mktemp("alone") / "state"
    shutil.copytree(trained_state, state)
    with environment(state, NIGHTSHIFT_POSTGRES_URL=postgres, NIGHTSHIFT_LAKE=""):
        _empty_database(postgres)
        stages.publish_features(uc, _stage(uc, day_of_features))
        scored = stages.score(uc, FIRST, LAST, "a run")
        stages.publish_predictions(uc, stages.validate_predictions(uc, scored))
        stages.check_drift(uc, FIRST, LAST)
        stages.judge(uc, FIRST, LAST)
        return _left(uc)


@pytest.fixture
def staged(
    one_after_the_other: dict[str, Any],
    usecase: UseCase,
    day_of_features: Day,
    postgres: str,
) -> Iterator[list[dict[str, Any]]]:
    """The range, built and staged, in a lake and a database of the test's own."""
    with environment(Path(os.environ["NIGHTSHIFT_HOME"]), NIGHTSHIFT_POSTGRES_URL=postgres):
        _empty_database(postgres)
        yield _stage(usecase, day_of_features)


def _empty_database(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("drop database if exists serving with (force)")
    databases.ensure(["serving"])


@pytest.mark.parametrize(
    ("chunks", "killed"),
    [(CHUNKS * 2, None), (CHUNKS, CHUNKS[1])],
    ids=["each twice", "one killed and repeated"],
)
def test_chunks_at_once_end_as_one_worker_does(
    usecase: UseCase,
    staged: list[dict[str, Any]],
    one_after_the_other: dict[str, Any],
    chunks: list[Chunk],
    killed: Chunk | None,
) -> None:
    kills = 0
    for step in range(len(STEPS)):
        ended = _at_once(usecase, staged, step, chunks, killed)
        for chunk, exitcode in zip(chunks, ended, strict=True):
            assert exitcode == (-signal.SIGKILL if chunk == killed else 0)
            if exitcode:
                kills += 1
                assert _at_once(usecase, staged, step, [chunk], None) == [0]
    stages.alert_of_range(usecase, FIRST, LAST)

    assert kills == (len(STEPS) if killed else 0)
    left = _left(usecase)
    assert len(left["contents"]["monitoring_windows"]) >= len(list(days(FIRST, LAST))) - 1
    for layer, partitions in one_after_the_other["contents"].items():
        assert left["contents"][layer] == partitions, layer
    assert left == one_after_the_other
    assert ("drift", 1) in {(kind, count) for kind, _, count in left["told"]}


def test_a_chunk_that_fails_names_its_day_and_takes_nothing_from_the_others(
    usecase: UseCase, staged: list[dict[str, Any]]
) -> None:
    missing = date(2013, 1, 20)
    lacking = [item for item in staged if (item["layer"], item["partition"]) != ("features", str(missing))]
    tables.delete_partition(usecase, "features", missing)
    first, second = (tuple(map(date.fromisoformat, chunk)) for chunk in CHUNKS)
    for chunk in nights.cut(usecase, lacking, FIRST, LAST):
        stages.publish_features(usecase, chunk)

    with pytest.raises(TransientError, match=str(missing)):
        _publish_predictions(usecase, None, *first)
    _publish_predictions(usecase, None, *second)

    assert list(tables.partition_versions(usecase, "predictions")) == list(days(*second))
    stages.publish_features(usecase, [item for item in staged if item not in lacking])
    _publish_predictions(usecase, None, *first)
    assert list(tables.partition_versions(usecase, "predictions")) == list(days(FIRST, LAST))
