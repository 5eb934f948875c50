"""Several processes write at once: each write counts as a whole, nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from lake_writer import KEY, land, rows

from nightshift.lake import raw, tables
from nightshift.lake.append_log import read_log
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

Race = Callable[..., list[Any]]
DAY = date(2013, 7, 1)
DAYS = [DAY + timedelta(days=offset) for offset in range(4)]


def test_the_same_rows_landed_at_once_are_one_version(store: Store, uc: UseCase, race: Race) -> None:
    race(*[("land", DAY, 1)] * 4)
    (only,) = raw.versions(uc, "src", "events", DAY)
    assert raw.read(only).equals(rows(1))
    assert len(store.list("raw/")) == 2


def test_different_rows_landed_at_once_are_a_version_each(store: Store, uc: UseCase, race: Race) -> None:
    race(*[("land", DAY, content) for content in (1, 2, 3, 4)])
    found = raw.versions(uc, "src", "events", DAY)
    assert [one.version for one in found] == [1, 2, 3, 4]
    assert {one.content_hash for one in found} == {
        content_hash(rows(content), KEY) for content in (1, 2, 3, 4)
    }
    assert raw.current(uc, "src", "events", DAY) == found[-1]
    assert land(DAY, 5).version == 5


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "table with the partition"])
def test_the_same_partition_published_at_once_has_one_content(
    store: Store, uc: UseCase, race: Race, exists: bool
) -> None:
    if exists:
        tables.replace_partition(uc, "features", DAY, rows(9), KEY)
    hashes = race(*[("replace", DAY, content) for content in (1, 2, 3, 4)])
    published = tables.partition_version(uc, "features", DAY)
    assert published is not None
    assert published.content_hash in hashes
    data = tables.read_partitions(uc, "features", DAY, DAY)
    assert data["id"].to_pylist() == rows(1)["id"].to_pylist(), "every row once"
    assert content_hash(data, KEY) == published.content_hash


def test_equal_content_published_at_once_is_committed_once(store: Store, uc: UseCase, race: Race) -> None:
    first = tables.replace_partition(uc, "features", DAY, rows(9), KEY)
    race(*[("replace", DAY, 1)] * 4)
    published = tables.partition_version(uc, "features", DAY)
    assert published is not None
    assert published.table_version == first.table_version + 1
    assert tables.read_partitions(uc, "features", DAY, DAY).num_rows == 200


@pytest.mark.parametrize("exists", [False, True], ids=["new table", "existing table"])
def test_different_partitions_published_at_once_all_succeed(
    store: Store, uc: UseCase, race: Race, exists: bool
) -> None:
    if exists:
        tables.replace_partition(uc, "features", DAY - timedelta(days=1), rows(9), KEY)
    hashes = race(*[("replace", day, number) for number, day in enumerate(DAYS, 1)])
    found = tables.partition_versions(uc, "features")
    assert {day: found[day].content_hash for day in DAYS} == dict(zip(DAYS, hashes, strict=True))
    for number, day in enumerate(DAYS, 1):
        data = tables.read_partitions(uc, "features", day, day)
        assert data.drop_columns(["partition"]).equals(rows(number))


def test_two_writers_of_a_log_never_share_a_number(store: Store, race: Race) -> None:
    numbers = race(("append", DAY, 1), ("append", DAY, 2))
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 21))
    records = read_log("race")
    for content, own in enumerate(numbers, 1):
        assert [records[number - 1] for number in own] == [
            {"writer": content, "turn": turn} for turn in range(10)
        ]
