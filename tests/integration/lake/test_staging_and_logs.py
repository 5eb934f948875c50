"""Objects that travel between tasks, objects kept for good, and logs that only grow."""

from __future__ import annotations

from datetime import date

import pytest
from lake_writer import KEY, rows

from nightshift.errors import DataError, TransientError
from nightshift.lake import staging
from nightshift.lake.append_log import append, read_log
from nightshift.lake.frozen import Frozen, freeze, thaw
from nightshift.lake.staging import Staged, read_staged, stage
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)


def test_a_staged_partition_travels_as_json(store: Store, uc: UseCase) -> None:
    staged = stage(uc, "features", DAY, rows(1), KEY)
    arrived = Staged.model_validate_json(staged.model_dump_json())
    assert read_staged(arrived).drop_columns(["partition"]).equals(rows(1))
    assert (arrived.rows, arrived.partition) == (200, DAY)


def test_staging_again_is_the_same_object(store: Store, uc: UseCase) -> None:
    staged = stage(uc, "features", DAY, rows(1), KEY)
    assert stage(uc, "features", DAY, rows(1).take(list(range(199, -1, -1))), KEY) == staged
    assert store.list("staging/") == [staged.key]


def test_what_was_swept_is_bad_luck_and_what_was_damaged_is_bad_data(store: Store, uc: UseCase) -> None:
    staged = stage(uc, "features", DAY, rows(1), KEY)
    store.put(staged.key, b"damaged")
    with pytest.raises(DataError, match="changed or damaged"):
        read_staged(staged)
    assert staging.sweep(uc, older_than_days=7) == 0
    assert staging.sweep(uc, older_than_days=-1) == 1
    with pytest.raises(TransientError, match="no object"):
        read_staged(staged)


def test_a_frozen_table_keeps_its_rows_and_their_order(store: Store, uc: UseCase) -> None:
    backwards = rows(1).take(list(range(199, -1, -1)))
    frozen = Frozen.model_validate_json(freeze(uc, "snapshots", backwards, KEY).model_dump_json())
    assert thaw(frozen).equals(backwards)
    assert freeze(uc, "snapshots", rows(1), KEY) == frozen, "the same content is the same snapshot"
    assert staging.sweep(uc, older_than_days=-1) == 0
    assert thaw(frozen).equals(backwards)


def test_a_log_returns_its_records_in_the_order_of_writing(store: Store) -> None:
    assert read_log("deployments/toy") == []
    assert [append("deployments/toy", {"version": number}) for number in range(12)] == list(range(1, 13))
    assert [record["version"] for record in read_log("deployments/toy")] == list(range(12))
    assert read_log("deployments/to") == [], "a log is not the beginning of another's name"
