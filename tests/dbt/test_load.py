"""Loading brings the lake's current partitions into the warehouse, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from nights import LAST

from nightshift.errors import DataError
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine
from nightshift.warehouse.load import load


def _rows(table: str, day: date) -> int:
    with engine().connect(read_only=True) as connection:
        ((rows,),) = connection.execute(
            f"select count(*) from raw_flight_delays.{table} where partition = $1", [day]
        )
    return int(rows)


def test_a_night_loads_its_look_back_once(lake_only: Path, flight_delays: UseCase) -> None:
    night = date(2013, 2, 5)
    loaded = load(flight_delays, night, night)
    assert loaded["planes"] == 3322
    assert loaded["schedules"] > 28 * 700
    assert _rows("schedules", night) > 700
    assert _rows("flights", night) == 0, "the night of a day cannot read what happened on it"
    assert _rows("flights", night - timedelta(days=28)) > 700
    assert _rows("flights", night - timedelta(days=29)) == 0
    assert set(load(flight_delays, night, night).values()) == {0}


def test_a_correction_replaces_its_partition_only(
    built: Path, flight_delays: UseCase, replace_raw: Callable[..., None]
) -> None:
    day = LAST - timedelta(days=3)
    before, neighbour = _rows("flights", day), _rows("flights", day - timedelta(days=1))
    replace_raw(flight_delays, "flights", day, lambda table: table.slice(5))
    assert load(flight_delays, LAST, LAST)["flights"] == before - 5
    assert _rows("flights", day) == before - 5
    assert _rows("flights", day - timedelta(days=1)) == neighbour


def test_what_the_lake_no_longer_has_leaves_the_warehouse(built: Path, flight_delays: UseCase) -> None:
    day = LAST - timedelta(days=3)
    (folder,) = (built / "lake").rglob(f"flights/partition={day}")
    shutil.rmtree(folder)
    load(flight_delays, LAST, LAST)
    assert _rows("flights", day) == 0


def _retyped(uc: UseCase, table: str, column: str, kind: str) -> UseCase:
    content = uc.model_dump()
    (source,) = content["sources"].values()
    source["tables"][table]["columns"][column]["type"] = kind
    return UseCase.model_validate(content)


def test_a_column_of_a_new_type_is_loaded_again_as_that(built: Path, flight_delays: UseCase) -> None:
    changed = _retyped(flight_delays, "planes", "seats", "float64")
    assert load(changed, LAST, LAST)["planes"] == 3322
    with engine().connect(read_only=True) as connection:
        seats = connection.query("select seats, seats + 0.5 as more from raw_flight_delays.planes limit 1")
    assert str(seats.schema.field("seats").type) == "double"
    assert set(load(changed, LAST, LAST).values()) == {0}


def test_what_does_not_fit_a_new_type_is_refused(built: Path, flight_delays: UseCase) -> None:
    changed = _retyped(flight_delays, "planes", "manufacturer", "int64")
    with pytest.raises(DataError, match="manufacturer"):
        load(changed, LAST, LAST)
    assert set(load(flight_delays, LAST, LAST).values()) == {0}, "the table is as it was"
