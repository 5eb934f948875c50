"""The table that applications read follows the lake, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli.main import app
from nightshift.databases import url
from nightshift.errors import DataError
from nightshift.inference.score import LAYER
from nightshift.inference.serving import differences, serve
from nightshift.lake import tables
from nightshift.lake.store import open_store
from nightshift.settings import settings
from nightshift.usecase import UseCase

A, B, C = date(2013, 1, 17), date(2013, 1, 18), date(2013, 1, 19)
CURRENT = "select flight_id, partition, score from predictions.flight_delays order by 1"
# xmin is the transaction that last wrote a row.
WRITTEN = "select flight_id, xmin::text from predictions.flight_delays order by 1"

Scores = dict[str, float]


@pytest.fixture
def uc(home: Path, flight_delays: UseCase) -> UseCase:
    return flight_delays


@pytest.fixture
def database(uc: UseCase, postgres: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the database that the settings name, empty."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists serving with (force)")
        connection.execute("create database serving")
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", postgres)
    settings.cache_clear()
    return url("serving")


def _publish(uc: UseCase, day: date, scores: Scores) -> tables.PartitionVersion:
    """Publish predictions to the lake alone, as a run that fails for good before it serves them."""
    made_by = dict.fromkeys(("model_version", "model_hash", "feature_version", "run_id"), ["x"] * len(scores))
    rows = {
        "flight_id": list(scores),
        "scheduled_departure_at": [datetime.combine(day, time(12), tzinfo=UTC)] * len(scores),
        "score": list(scores.values()),
        "decision": [score > 0.5 for score in scores.values()],
    }
    return tables.replace_partition(uc, LAYER, day, pa.table(rows | made_by), ["flight_id"])


def _serve(uc: UseCase, contents: dict[date, Scores]) -> None:
    for day, scores in contents.items():
        _publish(uc, day, scores)
        serve(uc, day, url("serving"))


def _query(text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url("serving")) as connection:
        return connection.execute(text).fetchall()


def _lake(uc: UseCase) -> list[tuple[Any, ...]]:
    """What has to be served: each entity's prediction of the newest partition that has one."""
    rows = tables.read_partitions(uc, LAYER, date.min, date.max)
    newest = {row["flight_id"]: (row["partition"], row["score"]) for row in rows.to_pylist()}
    return [(entity, *newest[entity]) for entity in sorted(newest)]


def _command(arguments: Iterable[str]) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_a_failed_run_left_behind_is_served_once(uc: UseCase, database: str) -> None:
    _serve(uc, {A: {"a": 0.1, "b": 0.1}, B: {"c": 0.2}})
    old, new = tables.partition_versions(uc, LAYER)[A], _publish(uc, A, {"a": 0.7, "d": 0.1})
    _publish(uc, C, {"c": 0.3})
    different = {
        A: f"is served as {old.content_hash[:12]}, the lake has {new.content_hash[:12]}",
        C: "is not served",
    }
    assert differences(uc, database) == different
    assert stages.serve_again(uc) == {day.isoformat(): how for day, how in different.items()}
    assert _query(CURRENT) == _lake(uc) == [("a", A, 0.7), ("c", C, 0.3), ("d", A, 0.1)]
    written = _query(WRITTEN)
    assert stages.serve_again(uc) == {}
    assert _query(WRITTEN) == written


def test_an_older_partition_is_current_again_when_a_newer_one_is_withdrawn(
    uc: UseCase, database: str
) -> None:
    _serve(uc, {A: {"a": 0.1, "b": 0.1}, B: {"a": 0.2, "b": 0.2, "c": 0.2}, C: {"b": 0.3, "d": 0.3}})
    tables.delete_partition(uc, LAYER, B)
    assert stages.serve_again(uc) == {B.isoformat(): "is served, the lake has it no more"}
    assert _query(CURRENT) == _lake(uc) == [("a", A, 0.1), ("b", C, 0.3), ("d", C, 0.3)]
    tables.delete_partition(uc, LAYER, C)
    assert stages.serve_again(uc) == {C.isoformat(): "is served, the lake has it no more"}
    assert _query(CURRENT) == _lake(uc) == [("a", A, 0.1), ("b", A, 0.1)]
    assert _query("select distinct partition from predictions.flight_delays_latest") == [(A,)]
    assert differences(uc, database) == {}


