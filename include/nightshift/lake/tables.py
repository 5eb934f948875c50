"""Delta tables, one for each (use case, layer), replaced partition by partition.

A replacement is one Delta commit: readers see the old partition or the new one. Each partition carries its
content hash as a second partition column, so which content is published can be read from the table's log
alone, and publishing equal content commits nothing. Rows are stored in key order and read back in partition
and key order, with the partition as a date32 column ``partition``.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.lake.canonical import sort_rows, with_partition
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase

LAYERS = ("features", "labels", "predictions", "quarantine", "monitoring", "outcomes")
_LAYER = re.compile(rf"({'|'.join(LAYERS)})(_[a-z0-9_]+)?")
_HASH = "content_hash"
_ATTEMPTS = 8
_T = TypeVar("_T")


class PartitionVersion(BaseModel):
    """What is published for one partition. ``table_version``: a Delta version that holds this content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    partition: date
    rows: int
    content_hash: str
    table_version: int


def replace_partition(
    uc: UseCase, layer: str, partition: date, table: pa.Table, key_columns: Sequence[str]
) -> PartitionVersion:
    """Publish ``table`` as the content of one partition, replacing what was there, in one commit.

    The same content as what is published commits nothing. New columns join the table's schema, null
    elsewhere; columns that are missing read as null. An empty ``table`` leaves the partition absent.

    Args:
        uc: The use case.
        layer: One of LAYERS, or one of them with a suffix (``quarantine_raw_x``).
        partition: The day.
        table: The partition's rows; a ``partition`` column is added where missing.
        key_columns: Columns that identify a row.

    Raises:
        DataError: Rows of another partition, a missing key column, or a column whose type has changed.
        TransientError: Other writers kept winning, or the storage failed.
    """
    data = with_partition(table, partition)
    digest = content_hash(data, key_columns)
    data = _storable(sort_rows(data, key_columns))

    def attempt() -> PartitionVersion:
        delta = _open_or_create(uc, layer, data)
        published = _published(layer, delta).get(partition)
        if (published.content_hash if published else None) != (digest if data.num_rows else None):
            rows = _as_declared(delta, data, f"{uc.name}, {layer}, partition {partition}")
            write_deltalake(
                delta,
                rows.append_column(_HASH, pa.repeat(pa.scalar(digest), rows.num_rows)),
                mode="overwrite",
                predicate=f"partition = '{partition}'",
                schema_mode="merge",
            )
            published = None
        return published or PartitionVersion(
            layer=layer,
            partition=partition,
            rows=data.num_rows,
            content_hash=digest,
            table_version=delta.version(),
        )

    return _committed(attempt, f"{layer} {partition}")


def delete_partition(uc: UseCase, layer: str, partition: date) -> None:
    """Remove one partition in one commit; nothing happens when it is not there."""

    def attempt() -> None:
        delta = _open(uc, layer)
        if delta is not None and partition in _published(layer, delta):
            delta.delete(f"partition = '{partition}'")

    _committed(attempt, f"{layer} {partition}")


def partition_version(uc: UseCase, layer: str, partition: date) -> PartitionVersion | None:
    """Return what is published for one partition, from the table's log; None when nothing is."""
    return partition_versions(uc, layer).get(partition)


def partition_versions(uc: UseCase, layer: str) -> dict[date, PartitionVersion]:
    """Return what is published, by partition, oldest first. Reads the table's log, no data."""
    delta = _open(uc, layer)
    return _published(layer, delta) if delta is not None else {}


