"""Strict CSV files: what a person with a broken file gets to read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.sources.csv_files import read_csv

COLUMNS = {"city": pa.string(), "note": None, "count": pa.int64(), "seen": pa.timestamp("us", "UTC")}
GOOD = "city,note,count,seen\nOslo,x,3,2013-01-01T10:00:00Z\nNA,,NA,\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "sightings.csv"
    file.write_text(text, encoding="utf-8")
    return file


def refused(file: Path) -> str:
    with pytest.raises(DataError) as error:
        read_csv(file, COLUMNS)
    assert error.value.where == str(file)
    return error.value.message


def test_na_and_nothing_are_null_and_unneeded_columns_are_left_out(tmp_path: Path) -> None:
    got = read_csv(write(tmp_path, GOOD), COLUMNS)
    assert got.schema == pa.schema({name: kind for name, kind in COLUMNS.items() if kind is not None})
    assert got["city"].to_pylist() == ["Oslo", None]
    assert got["count"].to_pylist() == [3, None]


def test_zipped_windows_and_quoted_files_read_the_same(tmp_path: Path) -> None:
    plain = read_csv(write(tmp_path, GOOD), COLUMNS)
    with zipfile.ZipFile(tmp_path / "sightings.csv.zip", "w") as archive:
        archive.writestr("sightings.csv", GOOD)
    assert read_csv(tmp_path / "sightings.csv.zip", COLUMNS).equals(plain)
    windows = "\ufeff" + GOOD.replace("\n", "\r\n").replace("city", '"city"')
    assert read_csv(write(tmp_path, windows), COLUMNS).equals(plain)


def test_header_only_gives_no_rows(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, GOOD.splitlines()[0]), COLUMNS).num_rows == 0


def test_missing_extra_and_repeated_columns_are_all_named(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "city,city,note,colour,seen\nOslo,Oslo,x,red,2013-01-01T10:00:00Z\n"))
    assert "'count' is missing" in message
    assert "'colour' is not expected" in message
    assert "'city' comes 2 times" in message


def test_wrong_types_name_column_line_and_value(tmp_path: Path) -> None:
    text = GOOD + "Rome,x,4.5,2013-01-01T10:00:00Z\nBern,x,6,tomorrow\nBonn,x,seven,\n"
    message = refused(write(tmp_path, text))
    assert "column 'count', line 4: '4.5'" in message
    assert "column 'seen', line 5: 'tomorrow'" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "missing"),
        (GOOD.encode() + b"Rome,x\n", "Expected 4 columns, got 2"),
        (GOOD.encode() + b"K\xf8benhavn,x,1,2013-01-01T10:00:00Z\n", "UTF8"),
    ],
    ids=["empty", "ragged", "not utf-8"],
)
def test_files_that_are_no_table_are_refused(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "sightings.csv"
    file.write_bytes(content)
    assert part in refused(file)


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "sightings.csv")
    broken = tmp_path / "sightings.csv.zip"
    broken.write_bytes(b"not a zip")
    assert "cannot be read" in refused(broken)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("other.csv", GOOD)
    assert "cannot be read" in refused(broken)
