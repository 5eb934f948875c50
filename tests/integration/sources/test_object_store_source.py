"""Files in a bucket and in a folder, as they come, change, go, and are not yet whole."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upstreams import Upstream

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

DAY = date(2024, 3, 1)
NEXT = DAY + timedelta(days=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
_TYPES = {"visit": "int64", "visited_on": "date", "page": "string", "seconds": "float64", "known": "boolean"}
HEADER = "visit,visited_on,page,seconds,known\n"


def site(prefix: str, refresh: str = "daily", **table: Any) -> UseCase:
    """Return a use case whose source ``site`` has the table ``visits`` in files."""
    chosen: dict[str, Any] = {"files": "visits/*.csv", "format": "csv", "day": "visited_on"} | table
    columns = {name: {"type": kind, "description": f"The visit's {name}."} for name, kind in _TYPES.items()}
    visits = {
        "description": "Visits.",
        "key": ["visit"],
        "refresh": refresh,
        "columns": columns,
        "allow_empty": True,
    }
    source = {
        "kind": "object_store",
        "description": "A site.",
        "owner": "test",
        "access": "files",
        "sla": "none",
        "options": {"prefix": prefix, "tables": {"visits": chosen}, "batch_rows": 5},
        "tables": {"visits": visits},
    }
    changed = {"name": "toy", "timezone": "UTC", "sources": {"site": source}}
    return UseCase.model_validate(load_usecase("flight_delays").model_dump() | changed)


def capture(uc: UseCase) -> int:
    return open_connector(uc, "site").capture("visits")


def read(uc: UseCase, day: date = DAY, as_of: datetime = LATER) -> list[tuple[Any, ...]]:
    rows = open_connector(uc, "site").read("visits", day, as_of).table
    return sorted(tuple(row.values()) for row in rows.to_pylist())


def test_each_file_is_read_once(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    put("visits/a.csv", HEADER + '1,2024-03-01,"a, ""b""",0.5,true\n2,2024-03-02,,,\n')
    put("visits/b.csv", HEADER + '3,2024-03-01,"",1e3,false\n')
    put("visits/deeper/c.csv", HEADER + "4,2024-03-01,not of the table,1,true\n")
    put("others/d.csv", "other\n1\n")
    assert capture(uc) == 3
    assert capture(uc) == 0
    assert read(uc) == [(1, DAY, 'a, "b"', 0.5, True), (3, DAY, "", 1000.0, False)]
    assert read(uc, NEXT) == [(2, NEXT, None, None, None)]
    put("visits/e.csv", HEADER + "5,2024-03-01,new,1,true\n")
    assert capture(uc) == 1
    assert [row[0] for row in read(uc)] == [1, 3, 5]