def read_partitions(
    uc: UseCase, layer: str, start: date, end: date, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of every partition from ``start`` to ``end``, by partition, then key.

    Partitions that are not published give no rows; a layer nobody published to gives a table without columns.

    Args:
        uc: The use case.
        layer: The layer.
        start: First partition.
        end: Last partition, included.
        columns: Columns to read; all by default.
    """
    dataset = _dataset(uc, layer, start, end)
    if dataset is None:
        return pa.table({})
    return dataset.to_table(columns=_chosen(dataset, columns))


def scan(
    uc: UseCase,
    layer: str,
    partition: date,
    columns: Sequence[str] | None = None,
    batch_rows: int = 65536,
) -> Iterator[pa.RecordBatch]:
    """Yield one partition's rows in key order, at most ``batch_rows`` at a time, holding few in memory."""
    dataset = _dataset(uc, layer, partition, partition)
    if dataset is None:
        return
    batches = dataset.to_batches(
        columns=_chosen(dataset, columns), batch_size=batch_rows, batch_readahead=2, fragment_readahead=1
    )
    yield from (batch for batch in batches if batch.num_rows)


def vacuum(uc: UseCase, layer: str, retention_days: int) -> int:
    """Remove files no version younger than ``retention_days`` needs, killed writers' too; return how many."""
    delta = _open(uc, layer)
    if delta is None:
        return 0
    removed = delta.vacuum(
        retention_hours=retention_days * 24, dry_run=False, enforce_retention_duration=False, full=True
    )
    return len(removed)


def _open(uc: UseCase, layer: str) -> DeltaTable | None:
    if not _LAYER.fullmatch(layer):
        raise DataError(
            f"there is no layer {layer!r}",
            rule=f"layers are {', '.join(LAYERS)}, or one of them followed by _<name>",
            where=f"{uc.name}, layer {layer}",
            cure="use one of these",
        )
    store = open_store()
    try:
        return DeltaTable(store.uri(f"tables/{uc.name}/{layer}"), storage_options=store.storage_options())
    except TableNotFoundError:
        return None


def _open_or_create(uc: UseCase, layer: str, data: pa.Table) -> DeltaTable:
    """Return the layer's table, creating it with the columns of ``data`` where there is none.

    Of several processes that create at once one wins, by Delta's own first commit; the others then open it.
    Nobody holds a lock that a killed process could leave behind.
    """
    delta = _open(uc, layer)
    if delta is not None:
        return delta
    store = open_store()
    with_hash = data.schema.append(pa.field(_HASH, pa.string()))
    try:
        return DeltaTable.create(
            store.uri(f"tables/{uc.name}/{layer}"),
            schema=pa.schema([field.with_nullable(True) for field in with_hash]),
            partition_by=["partition", _HASH],
            storage_options=store.storage_options(),
        )
    except DeltaError:
        delta = _open(uc, layer)
        if delta is None:
            raise
        return delta


def _published(layer: str, delta: DeltaTable) -> dict[date, PartitionVersion]:
    files = pa.table(delta.get_add_actions(flatten=True))
    day, digest = "partition.partition", f"partition.{_HASH}"
    rows = files.group_by([day, digest]).aggregate([("num_records", "sum")]).sort_by(day)
    return {
        row[day]: PartitionVersion(
            layer=layer,
            partition=row[day],
            rows=row["num_records_sum"],
            content_hash=row[digest],
            table_version=delta.version(),
        )
        for row in rows.to_pylist()
    }


def _storable(data: pa.Table) -> pa.Table:
    """Drop columns without a type: Delta has no such columns, and they hold only nulls."""
    return data.drop_columns([field.name for field in data.schema if pa.types.is_null(field.type)])


def _as_declared(delta: DeltaTable, data: pa.Table, where: str) -> pa.Table:
    """Return ``data`` in the column types of the table; columns the table lacks stay as they are."""
    declared = pa.schema(delta.schema())
    for place, field in enumerate(data.schema):
        if field.name not in declared.names:
            continue
        wanted = declared.field(field.name).type
        column = data[field.name]
        if field.type == wanted:
            continue
        widened = pa.types.is_int64(field.type) and pa.types.is_float64(wanted)
        if not widened and column.null_count < len(column):
            raise DataError(
                f"column {field.name!r} is {field.type}, the published table has {wanted}",
                rule="a published column keeps its type",
                where=where,
                cure="cast the column, or publish it under a new name",
            )
        data = data.set_column(place, field.name, column.cast(wanted))
    return data


def _dataset(uc: UseCase, layer: str, start: date, end: date) -> ds.Dataset | None:
    """Return the files of a range of partitions as a dataset that yields them in order."""
    delta = _open(uc, layer)
    if delta is None:
        return None
    whole = delta.to_pyarrow_dataset()
    wanted = (pc.field("partition") >= start) & (pc.field("partition") <= end)
    # Paths begin with the partition and end in the number of the file within one write.
    files = sorted(whole.get_fragments(filter=wanted), key=lambda file: file.path)
    return ds.FileSystemDataset(files, whole.schema, whole.format, whole.filesystem)


def _chosen(dataset: ds.Dataset, columns: Sequence[str] | None) -> list[str]:
    return list(columns) if columns is not None else [name for name in dataset.schema.names if name != _HASH]


def _committed(attempt: Callable[[], _T], what: str) -> _T:
    """Call ``attempt`` until no other writer's commit comes in between."""
    for tries in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except (CommitFailedError, OSError) as error:
            if tries == _ATTEMPTS:
                raise TransientError(
                    f"{what}: other writers or the storage kept in the way: {error}"
                ) from error
            # Random, so that writers that collided do not collide again.
            time.sleep(random.uniform(0.05, 0.2) * tries)
    raise AssertionError("unreachable")
