"""Delta tables, one for each (use case, layer), replaced partition by partition.

A replacement is one Delta commit: readers see the old partition or the new one. Each partition carries its
content hash as a second partition column, so which content is published can be read from the table's log
alone, and publishing equal content commits nothing. Rows are stored in key order and read back in partition
and key order, with the partition as a date32 column ``partition``. A partition without rows is an absent one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from pydantic import BaseModel, ConfigDict

from nightshift.lake.canonical import sort_rows, with_partition
from nightshift.lake.delta import (
    HASH_COLUMN,
    as_declared,
    committed,
    explained,
    open_or_create,
    open_table,
    table_folder,
)
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase


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

    The same content as what is published commits nothing. New columns join the table's schema and are null
    elsewhere; columns that are missing read as null. An empty ``table`` leaves the partition absent.

    Args:
        uc: The use case.
        layer: One of ``delta.LAYERS``, or one of them with a suffix (``quarantine_raw_x``).
        partition: The day.
        table: The partition's rows; a ``partition`` column is added where missing.
        key_columns: Columns that identify a row.

    Raises:
        DataError: Rows of another partition, a missing key column, or a column whose type has changed.
        TransientError: Other writers kept winning, or the storage failed.
    """
    return replace_partitions(uc, layer, {partition: table}, key_columns)[0]


def replace_partitions(
    uc: UseCase, layer: str, contents: Mapping[date, pa.Table], key_columns: Sequence[str]
) -> list[PartitionVersion]:
    """Publish the content of several partitions in one commit: all of them, or none.

    A history of months is one commit instead of hundreds; see ``replace_partition``, which does the same for
    one partition, for arguments and errors.
    """
    prepared = {day: _prepared(table, day, key_columns) for day, table in sorted(contents.items())}
    where = f"{uc.name}, {layer}, partition {min(prepared)}" + (
        f" to {max(prepared)}" if len(prepared) > 1 else ""
    )

    def attempt() -> list[PartitionVersion]:
        with explained(uc, layer):
            first = next(iter(prepared.values()))[0]
            delta = open_or_create(uc, layer, first.schema)
            published = _published(layer, delta)
            standing = {
                day: published[day]
                for day, (_, digest) in prepared.items()
                if day in published
                and published[day].content_hash == digest
                and _files_exist(uc, layer, delta, day)
            }
            changed = {
                day: content
                for day, content in prepared.items()
                if day not in standing and (day in published or content[0].num_rows)
            }
            if changed:
                rows = [
                    as_declared(delta, data, where).append_column(
                        HASH_COLUMN, pa.repeat(pa.scalar(digest), data.num_rows)
                    )
                    for data, digest in changed.values()
                ]
                write_deltalake(
                    delta,
                    pa.concat_tables(rows, promote_options="default"),
                    mode="overwrite",
                    predicate=" or ".join(f"partition = '{day}'" for day in changed),
                    schema_mode="merge",
                )
            return [
                standing.get(day)
                or PartitionVersion(
                    layer=layer,
                    partition=day,
                    rows=data.num_rows,
                    content_hash=digest,
                    table_version=delta.version(),
                )
                for day, (data, digest) in prepared.items()
            ]

    return committed(attempt, where)


def _prepared(table: pa.Table, partition: date, key_columns: Sequence[str]) -> tuple[pa.Table, str]:
    """Return a partition's rows as they are stored, and their content hash."""
    data = with_partition(table, partition)
    digest = content_hash(data, key_columns)
    # A column without a type holds only nulls; Delta has no such columns.
    typed = [field.name for field in data.schema if not pa.types.is_null(field.type)]
    return sort_rows(data, key_columns).select(typed), digest


def delete_partition(uc: UseCase, layer: str, partition: date) -> None:
    """Remove one partition in one commit; nothing happens when it is not there."""

    def attempt() -> None:
        delta = open_table(uc, layer)
        if delta is not None and partition in _published(layer, delta):
            with explained(uc, layer):
                delta.delete(f"partition = '{partition}'")

    committed(attempt, f"{uc.name}, {layer}, partition {partition}")


def partition_version(uc: UseCase, layer: str, partition: date) -> PartitionVersion | None:
    """Return what is published for one partition, from the table's log; None when nothing is."""
    return partition_versions(uc, layer).get(partition)


def partition_versions(uc: UseCase, layer: str) -> dict[date, PartitionVersion]:
    """Return what is published, by partition, oldest first. Reads the table's log, no data."""
    delta = open_table(uc, layer)
    return _published(layer, delta) if delta is not None else {}


def layers(uc: UseCase) -> list[str]:
    """Return the layers of a use case that somebody has published to, sorted."""
    folder = f"tables/{uc.name}/"
    logs = (key.removeprefix(folder) for key in open_store().list(folder) if "/_delta_log/" in key)
    return sorted({key.partition("/")[0] for key in logs})


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
    with explained(uc, layer):
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
    with explained(uc, layer):
        for batch in batches:
            if batch.num_rows:
                yield batch


def vacuum(uc: UseCase, layer: str, retention_days: int) -> int:
    """Remove files no version younger than ``retention_days`` needs, killed writers' too; return how many."""
    delta = open_table(uc, layer)
    if delta is None:
        return 0
    with explained(uc, layer):
        removed = delta.vacuum(
            retention_hours=retention_days * 24, dry_run=False, enforce_retention_duration=False, full=True
        )
    return len(removed)


def _published(layer: str, delta: DeltaTable) -> dict[date, PartitionVersion]:
    files = pa.table(delta.get_add_actions(flatten=True))
    day, digest = "partition.partition", f"partition.{HASH_COLUMN}"
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


def _files_exist(uc: UseCase, layer: str, delta: DeltaTable, partition: date) -> bool:
    """Return whether storage still has a partition's files, so that publishing again mends lost ones."""
    files = pa.table(delta.get_add_actions(flatten=True))
    named = files.filter(pc.equal(files["partition.partition"], partition))["path"].to_pylist()
    folder = table_folder(uc, layer)
    return {f"{folder}/{path}" for path in named} <= set(
        open_store().list(f"{folder}/partition={partition}/")
    )


def _dataset(uc: UseCase, layer: str, start: date, end: date) -> ds.Dataset | None:
    """Return the files of a range of partitions as a dataset that yields them in order."""
    delta = open_table(uc, layer)
    if delta is None:
        return None
    whole = delta.to_pyarrow_dataset()
    wanted = (pc.field("partition") >= start) & (pc.field("partition") <= end)
    # Paths begin with the partition and end in the number of the file within one write.
    files = sorted(whole.get_fragments(filter=wanted), key=lambda file: file.path)
    return ds.FileSystemDataset(files, whole.schema, whole.format, whole.filesystem)


def _chosen(dataset: ds.Dataset, columns: Sequence[str] | None) -> list[str]:
    return (
        list(columns)
        if columns is not None
        else [name for name in dataset.schema.names if name != HASH_COLUMN]
    )
