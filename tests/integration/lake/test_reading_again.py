"""A process keeps the tables open that it reads: it sees what others publish all the same, at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lake_writer import KEY, rows

from nightshift.lake import tables
from nightshift.lake.delta import open_table
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)


def publish(uc: UseCase, content: int) -> str:
    return tables.replace_partition(uc, "features", DAY, rows(content), KEY).content_hash


def read(uc: UseCase) -> tuple[str, str]:
    """Return the content hash that the log tells of, and that of the rows."""
    data = tables.read_partitions(uc, "features", DAY, DAY)
    return tables.partition_versions(uc, "features")[DAY].content_hash, content_hash(data, KEY)


def test_a_table_is_opened_once_for_each_version(store: Store, uc: UseCase) -> None:
    assert open_table(uc, "features") is None
    publish(uc, 1)
    opened = open_table(uc, "features")
    assert open_table(uc, "features") is opened
    publish(uc, 2)
    assert open_table(uc, "features") is not opened


def test_who_publishes_leaves_the_table_open_for_readers(
    store: Store, uc: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    opens = DeltaTable.__init__
    monkeypatch.setattr(DeltaTable, "__init__", lambda *a, **o: (opened.append(a), opens(*a, **o))[1])
    published = publish(uc, 1)
    opened.clear()
    assert read(uc) == (published, published)
    assert opened == []


def test_a_table_that_its_writer_leaves_is_what_others_find(store: Store, uc: UseCase) -> None:
    # More versions than lie between two checkpoints, of several days, with a column that comes later.
    for number in range(24):
        day, content = DAY + timedelta(days=number % 5), rows(number)
        if number > 7:
            content = content.append_column("added", pa.array([float(number)] * content.num_rows))
        tables.replace_partition(uc, "features", day, content, KEY)
        if number % 7 == 6:
            tables.delete_partition(uc, "features", DAY)
        newest = open_table(uc, "features")
        assert newest is not None
        at = newest.version()
        assert tables.partition_versions(uc, "features") == tables.partition_versions(uc, "features", at)
        span = ("features", DAY, DAY + timedelta(days=5))
        assert tables.read_partitions(uc, *span).equals(tables.read_partitions(uc, *span, at=at))


def test_what_another_process_publishes_is_read_at_once(
    store: Store, uc: UseCase, writer: Callable[..., Any]
) -> None:
    publish(uc, 1)
    for content in range(2, 6):
        read(uc)
        published = writer("replace", DAY, content).finish()
        assert read(uc) == (published, published)


def test_a_table_that_was_removed_and_made_anew_is_read_anew(store: Store, uc: UseCase) -> None:
    for content in (1, 2):
        publish(uc, content)
    read(uc)
    for key in store.list("tables/toy/features/"):
        store.delete(key)
    assert tables.partition_versions(uc, "features") == {}
    for content in (3, 4):
        last = publish(uc, content)
    assert read(uc) == (last, last)


def test_threads_that_read_one_table_see_whole_versions_while_it_is_replaced(
    store: Store, uc: UseCase
) -> None:
    hashes = {content: publish(uc, content) for content in range(1, 4)}
    ended = Event()

    def reader() -> set[str]:
        found = set()
        while not ended.is_set():
            found.add(content_hash(tables.read_partitions(uc, "features", DAY, DAY), KEY))
            found.add(tables.partition_versions(uc, "features")[DAY].content_hash)
        return found

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(reader) for _ in range(4)]
        try:
            for content in [1, 2, 3] * 5:
                publish(uc, content)
        finally:
            ended.set()
        for one in readers:
            assert one.result() <= set(hashes.values())
    assert read(uc) == (hashes[3], hashes[3])


def test_what_was_read_is_the_readers_own(store: Store, uc: UseCase) -> None:
    publish(uc, 1)
    tables.partition_versions(uc, "features").clear()
    assert list(tables.partition_versions(uc, "features")) == [DAY]
