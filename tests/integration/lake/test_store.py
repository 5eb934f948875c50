"""Objects by key, alike on files and on S3."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightshift.errors import DataError, TransientError
from nightshift.lake.store import FileStore, NoSuchObjectError, Store, open_store


def test_an_object_is_read_back_replaced_and_deleted(store: Store) -> None:
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"
    assert store.exists("a/b.json")
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert not store.exists("a/b.json")
    with pytest.raises(NoSuchObjectError, match=r"a/b\.json"):
        store.get("a/b.json")


def test_put_new_never_overwrites(store: Store) -> None:
    assert store.put_new("a", b"first")
    assert not store.put_new("a", b"second")
    assert store.get("a") == b"first"


def test_of_many_put_new_at_once_exactly_one_wins_and_its_content_stays(store: Store) -> None:
    contents = [str(number).encode() * 1000 for number in range(16)]
    with ThreadPoolExecutor(16) as writers:
        won = list(writers.map(lambda content: store.put_new("a/b", content), contents))
    assert won.count(True) == 1
    assert store.get("a/b") == contents[won.index(True)]


def test_listing_goes_by_prefix_not_by_folder(store: Store) -> None:
    for key in ("x/day=2", "x/day=1/a", "x/day=1/b", "xy", "z"):
        store.put(key, b"")
    assert store.list("x/day=1") == ["x/day=1/a", "x/day=1/b"]
    assert store.list("x") == ["x/day=1/a", "x/day=1/b", "x/day=2", "xy"]
    assert store.list("") == ["x/day=1/a", "x/day=1/b", "x/day=2", "xy", "z"]
    assert store.list("nothing/here") == []


def test_folders_are_those_right_there(store: Store) -> None:
    for key in ("x/b/one", "x/b/c/two", "x/a/three", "x/four", "xy/five"):
        store.put(key, b"")
    assert store.folders("x/") == ["a", "b"]
    assert store.folders("") == ["x", "xy"]
    assert store.folders("nothing/here/") == []


def test_a_range_of_folders_is_listed_without_the_others(store: Store) -> None:
    keys = [f"days/{day}/{name}" for day in ("2013-01-31", "2013-02-01", "2013-02-10") for name in "ab"]
    for key in (*keys, "days/2013-02-02", "days-of-others/2013-02-01/a"):
        store.put(key, b"x")
    assert store.list_between("days/", "2013-01-31", "2013-02-01") == keys[:4]
    assert store.list_between("days/", "2013-02-01", "2013-02-09") == keys[2:4]
    assert store.list_between("days/", "2013-02-11", "2014-01-01") == []
    assert store.list_between("nights/", "2013-02-11", "2014-01-01") == []


def test_listing_does_not_stop_at_a_thousand(store: Store) -> None:
    keys = [f"many/{number:05d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda key: store.put(key, b"."), keys))
    assert store.list("many/") == keys


def test_an_object_written_anew_is_told_from_what_it_was(store: Store) -> None:
    assert store.written("a/b") is None
    seen = []
    for content in (b"one", b"two"):
        store.put("a/b", content)
        seen.append(store.written("a/b"))
        assert store.written("a/b") == seen[-1]
    assert len(set(seen)) == 2


def test_objects_know_when_they_were_written(store: Store) -> None:
    store.put("a/b", b"")
    written = store.modified("a/")
    assert list(written) == ["a/b"]
    assert abs(written["a/b"] - datetime.now(UTC)) < timedelta(minutes=1)


def test_nothing_is_left_of_a_finished_write(home: Path) -> None:
    store = FileStore(home / "lake")
    store.put("a", b"")
    store.put_new("b", b"")
    store.put_new("b", b"")
    assert sorted(path.name for path in (home / "lake").rglob("*") if path.is_file()) == ["a", "b"]


def test_a_folder_name_with_spaces_and_signs_works(tmp_path: Path) -> None:
    store = open_store((tmp_path / "my lake #1 100%").as_uri())
    store.put("a", b"x")
    assert (tmp_path / "my lake #1 100%" / "a").read_bytes() == b"x"


@pytest.mark.parametrize("uri", ["ftp://host/x", "/no/scheme", "s3://"])
def test_an_address_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(DataError, match="no address of a lake"):
        open_store(uri)


def test_a_file_in_the_place_of_the_lake_is_a_mistake_and_stays(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("precious")
    with pytest.raises(DataError, match="is no folder"):
        FileStore(tmp_path / "lake").put("a", b"x")
    assert (tmp_path / "lake").read_text() == "precious"


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (errno.ENOSPC, TransientError, "no space left"),
        (errno.EACCES, DataError, "not allowed"),
        (errno.EROFS, DataError, "read-only file system"),
    ],
)
def test_a_disk_that_takes_no_more_says_why_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, kind: type[Exception], message: str
) -> None:
    store = FileStore(tmp_path)
    store.put("a", b"old")

    def failing(descriptor: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(kind, match=message):
        store.put("a", b"new")
    assert store.get("a") == b"old"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a"]


def test_an_unknown_bucket_is_a_mistake_that_names_its_cure(emulated_bucket: str) -> None:
    """As S3 answers; SeaweedFS makes a bucket for whoever may."""
    with pytest.raises(DataError, match="create the bucket"):
        open_store("s3://no-such-bucket/lake").put("a", b"x")


def test_an_unreachable_server_is_bad_luck(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TransientError, match="not reached"):
        open_store(f"s3://{s3_folder}/elsewhere").get("a")
