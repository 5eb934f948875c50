"""What an application sees in PostgreSQL."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from tests.forked import preload, run

from nightshift.errors import TransientError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.inference.serving import differences, serve
from nightshift.lake import tables
from nightshift.usecase import UseCase

DAY = date(2013, 1, 17)
NEXT = date(2013, 1, 18)

preload("nightshift.inference.serving")


def _query(url: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(text).fetchall()


def _publish(usecase: UseCase, day: date) -> None:
    publish_predictions(usecase, score(usecase, day, run_id=f"night {day}"))


def _publish_rows(usecase: UseCase, day: date, scores: dict[str, float]) -> None:
    """Publish the predictions of the day for a few entities that come back on other days."""
    model = tables.read_partitions(usecase, "predictions", DAY, DAY).slice(0, 1)
    rows = model.take([0] * len(scores)).drop_columns(["partition"])
    for name, values in (("flight_id", list(scores)), ("score", list(scores.values()))):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    tables.replace_partition(usecase, "predictions", day, rows, ["flight_id"])


def test_the_table_holds_what_the_lake_holds(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    assert serve(usecase, DAY, database) == 300
    columns = "flight_id, score, decision, model_version, model_hash, feature_version, run_id"
    served = _query(database, f"select {columns} from predictions.flight_delays order by flight_id")
    lake = tables.read_partitions(usecase, "predictions", DAY, DAY).sort_by("flight_id")
    assert served == [tuple(row.values()) for row in lake.select(columns.split(", ")).to_pylist()]
    times = _query(database, "select distinct partition, scheduled_departure_at at time zone 'UTC' from "
                             "predictions.flight_delays")  # fmt: skip
    assert [(day, at.hour) for day, at in times] == [(DAY, 12)]


def test_serving_again_changes_no_row(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    serve(usecase, DAY, database)
    # xmin is the transaction that last wrote a row.
    written = "select flight_id, xmin::text from predictions.flight_delays order by 1"
    before = _query(database, written)
    assert serve(usecase, DAY, database) == 300
    assert _query(database, written) == before


def test_the_view_shows_the_newest_partition_only(usecase: UseCase, database: str) -> None:
    for day in (NEXT, DAY):
        _publish(usecase, day)
        serve(usecase, day, database)
    assert _query(database, "select count(*) from predictions.flight_delays") == [(600,)]
    assert _query(database, "select distinct partition from predictions.flight_delays_latest") == [(NEXT,)]


def test_an_older_night_never_replaces_a_newer_prediction(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    _publish_rows(usecase, NEXT, {"a": 0.1, "b": 0.2})
    _publish_rows(usecase, date(2013, 1, 19), {"b": 0.9})
    for day in (date(2013, 1, 19), NEXT):
        serve(usecase, day, database)
    current = "select flight_id, score from predictions.flight_delays order by 1"
    assert _query(database, current) == [("a", 0.1), ("b", 0.9)]


def test_a_night_that_runs_again_replaces_its_own_rows(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    serve(usecase, DAY, database)
    _publish_rows(usecase, NEXT, {"a": 0.1, "b": 0.2})
    serve(usecase, NEXT, database)
    _publish_rows(usecase, NEXT, {"b": 0.3, "c": 0.4})
    assert serve(usecase, NEXT, database) == 2
    current = "select flight_id, score from predictions.flight_delays_latest order by 1"
    assert _query(database, current) == [("b", 0.3), ("c", 0.4)]
    assert _query(database, f"select count(*) from predictions.flight_delays where partition = '{DAY}'") == [
        (300,)
    ]


def test_two_publishers_at_once_on_an_empty_database(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    _publish(usecase, NEXT)
    with ThreadPoolExecutor(4) as pool:
        served = list(pool.map(lambda day: serve(usecase, day, database), [DAY, NEXT, DAY, NEXT]))
    assert served == [300] * 4
    assert _query(database, "select count(*), count(distinct flight_id) from predictions.flight_delays") == [
        (600, 600)
    ]


_KILLED = """
import os, signal, sys
import pyarrow as pa
from datetime import date
from nightshift.inference import serving
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.readline())
real = serving._rows
# Half of the rows are sent, then the process is gone.
def rows(batch, names):
    for number, row in enumerate(real(batch, names)):
        if number == batch.num_rows // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row
serving._rows = rows
serving.serve(uc, date(2013, 1, 17), sys.argv[1])
"""


def test_killed_in_the_middle_and_run_again(usecase: UseCase, database: str) -> None:
    _publish(usecase, DAY)
    _publish(usecase, NEXT)
    serve(usecase, NEXT, database)
    assert run(_KILLED, usecase.model_dump_json(), database) == -signal.SIGKILL
    count = f"select count(*) from predictions.flight_delays where partition = '{DAY}'"
    assert _query(database, count) == [(0,)]
    assert differences(usecase, database) == {DAY: "is not served"}
    assert serve(usecase, DAY, database) == 300
    assert _query(database, count) == [(300,)]


def test_a_database_that_does_not_answer_may_come(usecase: UseCase) -> None:
    _publish(usecase, DAY)
    with pytest.raises(TransientError, match="does not take"):
        serve(usecase, DAY, "postgresql://nobody@127.0.0.1:1/nothing")
