"""Features of a day are the same however they were built, and never know what came later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nights import FIRST, LAST, History, feature_hashes, land
from tests.forked import preload, run

from nightshift.features.build import build
from nightshift.lake.staging import read_staged
from nightshift.usecase import UseCase

DAY = timedelta(days=1)

preload("nightshift.features.build", "dbt.cli.main")


def test_nights_one_by_one_equal_the_full_build(
    history: History, lake_only: Path, flight_delays: UseCase
) -> None:
    built = feature_hashes(flight_delays, FIRST, LAST - 3 * DAY)
    labels: dict[date, str] = {}
    for back in (2, 1, 0):
        night = LAST - back * DAY
        staged = build(flight_delays, night, night)
        built[night] = staged["features"][0].content_hash
        labels |= {item.partition: item.content_hash for item in staged["labels"]}
    assert built == history.features
    assert labels == {day: history.labels[day] for day in labels}
    assert list(labels) == [LAST - back * DAY for back in (4, 3, 2, 1)]


def test_nights_in_reverse_order_equal_the_full_build(
    history: History, lake_only: Path, flight_delays: UseCase
) -> None:
    for night in (LAST, LAST - DAY, FIRST):
        assert feature_hashes(flight_delays, night, night) == {night: history.features[night]}


def test_a_night_without_any_later_raw_equals_the_full_build(
    history: History, home: Path, flight_delays: UseCase
) -> None:
    """The lake ends with what the night itself ingested: nothing later was ever there."""
    night = LAST - 5 * DAY
    land(flight_delays, FIRST, night)
    assert feature_hashes(flight_delays, night, night) == {night: history.features[night]}


def _poisoned(night: date, known_at: datetime) -> Callable[[pa.Table], pa.Table]:
    """Give every flight of the day before a delay of 999 minutes that became known at ``known_at``."""

    def poison(flights: pa.Table) -> pa.Table:
        rows = flights.num_rows
        fields = {
            "arrival_delay_minutes": pa.array([999] * rows, pa.int64()),
            "departure_delay_minutes": pa.array([999] * rows, pa.int64()),
            "available_at": pa.array([known_at] * rows, pa.timestamp("us", tz="UTC")),
            "flight_id": pc.binary_join_element_wise(flights["flight_id"], "planted", "-"),
        }
        planted = flights
        for name, values in fields.items():
            planted = planted.set_column(planted.column_names.index(name), name, values)
        return pa.concat_tables([flights, planted])

    return poison


@pytest.mark.parametrize(("after_the_run", "seen"), [(timedelta(seconds=1), False), (timedelta(0), True)])
def test_what_lands_after_the_hour_of_the_run_is_not_used(
    built: Path,
    history: History,
    flight_delays: UseCase,
    replace_raw: Callable[..., None],
    after_the_run: timedelta,
    seen: bool,
) -> None:
    night = LAST - DAY
    known_at = flight_delays.as_of(night) + after_the_run
    replace_raw(flight_delays, "flights", night - DAY, _poisoned(night, known_at))
    changed = feature_hashes(flight_delays, night, night)[night] != history.features[night]
    assert changed is seen


def test_the_day_itself_is_not_used_except_its_schedule(
    built: Path, history: History, flight_delays: UseCase, replace_raw: Callable[..., None]
) -> None:
    """Even what claims to have been known in time: flights and weather of the day are extracted later."""
    night = LAST - 2 * DAY
    long_ago = datetime(2013, 1, 1, tzinfo=UTC)
    replace_raw(flight_delays, "flights", night, _poisoned(night, long_ago))
    replace_raw(
        flight_delays,
        "weather",
        night,
        lambda table: table.set_column(
            table.column_names.index("wind_speed_mph"),
            "wind_speed_mph",
            pa.array([500.0] * table.num_rows, pa.float64()),
        ),
    )
    assert feature_hashes(flight_delays, night, night) == {night: history.features[night]}
    # The next night does see it, so the plant was real.
    assert feature_hashes(flight_delays, night + DAY, night + DAY) != {
        night + DAY: history.features[night + DAY]
    }


def test_a_flight_without_aircraft_looks_like_one_on_a_new_aircraft(
    built: Path, flight_delays: UseCase
) -> None:
    night = date(2013, 2, 8)  # a blizzard: hundreds of cancelled flights without an aircraft
    features = read_staged(build(flight_delays, night, night)["features"][0])
    from nightshift.warehouse.read import read

    schedule = read(flight_delays, "stg_schedules", night, night)
    unassigned = schedule.filter(pc.equal(schedule["tail_number"], "UNASSIGNED"))["flight_id"]
    assert len(unassigned) > 100
    rows = features.filter(pc.is_in(features["flight_id"], unassigned.combine_chunks()))
    assert set(rows["rotation_position"].to_pylist()) == {1}
    assert set(rows["rotations_day"].to_pylist()) == {1}
    of_the_aircraft = [name for name in rows.column_names if name.startswith(("aircraft_", "plane_"))]
    assert len(of_the_aircraft) == 8
    for name in (*of_the_aircraft, "turnaround_minutes"):
        assert rows[name].null_count == rows.num_rows, name


_KILLED = """
import os, signal
from datetime import date
import dbt.cli.main as cli

def die(event):
    # After the rows were replaced, before the commit.
    sql = event.data.sql if event.info.name == "SQLQuery" else ""
    if "insert into" in sql and "int_performance_lagged" in sql:
        die.armed = True
    elif event.info.name == "SQLQueryStatus" and getattr(die, "armed", False):
        os.kill(os.getpid(), signal.SIGKILL)

original = cli.dbtRunner.__init__
cli.dbtRunner.__init__ = lambda self, manifest=None, callbacks=None: original(self, manifest, [die])
from nightshift.features.build import build
from nightshift.usecase import load_usecase
build(load_usecase("flight_delays"), date(2013, 2, 10), date(2013, 2, 11))
"""


def test_a_build_killed_in_the_middle_and_run_again_equals_the_full_build(
    built: Path, history: History, flight_delays: UseCase
) -> None:
    assert run(_KILLED) == -signal.SIGKILL
    start, end = date(2013, 2, 10), date(2013, 2, 11)
    assert feature_hashes(flight_delays, start, end) == {day: history.features[day] for day in (start, end)}