def test_several_partitions_withdrawn_at_once_leave_what_the_lake_has(uc: UseCase, database: str) -> None:
    _serve(uc, {A: {"a": 0.1}, B: {"a": 0.2}, C: {"a": 0.3}})
    for day in (B, C):
        tables.delete_partition(uc, LAYER, day)
    stages.serve_again(uc)
    assert _query(CURRENT) == [("a", A, 0.1)]
    tables.delete_partition(uc, LAYER, A)
    stages.serve_again(uc)
    assert _query(CURRENT) == []


def test_an_entity_that_a_night_scores_no_more_has_its_prediction_before_that(
    uc: UseCase, database: str
) -> None:
    _serve(uc, {A: {"a": 0.1, "b": 0.1}, B: {"a": 0.2}, C: {"a": 0.3, "b": 0.3, "c": 0.3}})
    _serve(uc, {C: {"c": 0.4}})
    assert _query(CURRENT) == _lake(uc) == [("a", B, 0.2), ("b", A, 0.1), ("c", C, 0.4)]


def test_rolling_predictions_back_serves_what_they_were(uc: UseCase, database: str) -> None:
    first = _publish(uc, A, {"a": 0.1, "b": 0.1})
    _serve(uc, {A: {"a": 0.9}})
    said = _command(["restore", "predictions", str(A), "--version", str(first.table_version)])
    assert "Applications read it." in said
    assert _query(CURRENT) == _lake(uc) == [("a", A, 0.1), ("b", A, 0.1)]
    assert differences(uc, database) == {}


def test_rolling_back_without_a_database_says_who_serves_it(
    uc: UseCase, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _publish(uc, A, {"a": 0.1})
    _serve(uc, {A: {"a": 0.9}})
    with monkeypatch.context() as down:
        down.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        settings.cache_clear()
        said = _command(["restore", "predictions", str(A), "--version", str(first.table_version)])
    settings.cache_clear()
    assert "Applications do not read it yet" in said
    assert "`flight_delays.watch` serves it" in said
    assert _lake(uc) == [("a", A, 0.1)]
    assert _query(CURRENT) == [("a", A, 0.9)]
    stages.serve_again(uc)
    assert _query(CURRENT) == [("a", A, 0.1)]


@pytest.mark.parametrize("lost", ["flight_delays", "_flight_delays_partitions"])
def test_tables_that_somebody_dropped_or_that_are_of_an_earlier_release(
    uc: UseCase, database: str, lost: str
) -> None:
    _serve(uc, {A: {"a": 0.1}, B: {"b": 0.2}})
    tables.delete_partition(uc, LAYER, A)
    with psycopg.connect(database) as connection:
        connection.execute(f"drop table predictions.{lost} cascade")
    assert B.isoformat() in stages.serve_again(uc)
    assert _query(CURRENT) == [("b", B, 0.2)]
    assert differences(uc, database) == {}


def test_a_lake_that_is_not_there_withdraws_nothing(
    uc: UseCase, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(uc, {A: {"a": 0.1}})
    monkeypatch.setenv("NIGHTSHIFT_LAKE", f"file://{tmp_path}/elsewhere")
    settings.cache_clear()
    with pytest.raises(DataError, match=r"1 partitions of predictions are served(.|\n)*NIGHTSHIFT_LAKE"):
        stages.serve_again(uc)
    assert _query(CURRENT) == [("a", A, 0.1)]


def test_a_partition_that_cannot_be_read_keeps_no_other_from_being_served(uc: UseCase, database: str) -> None:
    _serve(uc, {C: {"c": 0.1}})
    for day in (A, B, C):
        _publish(uc, day, {"b" if day == B else "c": 0.7})
    for key in open_store().list(f"tables/{uc.name}/{LAYER}/partition={C}/"):
        open_store().delete(key)
    with pytest.raises(DataError, match="damaged"):
        stages.serve_again(uc)
    assert _query(CURRENT) == [("b", B, 0.7), ("c", C, 0.1)]
    assert list(differences(uc, database)) == [C]


def test_whoever_publishes_and_serves_at_once_the_lake_is_served(uc: UseCase, database: str) -> None:
    _publish(uc, A, {"a": 0.0})

    def run(number: int) -> None:
        day = (A, B)[number % 2]
        _serve(uc, {day: {"a": number / 10, f"{number}": 0.5}})
        if number > 5:
            stages.serve_again(uc)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))
    assert differences(uc, database) == {}
    assert _query(CURRENT) == _lake(uc)
