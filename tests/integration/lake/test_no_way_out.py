"""No name leads out of the lake: not one of a use case, and not one read back from the lake itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.lake import append_log, raw, tables
from nightshift.lake.checkpoints import Checkpoints
from nightshift.lake.frozen import Frozen, freeze, thaw
from nightshift.lake.objects import write_object
from nightshift.lake.staging import read_staged, stage
from nightshift.lake.store import Store, open_store
from nightshift.partition import parse_partition
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2020, 1, 1)
ROWS = pa.table({"id": ["a"], "value": [1]})

HOSTILE = [
    "../outside",
    "x/../../outside",
    "..",
    "/outside",
    "x//outside",
    ".",
    "./outside",
    "..\\outside",
    "x\0outside",
    "x\noutside",
    "%2e%2e/outside",
    "..%2foutside",
]

ACTIONS: dict[str, Callable[[Store, str], object]] = {
    "put": lambda store, key: store.put(key, b"written"),
    "put_new": lambda store, key: store.put_new(key, b"written"),
    "get": lambda store, key: store.get(key),
    "exists": lambda store, key: store.exists(key),
    "delete": lambda store, key: store.delete(key),
    "list": lambda store, key: store.list(key),
    "list a folder": lambda store, key: store.list(f"{key}/x"),
    "modified": lambda store, key: store.modified(key),
    "folders": lambda store, key: store.folders(f"{key}/"),
    "uri": lambda store, key: store.uri(key),
    "filesystem": lambda store, key: store.filesystem(key),
}


@pytest.fixture
def everything(store: Store, home: Path, storage: str) -> Callable[[], dict[str, bytes]]:
    """Return all there is beside the lake and in it: the state folder, or the bucket."""
    if storage == "file":
        (home / "outside").write_bytes(b"secret")
        return lambda: {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    bucket, _, lake = settings().lake_uri.removeprefix("s3://").partition("/")
    client, folder = boto3.client("s3"), lake.removesuffix("lake")
    client.put_object(Bucket=bucket, Key=f"{folder}outside", Body=b"secret")

    def objects() -> dict[str, bytes]:
        found = client.list_objects_v2(Bucket=bucket, Prefix=folder).get("Contents", ())
        keys = [item["Key"] for item in found]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return objects


def _refused(act: Callable[[], object]) -> None:
    with pytest.raises(DataError) as refused:
        act()
    assert "is no key of the lake" in refused.value.message
    assert "relative, without" in refused.value.rule


@pytest.mark.parametrize("key", HOSTILE)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_key_that_leads_elsewhere_is_refused(
    store: Store, everything: Callable[[], dict[str, bytes]], action: str, key: str
) -> None:
    before = everything()
    _refused(lambda: ACTIONS[action](store, key))
    assert everything() == before


@pytest.mark.parametrize("name", HOSTILE)
def test_names_lead_nowhere_even_where_nobody_checked_them(
    store: Store, uc: UseCase, everything: Callable[[], dict[str, bytes]], name: str
) -> None:
    """The files of a use case cannot hold such names (tests/unit/test_usecase.py): here they are forced."""
    (source,) = uc.sources
    (table, *_) = uc.sources[source].tables
    bad = uc.model_copy(update={"name": name})
    declared = uc.sources[source].tables[table]
    sources = {
        name: uc.sources[source],
        source: uc.sources[source].model_copy(update={"tables": {name: declared, table: declared}}),
    }
    stranger = uc.model_copy(update={"sources": sources})
    before = everything()

    def land(uc: UseCase, source: str, table: str) -> object:
        rows = pa.table({column: pa.array(["a"], pa.string()) for column in declared.key})
        moment = datetime(2020, 1, 2, tzinfo=UTC)
        return raw.land(
            uc, source, table, DAY, rows, rows_in=1, rows_quarantined=0, as_of=moment, query="none"
        )

    acts: list[Callable[[], Any]] = [
        lambda: land(bad, source, table),
        lambda: land(stranger, name, table),
        lambda: land(stranger, source, name),
        lambda: raw.current(bad, source, table, DAY),
        lambda: raw.expire(bad, DAY),
        lambda: stage(bad, "features", DAY, ROWS, ["id"]),
        lambda: stage(uc, name, DAY, ROWS, ["id"]),
        lambda: tables.replace_partition(bad, "features", DAY, ROWS, ["id"]),
        lambda: tables.read_partitions(bad, "features", DAY, DAY),
        lambda: freeze(uc, name, ROWS, ["id"]),
        lambda: append_log.append(name, {}),
        lambda: append_log.read_log(name),
        lambda: Checkpoints(uc, name).keep(b"state", 1),
        lambda: Checkpoints(bad, "training").newest(),
        lambda: write_object(name, ROWS, "0" * 64),
    ]
    for act in acts:
        _refused(act)
    with pytest.raises(DataError, match="there is no layer"):
        tables.replace_partition(uc, name, DAY, ROWS, ["id"])
    assert everything() == before


def test_what_the_lake_or_a_task_says_is_a_key_is_checked_too(store: Store, uc: UseCase) -> None:
    """Whoever writes a manifest, or what travels between tasks, chooses what a worker opens."""
    staged = stage(uc, "features", DAY, ROWS, ["id"])
    _refused(lambda: read_staged(staged.model_copy(update={"key": "../outside"})))
    frozen = freeze(uc, "snapshots", ROWS, ["id"])
    _refused(lambda: thaw(Frozen.model_validate(frozen.model_dump() | {"key": "/etc/hostname"})))


@pytest.mark.parametrize(
    "day",
    ["../2020-01-01", "2020-01-01/..", "2020-01-01\n", "2020-01-01\0", "2020-01-0\u0661", "%32020-01-01", ""],
)
def test_a_partition_is_a_day_in_plain_digits(day: str) -> None:
    with pytest.raises(DataError, match="is not a partition"):
        parse_partition(day)


def test_ordinary_keys_are_as_they_were(store: Store) -> None:
    for key in ("z", "a/b=1/c.parquet", "a/..b", "a/b..", "tables/x/_delta_log/0.json", "a b"):
        store.put(key, key.encode())
        assert open_store().get(key) == key.encode()
