"""Scoring one partition on a Ray cluster: the same predictions, whatever becomes of its machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import pyarrow as pa
import pytest
from tests.integration.scaleout.conftest import Machines
from tests.lakes import on_both_storages

from nightshift.inference import distributed
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.lake.staging import read_staged, stage
from nightshift.registry.models import load_model
from nightshift.usecase import UseCase

storage = on_both_storages

Day = Callable[..., pa.Table]

DAY = date(2013, 3, 1)
ROWS = 70_000


@pytest.fixture
def large_day(usecase: UseCase, day_of_features: Day) -> pa.Table:
    table = day_of_features(DAY, ROWS).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, table, ["flight_id"])
    return table


def test_two_machines_give_the_predictions_that_one_process_gives(
    usecase: UseCase, on_ray: UseCase, machines: Machines, large_day: pa.Table
) -> None:
    local = score(usecase, DAY)
    staged = score(on_ray, DAY)
    assert staged.content_hash == local.content_hash
    assert staged.rows == local.rows == ROWS
    assert sorted(read_staged(staged)["flight_id"].to_pylist()) == sorted(large_day["flight_id"].to_pylist())


def test_a_machine_lost_on_the_way_loses_no_row(
    usecase: UseCase, on_ray: UseCase, machines: Machines, large_day: pa.Table
) -> None:
    local = score(usecase, DAY)
    features = tables.partition_version(usecase, "features", DAY)
    assert features is not None
    seconds: list[float] = []

    def predictions() -> Iterator[pa.RecordBatch]:
        scored = distributed.score(on_ray, load_model(on_ray, "1"), features, "", seconds)
        yield next(scored)
        machines.lose_the_second()
        yield from scored

    table = pa.Table.from_batches(predictions())
    assert table.num_rows == ROWS
    assert stage(usecase, "predictions", DAY, table, ["flight_id"]).content_hash == local.content_hash
