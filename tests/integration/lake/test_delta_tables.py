"""Published partitions: replaced whole, versioned by content, read back in order."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lake_writer import KEY, rows

from nightshift.errors import DataError, TransientError
from nightshift.lake import tables
from nightshift.lake.staging import stage
from nightshift.lake.store import Store
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)
NEXT = date(2013, 7, 2)


def publish(uc: UseCase, day: date, data: pa.Table) -> tables.PartitionVersion:
    return tables.replace_partition(uc, "features", day, data, KEY)


def read(uc: UseCase, day: date = DAY) -> pa.Table:
    return tables.read_partitions(uc, "features", day, day)


def delta_version(uc: UseCase, store: Store) -> int:
    uri = store.uri("tables/toy/features")
    return int(DeltaTable(uri, storage_options=store.storage_options()).version())


def test_a_partition_is_read_back_with_its_day_in_key_order(store: Store, uc: UseCase) -> None:
    published = publish(uc, DAY, rows(1).take(list(range(199, -1, -1))))
    assert read(uc).drop_columns(["partition"]).equals(rows(1))
    assert read(uc)["partition"].unique().to_pylist() == [DAY]
    assert published.rows == 200
    assert tables.partition_version(uc, "features", DAY) == published


def test_equal_content_makes_no_new_table_version(store: Store, uc: UseCase) -> None:
    published = publish(uc, DAY, rows(1))
    files = store.list("tables/")
    shuffled = rows(1).take([*range(100, 200), *range(100)])
    assert publish(uc, DAY, shuffled) == published
    assert publish(uc, DAY, read(uc)) == published, "what was read back is the same content"
    assert store.list("tables/") == files
    assert delta_version(uc, store) == published.table_version


def test_replacing_leaves_other_partitions_alone(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1))
    other = publish(uc, NEXT, rows(2))
    changed = publish(uc, DAY, rows(3, 50))
    assert read(uc).drop_columns(["partition"]).equals(rows(3, 50))
    assert read(uc, NEXT).drop_columns(["partition"]).equals(rows(2))
    found = tables.partition_versions(uc, "features")
    assert {day: (one.rows, one.content_hash) for day, one in found.items()} == {
        DAY: (50, changed.content_hash),
        NEXT: (200, other.content_hash),
    }


def test_the_hash_of_staged_rows_is_the_hash_published(store: Store, uc: UseCase) -> None:
    assert stage(uc, "features", DAY, rows(1), KEY).content_hash == publish(uc, DAY, rows(1)).content_hash


def test_a_partition_whose_file_is_gone_is_named_and_mended_by_publishing_it_again(
    store: Store, uc: UseCase
) -> None:
    for offset in range(3):
        publish(uc, DAY + timedelta(days=offset), rows(offset))
    assert tables.damaged(uc, "features") == set()
    (file,) = (key for key in store.list(f"tables/toy/features/partition={NEXT}/"))
    store.delete(file)
    assert tables.damaged(uc, "features") == {NEXT}
    publish(uc, NEXT, rows(1))
    assert tables.damaged(uc, "features") == set()
    assert read(uc, NEXT).num_rows == rows(1).num_rows


_READ = """
import sys
from datetime import date
from nightshift.lake import tables
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.argv[1])
for _ in range(5):
    tables.read_partitions(uc, "features", date(2013, 7, 1), date(2013, 7, 10))
