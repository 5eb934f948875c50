"""What sources do wrong: every defect is a clear error or a quarantined row, and rows are conserved."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pandas as pd
import pytest

from nightshift.errors import DataError
from nightshift.ingestion import land_partitions
from nightshift.lake import raw
from nightshift.lake.raw import RawManifest
from nightshift.quality.quarantine import read_quarantine
from nightshift.usecase import UseCase

DAY = date(2013, 7, 2)
Files = Callable[..., UseCase]


@pytest.fixture
def storage() -> str:
    """Rules judge rows before these meet the lake: a folder will do."""
    return "file"


def land(uc: UseCase, table: str, day: date = DAY) -> RawManifest:
    lag = uc.sources["nycflights13"].tables[table].lag_days
    return land_partitions(
        uc, "nycflights13", table, {day: uc.as_of(date.fromordinal(day.toordinal() + lag))}
    )[0]


def quarantined(uc: UseCase, table: str, day: date = DAY) -> list[dict[str, Any]]:
    return [row | json.loads(row["row"]) for row in read_quarantine(uc, f"raw_{table}", day, day).to_pylist()]


def rows_of_day(frame: pd.DataFrame, count: int = 3) -> pd.Index[int]:
    """Return some flights of the day that flew as planned."""
    flown = frame[(frame["day"] == "2") & (frame["arr_delay"].str.fullmatch("-?[0-9]+"))]
    return flown.index[:count]


def planted(column: str, values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[rows_of_day(frame), column] = values
        return frame

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda frame: frame.drop(columns="distance"), "distance"),
        (lambda frame: frame.assign(gate="A1"), "gate"),
        (planted("dep_delay", "very late"), "dep_delay"),
    ],
    ids=["missing column", "extra column", "wrong type"],
)
@pytest.mark.parametrize("table", ["schedules", "flights"])
def test_files_of_another_shape_stop_before_anything_is_landed(
    files: Files, table: str, damage: Callable[[pd.DataFrame], pd.DataFrame], named: str
) -> None:
    uc = files(flights=damage)
    with pytest.raises(DataError, match=named) as error:
        land(uc, table)
    assert error.value.rule
    assert "flights" in error.value.where or table in error.value.where
    assert error.value.cure
    assert raw.current(uc, "nycflights13", table, DAY) is None


def test_negative_distances_are_quarantined_and_counted(files: Files) -> None:
    clean = land(files(), "schedules")
    assert clean.rows_quarantined == 0
    uc = files(flights=planted("distance", "-5"))
    manifest = land(uc, "schedules")
    assert (manifest.rows_in, manifest.rows_accepted, manifest.rows_quarantined) == (
        clean.rows_in,
        clean.rows_in - 3,
        3,
    )
    bad = quarantined(uc, "schedules")
    assert [(row["rule"], row["distance_miles"]) for row in bad] == [("distance_in_range", -5)] * 3
    assert all("positive" in row["reason"] for row in bad)
    good = set(raw.read(manifest)["flight_id"].to_pylist())
    assert not good & {row["flight_id"] for row in bad}


@pytest.mark.parametrize("table", ["schedules", "flights"])
def test_a_departure_thirty_years_off_is_quarantined(files: Files, table: str) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = rows_of_day(frame)
        frame.loc[chosen, "time_hour"] = frame.loc[chosen, "time_hour"].str.replace("2013", "1983")
        return frame

    uc = files(flights=damage)
    manifest = land(uc, table)
    bad = quarantined(uc, table)
    assert manifest.rows_quarantined == len(bad) == 3
    assert {row["rule"] for row in bad} == {"on_its_day"}
    assert all(row["scheduled_departure_at"].startswith("1983-07-0") for row in bad)


@pytest.mark.parametrize("table", ["schedules", "flights"])
def test_a_row_delivered_twice_is_kept_once_and_contradictions_not_at_all(files: Files, table: str) -> None:
    clean = land(files(), table)

    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = rows_of_day(frame)
        torn = frame.loc[chosen[1:2]].assign(distance="99", arr_delay="99", air_time="99")
        return pd.concat([frame, frame.loc[chosen[:1]], torn])

    uc = files(flights=damage)
    manifest = land(uc, table)
    assert manifest.rows_in == clean.rows_in + 2
    assert manifest.rows_accepted == clean.rows_in - 1
    assert manifest.rows_quarantined == 3
    assert sorted(row["rule"] for row in quarantined(uc, table)) == [
        "key_unique",
        "key_unique",
        "row_not_repeated",
    ]
    keys = raw.read(manifest)["flight_id"].to_pylist()
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("share", [0.0, 0.1], ids=["empty", "a tenth"])
@pytest.mark.parametrize("table", ["schedules", "flights"])
def test_an_empty_or_nearly_empty_day_stops_with_its_report(files: Files, table: str, share: float) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        of_day = frame[frame["day"] == "2"]
        return frame.drop(of_day.index[int(len(of_day) * share) :])

    uc = files(flights=damage)
    with pytest.raises(DataError, match="2013-07-02: volume") as error:
        land(uc, table)
    assert f"raw_{table}/2013-07-02.html" in error.value.cure
    assert raw.current(uc, "nycflights13", table, DAY) is None
    # The days beside it are as good as before.
    assert land(uc, table, date(2013, 7, 3)).rows_in > 400


def test_one_bad_day_stops_all_days_asked_for_with_it(files: Files) -> None:
    uc = files(flights=lambda frame: frame[frame["day"] != "2"])
    wanted = {day: uc.as_of(day) for day in (date(2013, 7, 1), DAY, date(2013, 7, 3))}
    with pytest.raises(DataError, match="2013-07-02: volume: 0 rows"):
        land_partitions(uc, "nycflights13", "schedules", wanted)
    assert raw.current_many(uc, "nycflights13", "schedules") == {}


def test_a_batch_that_is_mostly_bad_stops(files: Files) -> None:
    uc = files(flights=lambda frame: frame.assign(distance="-1"))
    with pytest.raises(DataError, match=r"quarantine_at_most: \d+ of \d+ rows \(100.0%\)"):
        land(uc, "schedules")


def test_impossible_weather_is_quarantined_by_the_hour(files: Files) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        of_day = frame.index[frame["day"] == "2"]
        frame.loc[of_day[0], "wind_speed"] = "1048.36"
        frame.loc[of_day[1], "humid"] = "-3"
        frame.loc[of_day[2], "temp"] = "inf"
        return frame

    uc = files(weather=damage)
    manifest = land(uc, "weather")
    assert manifest.rows_quarantined == 3
    bad = quarantined(uc, "weather")
    assert {row["rule"] for row in bad} == {
        "wind_speed_in_range",
        "humidity_in_range",
        "temperature_in_range",
    }


def test_actual_times_that_cannot_be_are_quarantined(files: Files) -> None:
    uc = files(flights=planted("arr_delay", ["-4000", "99999", "12"]))
    bad = quarantined(uc, "flights") if land(uc, "flights").rows_quarantined else []
    assert {row["rule"] for row in bad} == {"flight_time_in_range"}
    assert {row["arrival_delay_minutes"] for row in bad} >= {-4000}


@pytest.mark.parametrize(
    ("table", "column", "value", "rule"),
    [
        ("planes", "year", "0", "year_in_range"),
        ("planes", "seats", "-1", "seats_in_range"),
        ("airports", "lat", "123.0", "latitude_in_range"),
        ("airlines", "carrier", "too long", "carrier_is_code"),
    ],
)
def test_snapshots_are_judged_too(files: Files, table: str, column: str, value: str, rule: str) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, column] = value
        return frame

    uc = files(**{table: damage})
    manifest = land(uc, table)
    assert manifest.rows_quarantined == 1
    assert [row["rule"] for row in quarantined(uc, table)] == [rule]
