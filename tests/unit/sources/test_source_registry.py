"""From the catalogue to a connector, as a team that brings its own would meet it."""

from __future__ import annotations

import textwrap
from datetime import UTC, date, datetime
from pathlib import Path
from typing import get_args

import pytest

from nightshift.errors import DataError
from nightshift.sources.registry import open_connector
from nightshift.usecase import Source, UseCase


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team's module, with one connector and one class that is none."""
    (tmp_path / "own_connectors.py").write_text(
        textwrap.dedent(
            """
            import pyarrow as pa
            from nightshift.sources.base import Connector, Extract

            class Steps(Connector):
                def __init__(self, usecase, source):
                    self.unit = usecase.sources[source].options["unit"]

                def read(self, table, partition, as_of):
                    rows = pa.table({"unit": [self.unit], "hour": [as_of.hour]})
                    return Extract(rows, f"{table} of {partition}")

            class NotAConnector:
                pass
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def with_connector(usecase: UseCase, path: str) -> UseCase:
    source = next(iter(usecase.sources.values())).model_copy(
        update={"connector": path, "options": {"unit": "m"}}
    )
    return usecase.model_copy(update={"sources": {"pedometer": source}})


@pytest.mark.usefixtures("own_module")
def test_a_connector_of_ones_own_needs_only_read(flight_delays: UseCase) -> None:
    connector = open_connector(with_connector(flight_delays, "own_connectors:Steps"), "pedometer")
    got = connector.read_range(
        "steps",
        date(2013, 1, 30),
        date(2013, 2, 2),
        lambda day: datetime(2013, 3, 1, day.day % 24, tzinfo=UTC),
    )
    assert [day.isoformat() for day in got] == ["2013-01-30", "2013-01-31", "2013-02-01", "2013-02-02"]
    assert got[date(2013, 2, 1)].table.to_pylist() == [{"unit": "m", "hour": 1}]
    assert got[date(2013, 2, 1)].query == "steps of 2013-02-01"


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    "path",
    [
        "own_connectors:Missing",
        "own_connectors:NotAConnector",
        "own_connectors",
        "own_connectors.Steps",
        "no_such_module:Steps",
        "nightshift.sources.base:Connector.read",
        ":Steps",
        "",
    ],
)
def test_a_wrong_path_says_where_it_stands_and_what_is_expected(flight_delays: UseCase, path: str) -> None:
    with pytest.raises(DataError) as error:
        open_connector(with_connector(flight_delays, path), "pedometer")
    assert repr(path) in error.value.message
    assert "module:Class" in error.value.rule
    assert error.value.where == "flight_delays/sources.yml: sources.pedometer.connector"


def test_an_undeclared_source_names_those_that_exist(flight_delays: UseCase) -> None:
    with pytest.raises(DataError) as error:
        open_connector(flight_delays, "nycflights14")
    assert "nycflights14" in error.value.message
    assert "nycflights13" in error.value.cure


@pytest.mark.parametrize("kind", get_args(get_args(Source.model_fields["kind"].annotation)[0]))
def test_every_kind_of_the_catalogue_has_its_connector(flight_delays: UseCase, kind: str) -> None:
    source = next(iter(flight_delays.sources.values()))
    of_kind = source.model_copy(update={"kind": kind, "connector": None, "options": {"colour": "red"}})
    with pytest.raises(DataError) as error:
        open_connector(flight_delays.model_copy(update={"sources": {"src": of_kind}}), "src")
    assert error.value.rule.startswith(f"options of {kind}: ")
    assert error.value.where.startswith("flight_delays/sources.yml: sources.src.options")