"""


def test_a_process_that_has_read_a_table_ends_in_peace(store: Store, uc: UseCase) -> None:
    """Of ten processes whose reads went through Python, four were aborted while they ended."""
    for offset in range(10):
        publish(uc, DAY + timedelta(days=offset), rows(offset))
    readers = [
        subprocess.Popen([sys.executable, "-c", _READ, uc.model_dump_json()], stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    ended = [(reader.communicate()[1], reader.returncode) for reader in readers]
    assert ended == [(b"", 0)] * len(readers)


def test_a_range_comes_in_the_order_of_days_and_only_the_columns_asked_for(store: Store, uc: UseCase) -> None:
    for offset in (2, 0, 1):
        publish(uc, DAY + timedelta(days=offset), rows(offset, 3))
    data = tables.read_partitions(uc, "features", DAY, NEXT, columns=["partition", "id"])
    assert data.column_names == ["partition", "id"]
    assert data.to_pylist() == [
        {"partition": day, "id": f"{number:06d}"} for day in (DAY, NEXT) for number in range(3)
    ]


def test_nothing_published_is_nothing_not_an_error(store: Store, uc: UseCase) -> None:
    assert tables.partition_versions(uc, "features") == {}
    assert tables.partition_version(uc, "features", DAY) is None
    assert read(uc).num_rows == 0
    assert list(tables.scan(uc, "features", DAY)) == []
    assert tables.layers(uc) == []
    tables.delete_partition(uc, "features", DAY)
    assert tables.vacuum(uc, "features", 7) == 0


def test_a_new_column_joins_and_older_partitions_keep_their_content(store: Store, uc: UseCase) -> None:
    before = publish(uc, DAY, rows(1))
    publish(uc, NEXT, rows(1).append_column("new", pa.array(["x"] * 200)))
    assert read(uc)["new"].null_count == 200
    assert publish(uc, DAY, read(uc)).content_hash == before.content_hash
    third = DAY + timedelta(days=2)
    publish(uc, third, rows(1).drop_columns(["value"]))
    assert read(uc, third)["value"].null_count == 200


def test_columns_of_nulls_and_whole_numbers_fit_the_published_types(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1))
    whole = rows(1).set_column(1, "value", pa.array(range(200), pa.int32()))
    publish(uc, NEXT, whole)
    assert read(uc, NEXT)["value"].to_pylist() == list(range(200))
    publish(uc, NEXT, rows(1).set_column(1, "value", pa.nulls(200, pa.string())))
    assert read(uc, NEXT)["value"].null_count == 200
    publish(uc, NEXT, rows(1).set_column(1, "value", pa.nulls(200)))
    assert read(uc, NEXT)["value"].type == pa.float64()


def test_a_column_that_changes_its_type_is_refused_and_named(store: Store, uc: UseCase) -> None:
    published = publish(uc, DAY, rows(1))
    with pytest.raises(DataError, match="'value' is string, the published table has double"):
        publish(uc, DAY, rows(1).set_column(1, "value", pa.array(["1"] * 200)))
    assert tables.partition_version(uc, "features", DAY) == published


def test_an_empty_partition_is_an_absent_one(store: Store, uc: UseCase) -> None:
    nothing = publish(uc, DAY, rows(1).slice(0, 0))
    assert nothing.rows == 0
    assert tables.partition_versions(uc, "features") == {}
    publish(uc, DAY, rows(1))
    publish(uc, DAY, rows(1).slice(0, 0))
    assert tables.partition_version(uc, "features", DAY) is None
    assert read(uc).num_rows == 0
    version = delta_version(uc, store)
    publish(uc, DAY, rows(1).slice(0, 0))
    assert delta_version(uc, store) == version


def test_a_scan_yields_small_batches_in_key_order(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1, 1000))
    publish(uc, NEXT, rows(2, 1000))
    batches = list(tables.scan(uc, "features", DAY, columns=["id"], batch_rows=300))
    assert max(batch.num_rows for batch in batches) <= 300
    assert pa.Table.from_batches(batches).equals(rows(1, 1000).select(["id"]))


def test_a_deleted_partition_can_be_published_again(store: Store, uc: UseCase) -> None:
    published = publish(uc, DAY, rows(1))
    publish(uc, NEXT, rows(1))
    tables.delete_partition(uc, "features", DAY)
    assert list(tables.partition_versions(uc, "features")) == [NEXT]
    assert publish(uc, DAY, rows(1)).content_hash == published.content_hash
    assert read(uc).num_rows == 200


def test_vacuum_removes_replaced_and_abandoned_files_only(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1))
    publish(uc, DAY, rows(2))
    files = store.list(f"tables/toy/features/partition={DAY}/")
    store.put(f"tables/toy/features/partition={DAY}/part-left-by-a-killed-writer.parquet", b"")
    assert tables.vacuum(uc, "features", retention_days=7) == 0, "younger than the retention"
    assert tables.vacuum(uc, "features", retention_days=0) == 2
    assert len(files) == 2
    assert read(uc).drop_columns(["partition"]).equals(rows(2))


def test_every_layer_has_its_own_table(store: Store, uc: UseCase) -> None:
    for layer in ("predictions", "quarantine_raw_events"):
        tables.replace_partition(uc, layer, DAY, rows(1), KEY)
    assert tables.layers(uc) == ["predictions", "quarantine_raw_events"]
    with pytest.raises(DataError, match="no layer 'predicitons'"):
        tables.partition_versions(uc, "predicitons")


def test_a_lost_file_is_named_and_publishing_again_mends_it(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1))
    (lost,) = store.list(f"tables/toy/features/partition={DAY}/")
    store.delete(lost)
    with pytest.raises(DataError, match="a file that its log names is gone"):
        read(uc)
    publish(uc, DAY, rows(1))
    assert read(uc).num_rows == 200


def test_a_damaged_log_is_named(store: Store, uc: UseCase) -> None:
    publish(uc, DAY, rows(1))
    store.put("tables/toy/features/_delta_log/00000000000000000001.json", b'{"add":')
    with pytest.raises(DataError, match="its log cannot be read"):
        read(uc)


def test_a_storage_out_of_reach_is_bad_luck(
    s3_folder: str, uc: UseCase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NIGHTSHIFT_LAKE", f"s3://{s3_folder}/unreachable")
    settings.cache_clear()
    with pytest.raises(TransientError, match="the storage failed"):
        tables.partition_versions(uc, "features")


@pytest.mark.parametrize("storage", ["file"])
def test_a_storage_that_fails_while_rows_are_written_is_bad_luck(home: Path, uc: UseCase) -> None:
    published = publish(uc, DAY, rows(1))
    in_the_way = home / f"lake/tables/toy/features/partition={NEXT}"
    in_the_way.write_text("a file where a folder has to be")
    with pytest.raises(TransientError, match="the storage failed"):
        publish(uc, NEXT, rows(1))
    assert list(tables.partition_versions(uc, "features").values()) == [published]
    in_the_way.unlink()
    assert publish(uc, NEXT, rows(1)).rows == 200


def test_versions_of_thousands_of_partitions_are_read_from_the_log_alone(store: Store, uc: UseCase) -> None:
    """Of none of them a data file exists."""
    publish(uc, DAY, rows(1, 1))
    log = "tables/toy/features/_delta_log"
    template = store.get(f"{log}/00000000000000000001.json").decode().splitlines()
    add = next(json.loads(line)["add"] for line in template if '"add"' in line)
    days = [DAY + timedelta(days=offset) for offset in range(1, 5001)]
    actions = [
        json.dumps(
            {
                "add": add
                | {
                    "path": add["path"].replace(str(DAY), str(day)),
                    "partitionValues": add["partitionValues"] | {"partition": str(day)},
                }
            }
        )
        for day in days
    ]
    store.put(f"{log}/00000000000000000002.json", "\n".join(actions).encode())
    found = tables.partition_versions(uc, "features")
    assert list(found) == [DAY, *days]


def test_who_opens_a_table_reads_few_commits_and_no_ranges_of_columns(store: Store, uc: UseCase) -> None:
    for offset in range(25):
        publish(uc, DAY + timedelta(days=offset), rows(offset + 1, 3))
    log = store.list("tables/toy/features/_delta_log/")
    commits = [int(Path(key).stem) for key in log if key.endswith(".json")]
    checkpoints = [int(Path(key).name.partition(".")[0]) for key in log if key.endswith(".parquet")]
    assert max(commits) - max(checkpoints) <= 10
    newest = store.get(f"tables/toy/features/_delta_log/{max(commits):020}.json").decode().splitlines()
    (added,) = (json.loads(line)["add"] for line in newest if '"add"' in line)
    told = json.loads(added["stats"])
    assert (told["numRecords"], told["minValues"], told["maxValues"]) == (3, {}, {})


def test_a_table_from_before_takes_the_properties_at_the_next_maintenance(store: Store, uc: UseCase) -> None:
    uri = store.uri("tables/toy/features")
    DeltaTable.create(
        uri,
        schema=pa.schema([("id", pa.string()), ("partition", pa.date32()), ("content_hash", pa.string())]),
        partition_by=["partition", "content_hash"],
        storage_options=store.storage_options(),
    )
    published = publish(uc, DAY, rows(1))
    tables.vacuum(uc, "features", retention_days=7)
    properties = DeltaTable(uri, storage_options=store.storage_options()).metadata().configuration
    assert properties["delta.checkpointInterval"] == "10"
    assert tables.partition_version(uc, "features", DAY) == published.model_copy(update={"table_version": 2})
