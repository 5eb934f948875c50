"""Scoring one partition on a Ray cluster: the same predictions, whatever becomes of its machines."""

from __future__ import annotations

import json
import pickle  # nosec B403  # as Ray hands things to its workers
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.integration.scaleout.conftest import Machines
from tests.lakes import on_both_storages

from nightshift.errors import DataError
from nightshift.inference import distributed
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.lake.staging import read_staged, stage
from nightshift.lake.store import open_store
from nightshift.lake.tables import Stretch
from nightshift.registry.models import load_model
from nightshift.usecase import UseCase

storage = on_both_storages

Day = Callable[..., pa.Table]

DAY = date(2013, 3, 1)


def test_two_machines_give_the_predictions_that_one_process_gives(
    usecase: UseCase, on_ray: UseCase, machines: Machines, day_of_features: Day
) -> None:
    features = day_of_features(DAY, 70_000).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, features, ["flight_id"])
    local = score(usecase, DAY)
    staged = score(on_ray, DAY)
    assert staged.content_hash == local.content_hash
    assert staged.rows == local.rows == features.num_rows
    scored = read_staged(staged)["flight_id"]
    assert sorted(scored.to_pylist()) == sorted(features["flight_id"].to_pylist())


def test_a_machine_lost_on_the_way_loses_no_row(
    usecase: UseCase, on_ray: UseCase, machines: Machines, day_of_features: Day
) -> None:
    published = day_of_features(DAY, 150_000).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, published, ["flight_id"])
    local = score(usecase, DAY)
    features = tables.partition_version(usecase, "features", DAY)
    assert features is not None
    seconds: list[float] = []

    def predictions() -> Iterator[pa.RecordBatch]:
        scored = distributed.score(on_ray, load_model(on_ray, "1"), features, "", seconds)
        yield next(scored)
        machines.lose_one_at_work()
        yield from scored

    table = pa.Table.from_batches(predictions())
    assert table.num_rows == local.rows == published.num_rows
    assert stage(usecase, "predictions", DAY, table, ["flight_id"]).content_hash == local.content_hash


def test_features_without_a_column_the_model_reads_are_bad_data(
    on_ray: UseCase, machines: Machines, day_of_features: Day
) -> None:
    store = open_store()
    for key in store.list(f"tables/{on_ray.name}/features/"):
        store.delete(key)
    features = day_of_features(DAY, 500).drop_columns(["late", "delay"])
    tables.replace_partition(on_ray, "features", DAY, features, ["flight_id"])
    with pytest.raises(DataError, match=r"do not fit model version 1.*delay"):
        score(on_ray, DAY)


def test_an_entity_that_is_named_twice_stops_the_day(
    on_ray: UseCase, machines: Machines, day_of_features: Day
) -> None:
    features = day_of_features(DAY, 500).drop_columns("late")
    tables.replace_partition(
        on_ray, "features", DAY, pa.concat_tables([features, features[:1]]), ["flight_id"]
    )
    with pytest.raises(DataError, match="501 predictions name 500 entities"):
        score(on_ray, DAY)


_WITHOUT_A_CLUSTER = """
import json, sys
import psutil
from datetime import date
from nightshift import cluster
from nightshift.inference.score import score
from nightshift.usecase import UseCase

heard = set()
real = cluster.log.info
def listening(*arguments):
    for process in psutil.Process().children(recursive=True):
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                heard.add(one.laddr.ip)
    real(*arguments)
cluster.log.info = listening
staged = score(UseCase.model_validate_json(sys.stdin.read()), date(2013, 1, 17))
left = [
    process.name()
    for process in psutil.Process().children(recursive=True)
    if process.status() != psutil.STATUS_ZOMBIE
]
print(json.dumps([staged.content_hash, sorted(heard), left]))
"""


def test_without_an_address_a_cluster_of_this_machine_lasts_as_long_as_the_job(
    usecase: UseCase, on_ray: UseCase
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_CLUSTER],
        input=on_ray.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    digest, heard, left = json.loads(done.stdout.splitlines()[-1])
    assert digest == score(usecase, date(2013, 1, 17)).content_hash
    assert heard
    assert {address.removeprefix("::ffff:") for address in heard} <= {"127.0.0.1", "::1"}
    assert left == []


def test_each_row_of_a_partition_is_in_one_stretch(usecase: UseCase, day_of_features: Day) -> None:
    table = day_of_features(DAY, 5000).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, table, ["flight_id"])
    expected = tables.read_partitions(usecase, "features", DAY, DAY, columns=["flight_id", "delay"])
    for most_rows in (700, 1250, 100_000):
        version, stretches = tables.stretches(usecase, "features", DAY, most_rows)
        sent = pickle.loads(pickle.dumps(stretches))  # nosec B301  # its own
        read = [list(stretch.batches(["flight_id", "delay"], 300)) for stretch in sent]
        assert version == tables.partition_version(usecase, "features", DAY)
        assert [sum(batch.num_rows for batch in one) for one in read] == [one.rows for one in stretches]
        assert max(stretch.rows for stretch in stretches) <= most_rows
        assert pa.Table.from_batches([batch for one in read for batch in one]).equals(expected)


def test_each_row_of_a_file_of_many_row_groups_is_in_one_stretch(tmp_path: Path) -> None:
    table = pa.table({"number": range(1000)})
    pq.write_table(table, tmp_path / "file.parquet", row_group_size=90)
    dataset = ds.dataset(tmp_path / "file.parquet")
    [file] = dataset.get_fragments()
    for most_rows in (50, 90, 133, 400, 5000):
        stretches = list(Stretch.of(file, dataset.schema, most_rows))
        read = [pa.Table.from_batches(one.batches(["number"], 40)) for one in stretches]
        assert [one.num_rows for one in read] == [one.rows for one in stretches]
        assert pa.concat_tables(read).equals(table)
