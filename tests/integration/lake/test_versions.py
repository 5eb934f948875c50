"""Earlier versions of a table: reading them, and putting one partition back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

DAY, OTHER = date(2013, 1, 5), date(2013, 1, 6)


def _rows(*values: int) -> pa.Table:
    return pa.table({"id": [f"{number}" for number in range(len(values))], "value": list(values)})


def _publish(uc: UseCase, day: date, *values: int) -> tables.PartitionVersion:
    return tables.replace_partition(uc, "features", day, _rows(*values), ["id"])


def _values(uc: UseCase, at: int | datetime | None = None) -> list[int]:
    table = tables.read_partitions(uc, "features", DAY, DAY, at=at)
    return table["value"].to_pylist() if table.num_rows else []


@pytest.fixture
def published(store: Store, uc: UseCase) -> list[tables.PartitionVersion]:
    """Three contents of one day, and another day between them."""
    first = _publish(uc, DAY, 1, 2)
    _publish(uc, OTHER, 9)
    return [first, _publish(uc, DAY, 3), _publish(uc, DAY, 4, 5)]


def test_a_table_reads_as_of_a_version_and_as_of_a_time(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    assert _values(uc) == [4, 5]
    for version, values in zip(published, ([1, 2], [3], [4, 5]), strict=True):
        assert _values(uc, version.table_version) == values
    for known, values in zip(tables.history(uc, "features", DAY), ([1, 2], [3], [4, 5]), strict=True):
        assert _values(uc, known.published_at) == values
    assert _values(uc, datetime(2001, 1, 1, tzinfo=UTC)) == []
    assert _values(uc, datetime.now(UTC) + timedelta(days=1)) == [4, 5]
    assert list(tables.partition_versions(uc, "features", published[0].table_version)) == [DAY]


def test_a_partition_keeps_its_version_while_others_are_written(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    other = tables.history(uc, "features", OTHER)[-1].table_version
    assert tables.last_written(uc, "features") == {DAY: published[-1].table_version, OTHER: other}
    assert other < published[-1].table_version
    tables.delete_partition(uc, "features", DAY)
    assert tables.last_written(uc, "features") == {OTHER: other}


def test_the_history_of_a_partition_names_its_own_contents(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    tables.delete_partition(uc, "features", DAY)
    known = tables.history(uc, "features", DAY)
    assert [entry.content_hash for entry in known] == [v.content_hash for v in published] + [""]
    assert [entry.rows for entry in known] == [2, 1, 2, 0]
    assert len(tables.history(uc, "features", OTHER)) == 1
    assert tables.history(uc, "features", date(2013, 1, 7)) == []


def test_a_partition_is_rolled_back_alone_and_once(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    _publish(uc, OTHER, 8)
    restored = tables.restore_partition(uc, "features", DAY, published[0].table_version)
    assert restored is not None
    assert restored.content_hash == published[0].content_hash
    assert _values(uc) == [1, 2]
    assert tables.read_partitions(uc, "features", OTHER, OTHER)["value"].to_pylist() == [8]
    assert tables.restore_partition(uc, "features", DAY, published[0].table_version) == restored
    # What was rolled back can be published again: nothing is lost.
    assert _publish(uc, DAY, 4, 5).content_hash == published[2].content_hash


def test_a_partition_is_rolled_back_to_before_it_was_there(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    assert tables.restore_partition(uc, "features", OTHER, published[0].table_version) is None
    assert list(tables.partition_versions(uc, "features")) == [DAY]


def test_columns_that_came_later_are_null_after_a_rollback(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    wider = _rows(7).append_column("more", pa.array([1.5]))
    tables.replace_partition(uc, "features", DAY, wider, ["id"])
    tables.restore_partition(uc, "features", DAY, published[1].table_version)
    table = tables.read_partitions(uc, "features", DAY, DAY)
    assert table.select(["value", "more"]).to_pylist() == [{"value": 3, "more": None}]


def test_a_version_that_never_was_is_refused(uc: UseCase, published: list[tables.PartitionVersion]) -> None:
    with pytest.raises(DataError, match=r"no version of features as of 999(.|\n)*nightshift versions"):
        tables.restore_partition(uc, "features", DAY, 999)
    assert _values(uc) == [4, 5]


def test_a_version_whose_files_retention_removed_is_refused(
    uc: UseCase, published: list[tables.PartitionVersion]
) -> None:
    tables.vacuum(uc, "features", retention_days=0)
    with pytest.raises(DataError, match="retention"):
        tables.restore_partition(uc, "features", DAY, published[0].table_version)
    assert _values(uc) == [4, 5]


def test_what_is_constant_in_a_partition_is_read_from_one_row(store: Store, uc: UseCase) -> None:
    for day, made_by in ((DAY, "a"), (OTHER, "b")):
        rows = _rows(1, 2, 3).append_column("made_by", pa.array([made_by] * 3))
        tables.replace_partition(uc, "features", day, rows, ["id"])
    assert tables.constants(uc, "features", DAY, OTHER, ["made_by"]) == {
        DAY: {"made_by": "a"},
        OTHER: {"made_by": "b"},
    }
    assert tables.constants(uc, "labels", DAY, OTHER, ["made_by"]) == {}