def test_many_files_are_read_in_batches(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    for number in range(30):
        put(f"visits/{number}.csv", HEADER + f"{number},2024-03-01,p,1,true\n")
    assert capture(uc) == 30
    assert [row[0] for row in read(uc)] == list(range(30))
    assert len(journal.batches(uc, "site", "visits")) > 3


def test_a_changed_file_takes_the_place_of_what_it_said(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    put("visits/a.csv", HEADER + "1,2024-03-01,a,1,true\n2,2024-03-02,b,1,true\n3,2024-03-01,c,1,true\n")
    capture(uc)
    put("visits/a.csv", HEADER + "1,2024-03-01,changed,1,true\n")
    capture(uc)
    assert read(uc) == [(1, DAY, "changed", 1.0, True)]
    assert read(uc, NEXT) == [], "what it said of another day is gone, too"
    put("visits/a.csv", HEADER + "1,2024-03-01,changed,1,true\n")
    assert capture(uc) == 0, "the same content is no change"


def test_a_file_that_changes_back_is_as_it_was(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    for page in ("a", "b", "a", "b", "a"):
        put("visits/a.csv", HEADER + f"1,2024-03-01,{page},1,true\n")
        assert capture(uc) == 1
        assert read(uc) == [(1, DAY, page, 1.0, True)]


def test_a_file_that_is_gone_takes_nothing_with_it(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    put("visits/a.csv", HEADER + "1,2024-03-01,a,1,true\n")
    capture(uc)
    upstream.delete("visits/a.csv")
    assert capture(uc) == 0
    assert [row[0] for row in read(uc)] == [1]


def test_what_is_being_written_is_left_for_later(upstream: Upstream, tmp_path: Path) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix, files="visits/**/*")
    for name in ("_a.csv", ".a.csv", "a.csv.tmp", "a.csv.part", "_SUCCESS", "_temporary/0/a.csv"):
        put(f"visits/{name}", HEADER[:10])
    assert capture(uc) == 0
    if prefix.startswith("file:"):
        half = tmp_path / "upstream/visits/b.csv"
        half.write_text(HEADER + "1,2024-03-0")
        assert capture(uc) == 0
        put("visits/b.csv", HEADER + "1,2024-03-01,a,1,true\n")
        assert capture(uc) == 1


def test_a_file_known_later_is_not_seen_by_earlier_nights(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    put("visits/a.csv", HEADER + "1,2024-03-01,a,1,true\n")
    uc = site(prefix)
    capture(uc)
    assert read(uc, as_of=uc.as_of(DAY)) == []
    archive = site(prefix, known="night").model_copy(update={"name": "archive"})
    capture(archive)
    assert [row[0] for row in read(archive, as_of=uc.as_of(DAY))] == [1]
    assert read(archive, as_of=uc.as_of(DAY) - timedelta(seconds=1)) == []
    put("visits/a.csv", HEADER + "1,2024-03-01,corrected,1,true\n")
    capture(archive)
    assert [row[2] for row in read(archive, as_of=uc.as_of(DAY))] == ["a"], "what came later is known later"
    assert [row[2] for row in read(archive)] == ["corrected"]


@pytest.mark.parametrize("written", ["jsonl", "jsonl.gz", "parquet"])
def test_other_formats_say_the_same(upstream: Upstream, tmp_path: Path, written: str) -> None:
    prefix, put = upstream.prefix, upstream.put
    if written == "parquet":
        columns = {
            "visit": pa.array([1, 2], pa.int32()),
            "visited_on": pa.array([DAY, DAY], pa.date32()),
            "page": ["a", None],
            "seconds": [0.5, None],
            "known": [True, None],
        }
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        content = (tmp_path / "rows.parquet").read_bytes()
    else:
        content = (
            b'{"visit": 1, "visited_on": "2024-03-01", "page": "a", "seconds": 0.5, "known": true}\n'
            b'{"visit": 2, "visited_on": "2024-03-01"}\n'
        )
        content = gzip.compress(content) if written.endswith("gz") else content
    put(f"visits/a.{written}", content)
    uc = site(prefix, files=f"visits/*.{written}", format=written.split(".")[0])
    assert capture(uc) == 2
    assert read(uc) == [(1, DAY, "a", 0.5, True), (2, DAY, None, None, None)]


def test_a_dialect_is_declared(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    content = "visit;visited_on;page;seconds;known\n1;2024-03-01;'Müßig; \n';-;f\n".encode("latin-1")
    put("visits/a.csv", content)
    dialect = {
        "encoding": "latin-1",
        "delimiter": ";",
        "quote": "'",
        "newlines_in_values": True,
        "null_values": ["-"],
    }
    uc = site(prefix, csv=dialect)
    capture(uc)
    assert read(uc) == [(1, DAY, "Müßig; \n", None, False)]


def test_the_day_may_be_in_the_name(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    put("visits/2024-03-01/x.csv", HEADER + "1,2024-02-28,a,1,true\n")
    put("visits/2024-03-02/x.csv", HEADER + "2,2024-02-28,b,1,true\n")
    uc = site(prefix, files="visits/{day}/*.csv", day=None)
    assert capture(uc) == 2
    assert [row[0] for row in read(uc)] == [1]
    assert [row[0] for row in read(uc, NEXT)] == [2]
    put("visits/2024-02-31/x.csv", HEADER)
    with pytest.raises(DataError, match="'2024-02-31' is no day of the calendar"):
        capture(uc)


def test_each_dump_of_a_slow_table_is_the_whole_table(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    put("dump-20240302.csv", HEADER + "1,2024-03-01,second,1,true\n3,2024-03-01,new,1,true\n")
    put("dump-20240301.csv", HEADER + "1,2024-03-01,first,1,true\n2,2024-03-01,old,1,true\n")
    uc = site(prefix, refresh="slow", files="dump-{day}.csv", day=None)
    capture(uc)
    assert [row[:3] for row in read(uc)] == [(1, DAY, "second"), (3, DAY, "new")]
    put("dump-20240301.csv", HEADER + "4,2024-03-01,late,1,true\n")
    capture(uc)
    assert [row[0] for row in read(uc)] == [1, 3], "a dump of an earlier day says nothing of today"
    put("dump-20240303.csv", HEADER)
    capture(uc)
    assert read(uc) == []


def test_an_archive_of_dumps_is_known_day_by_day(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    for number in (1, 2, 3):
        put(f"dump-2024030{number}.csv", HEADER + f"{number},2024-03-01,p,1,true\n")
    uc = site(prefix, refresh="slow", files="dump-{day}.csv", day=None, known="night")
    capture(uc)
    nights = [uc.as_of(DAY + timedelta(days=number)) for number in range(3)]
    assert [[row[0] for row in read(uc, as_of=night)] for night in nights] == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            HEADER.replace("page", "title") + "1,2024-03-01,a,1,true\n",
            "- page (in the catalogue, not in what came)\n    + title",
        ),
        (HEADER + "one,2024-03-01,a,1,true\n", "~ visit is string, not int64"),
        (HEADER + "1,2024-03-01,a,1,perhaps\n", "~ known is string, not boolean"),
        (HEADER.replace("page", "visit") + "1,2024-03-01,a,1,true\n", "~ visit comes 2 times"),
        (HEADER + "1,2024-03-01\n", "no csv file, or not a whole one"),
        ("", "no csv file, or not a whole one"),
        (b"\xff\xfe\x00", "no csv file, or not a whole one"),
        (HEADER + '3,2024-03-01,"c,1,true\n4,2024-03-01,d",1,true\n', "a value of 'page' has a line break"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_what_came_before_it_stays(
    upstream: Upstream, content: bytes | str, message: str
) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix)
    put("visits/a.csv", HEADER + "1,2024-03-01,a,1,true\n")
    assert capture(uc) == 1
    put("visits/b.csv", HEADER + "2,2024-03-01,b,1,true\n")
    put("visits/c.csv", content)
    for _ in range(2):
        with pytest.raises(DataError) as error:
            capture(uc)
    assert message in error.value.message
    assert error.value.where.endswith("visits/c.csv")
    assert [row[0] for row in read(uc)] == [1, 2]
    put("visits/c.csv", HEADER.strip())
    assert capture(uc) == 0, "a header alone is a file without rows"


@pytest.mark.parametrize("line", [b"null", b'{"visit": 1}{"visit": 2}', b'{"z": ' + b"[" * 200_000 + b"}"])
def test_a_line_of_json_that_is_no_row_is_told(upstream: Upstream, line: bytes) -> None:
    prefix, put = upstream.prefix, upstream.put
    put("visits/a.jsonl", line + b"\n")
    with pytest.raises(DataError, match="it is no jsonl file"):
        capture(site(prefix, files="visits/*.jsonl", format="jsonl"))


def test_a_place_that_is_not_there_is_named(upstream: Upstream) -> None:
    prefix = upstream.prefix
    with pytest.raises(DataError) as error:
        capture(site(prefix.replace("/in/", "x/").replace("/upstream/", "/elsewhere/")))
    assert "elsewhere" in error.value.message or "NoSuchBucket" in error.value.message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"csv": {"encoding": "latin-99"}}, "there is no encoding 'latin-99'"),
        ({"files": "{day}.csv"}, "files has {day}, so `day` names no column"),
        ({"files": "visits/**"}, "** stands for folders"),
        ({"day": "page"}, "'page' is no date or timestamp"),
        ({"day": None}, "nothing says which day a row is of"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        open_connector(site(f"{tmp_path.as_uri()}/", **wrong), "site")
    assert message in error.value.message
    assert error.value.where.startswith("toy/sources.yml: sources.site.options.tables.visits")


def test_a_night_that_was_read_from_a_wrong_place_is_read_again(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    put("visits/a.csv", HEADER + "1,2024-03-01,p,1,true\n")
    wrong = site(prefix, files="visit/*.csv")
    now = datetime.now(UTC)
    assert open_connector(wrong, "site").capture("visits", now) == 0
    assert open_connector(site(prefix), "site").capture("visits", now) == 1


def test_a_file_of_an_archive_may_be_mended_before_it_is_read(upstream: Upstream) -> None:
    prefix, put = upstream.prefix, upstream.put
    uc = site(prefix, known="night", settle_seconds=0)
    put("visits/a.csv", HEADER + "1,2024-03-01,p,1,true\n")
    put("visits/b.csv", HEADER + "2,2024-03-01,p,ONE,true\n")
    with pytest.raises(DataError):
        capture(uc)
    put("visits/b.csv", HEADER + "2,2024-03-01,p,1,true\n")
    assert capture(uc) == 1
    assert [row[0] for row in read(uc, as_of=uc.as_of(DAY))] == [1, 2]
