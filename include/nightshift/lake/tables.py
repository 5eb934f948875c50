"""Delta tables, one for each (use case, layer), replaced partition by partition.

A replacement is one Delta commit: readers see the old partition or the new one. Each partition carries its
content hash as a second partition column, so which content is published can be read from the table's log
alone, and publishing equal content commits nothing. Rows are stored in key order and read back in partition
and key order, with the partition as a date32 column ``partition``. A partition without rows is an absent one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import lineage
from nightshift.lake.canonical import sort_rows, with_partition
from nightshift.lake.delta import (
    HASH_COLUMN,
    Opened,
    as_declared,
    committed,
    data_files,
    explained,
    hand_over,
    open_or_create,
    open_table,
    open_to_change,
    table_folder,
    table_properties,
)
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

# A partition as the predicate of a commit names it.
_DAY = re.compile(r"'(\d{4}-\d\d-\d\d)'")
# What the log of a table says, for as long as somebody has the table open.
_read_logs: WeakKeyDictionary[Opened, dict[date, PartitionVersion]] = WeakKeyDictionary()


class PartitionVersion(BaseModel):
    """What is published for one partition. ``table_version``: a Delta version that holds this content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    partition: date
    rows: int
    content_hash: str
    table_version: int


class PublishedVersion(PartitionVersion):
    """One content that a partition has had, from ``table_version`` on; without rows, it was not there."""

    published_at: datetime


@dataclass(frozen=True)
class Stretch:
    """Rows of one file of a partition. It may be sent to another process, and is read there by itself.

    Attributes:
        file: The file, with the access of the store that holds it and the row groups that these rows lie in.
        schema: The columns of the table, of which the file may lack some; they read as null.
        skipped: So many rows of these row groups come before the first one.
        rows: How many rows.
    """

    file: ds.ParquetFileFragment
    schema: pa.Schema
    skipped: int
    rows: int

    @classmethod
    def of(cls, file: ds.ParquetFileFragment, schema: pa.Schema, most_rows: int) -> Iterator[Stretch]:
        """Yield the stretches of a file, in order, of at most ``most_rows`` each; reads its footer only."""
        edges = [0, *accumulate(group.num_rows for group in file.row_groups)]
        for first in range(0, edges[-1], most_rows):
            end = min(first + most_rows, edges[-1])
            groups = [
                number for number, (low, high) in enumerate(pairwise(edges)) if low < end and first < high
            ]
            yield cls(file.subset(row_group_ids=groups), schema, first - edges[groups[0]], end - first)

    def batches(self, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order, at most ``batch_rows`` at a time, holding few in memory."""
        read = self.file.to_batches(
            schema=self.schema, columns=list(columns), batch_size=batch_rows, batch_readahead=2
        )
        skip, left = self.skipped, self.rows
        for batch in read:
            skipped = min(skip, batch.num_rows)
            wanted = batch.slice(skipped, left)
            skip -= skipped
            left -= wanted.num_rows
            if wanted.num_rows:
                yield wanted
            if not left:
                return


def replace_partition(
    uc: UseCase,
    layer: str,
    partition: date,
    table: pa.Table,
    key_columns: Sequence[str],
    *,
    stays: Callable[[date], bool] | None = None,
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
        stays: Asked before each try to commit, where other content is published: whether that shall stay.

    Raises:
        DataError: Rows of another partition, a missing key column, or a column whose type has changed.
        TransientError: Other writers kept winning, or the storage failed.
    """
    return replace_partitions(uc, layer, {partition: table}, key_columns, stays=stays)[0]


def replace_partitions(
    uc: UseCase,
    layer: str,
    contents: Mapping[date, pa.Table],
    key_columns: Sequence[str],
    *,
    builds: Mapping[date, str] | None = None,
    stays: Callable[[date], bool] | None = None,
) -> list[PartitionVersion]:
    """Publish the content of several partitions in one commit: all of them, or none.

    A history of months is one commit instead of hundreds; see ``replace_partition``, which does the same for
    one partition, for the other arguments and errors.

    Args:
        builds: By partition, the id of the build (``lineage.record_build``) that its content comes from. What
            was published from newer raw versions stands; what it was built from is recorded either way.
    """
    builds = builds or {}
    kept = lineage.kept_raw(uc)
    prepared = {day: _prepared(table, day, key_columns) for day, table in sorted(contents.items())}
    where = f"{uc.name}, {layer}, partition {min(prepared)}" + (
        f" to {max(prepared)}" if len(prepared) > 1 else ""
    )
    lineage.mark(uc, layer, {day: (prepared[day][1], build) for day, build in builds.items()})

    def attempt() -> list[PartitionVersion]:
        with explained(uc, layer):
            first = next(iter(prepared.values()))[0]
            delta = open_or_create(uc, layer, first.schema)
            published = _read_log(layer, delta)
            equal = {
                day
                for day, (_, digest) in prepared.items()
                if day in published and published[day].content_hash == digest
            }
            others = {day: build for day, build in builds.items() if day not in equal}
            different = (prepared.keys() & published.keys()) - equal
            preferred = {
                day
                for day in different
                if stays is not None and _files_exist(uc, layer, delta, day) and stays(day)
            }
            standing = {
                day: published[day]
                for day in equal | _outdated(uc, layer, published, others, kept) | preferred
                if _files_exist(uc, layer, delta, day)
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
            hand_over(uc, layer, delta)
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


def outdated(uc: UseCase, layer: str, builds: Mapping[date, str]) -> set[date]:
    """Return the partitions that are published from newer raw versions than these builds of them read."""
    return _outdated(uc, layer, partition_versions(uc, layer), builds, lineage.kept_raw(uc))


def _outdated(
    uc: UseCase,
    layer: str,
    published: Mapping[date, PartitionVersion],
    builds: Mapping[date, str],
    kept: lineage.Kept,
) -> set[date]:
    contents = {day: published[day].content_hash for day in builds if day in published}
    if not contents:
        return set()
    known = lineage.builds_of(uc, layer, contents)
    incoming = lineage.read_builds(uc, builds.values())
    found = {
        day
        for day in contents
        if (build := incoming.get(builds[day])) and any(build.older_than(one, kept) for one in known[day])
    }
    for day in sorted(found):
        log.warning(
            "%s, %s, partition %s stays: it was built from newer raw versions than what was to replace it",
            uc.name,
            layer,
            day,
        )
    return found


def delete_partition(uc: UseCase, layer: str, partition: date) -> None:
    """Remove one partition in one commit; nothing happens when it is not there."""

    def attempt() -> None:
        delta = open_to_change(uc, layer)
        if delta is not None and partition in _read_log(layer, delta):
            with explained(uc, layer):
                delta.delete(f"partition = '{partition}'")

    committed(attempt, f"{uc.name}, {layer}, partition {partition}")


def partition_version(uc: UseCase, layer: str, partition: date) -> PartitionVersion | None:
    """Return what is published for one partition, from the table's log; None when nothing is."""
    return partition_versions(uc, layer).get(partition)


def partition_versions(
    uc: UseCase, layer: str, at: int | datetime | None = None
) -> dict[date, PartitionVersion]:
    """Return what is published, by partition, oldest first. Reads the table's log, no data.

    Args:
        uc: The use case.
        layer: The layer.
        at: A version of the table, or a moment (with a time zone), instead of now.

    Raises:
        DataError: There is no such version.
    """
    delta = open_table(uc, layer, at)
    return _published(layer, delta) if delta is not None else {}


def layers(uc: UseCase) -> list[str]:
    """Return the layers of a use case that somebody has published to, sorted."""
    store, folder = open_store(), f"tables/{uc.name}/"
    return [layer for layer in store.folders(folder) if store.list(f"{folder}{layer}/_delta_log/")]


def columns(uc: UseCase, layer: str) -> list[str]:
    """Return the names of a layer's columns; none when nobody has published to it."""
    delta = open_table(uc, layer)
    names = [] if delta is None else [field.name for field in delta.schema().fields]
    return [name for name in names if name != HASH_COLUMN]


def last_written(uc: UseCase, layer: str) -> dict[date, int]:
    """Return for every published partition the table's version that last wrote it, the oldest kept at least.

    Reads the table's log once, no data.
    """
    delta = open_table(uc, layer)
    if delta is None:
        return {}
    newest_first = delta.history()
    written: dict[date, int] = {}
    for commit in newest_first:
        for day in _DAY.findall(str(commit.get("operationParameters", {}).get("predicate", ""))):
            written.setdefault(date.fromisoformat(day), commit["version"])
    oldest = newest_first[-1]["version"]
    return {day: written.get(day, oldest) for day in _published(layer, delta)}


def history(uc: UseCase, layer: str, partition: date) -> list[PublishedVersion]:
    """Return every content a partition has had, oldest first, as far back as versions are kept.

    Looks only at the oldest version and those whose commits name the partition. What was published before
    the oldest version that is kept appears with that one's number and time.
    """
    delta = open_table(uc, layer)
    found: list[PublishedVersion] = []
    if delta is None:
        return found
    commits = list(reversed(delta.history()))
    for commit in commits:
        named = f"'{partition}'" in str(commit.get("operationParameters", {}).get("predicate", ""))
        if not named and (
            commit is not commits[0] or partition not in partition_versions(uc, layer, commit["version"])
        ):
            continue
        version = partition_versions(uc, layer, commit["version"]).get(partition)
        found.append(
            PublishedVersion(
                layer=layer,
                partition=partition,
                rows=version.rows if version else 0,
                content_hash=version.content_hash if version else "",
                table_version=commit["version"],
                published_at=datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
            )
        )
    return found


def restore_partition(
    uc: UseCase, layer: str, partition: date, at: int | datetime
) -> PartitionVersion | None:
    """Publish again what one partition held, in one commit; None when it held nothing and now holds nothing.

    What was made from the partition since then is stale afterwards; see ``monitoring.staleness``.

    Args:
        uc: The use case.
        layer: The layer.
        partition: The day.
        at: A version of the table, or a moment (with a time zone).

    Raises:
        DataError: There is no such version, or retention has removed its files.
        TransientError: Other writers kept winning, or the storage failed.
    """
    where = f"{uc.name}, {layer}, partition {partition}"
    then = partition_versions(uc, layer, at).get(partition)
    if then is None:
        delete_partition(uc, layer, partition)
        return None
    dataset = _dataset(uc, layer, partition, partition, at)
    assert dataset is not None  # nosec B101  # its partition was just seen
    with explained(uc, layer):
        rows = dataset.to_table()

    def attempt() -> None:
        delta = open_or_create(uc, layer, rows.schema)
        standing = _read_log(layer, delta).get(partition)
        if standing is None or standing.content_hash != then.content_hash:
            with explained(uc, layer):
                write_deltalake(
                    delta,
                    rows,
                    mode="overwrite",
                    predicate=f"partition = '{partition}'",
                    schema_mode="merge",
                )

    committed(attempt, where)
    return partition_version(uc, layer, partition)


def read_partitions(
    uc: UseCase,
    layer: str,
    start: date,
    end: date,
    columns: Sequence[str] | None = None,
    at: int | datetime | None = None,
) -> pa.Table:
    """Return the rows of every partition from ``start`` to ``end``, by partition, then key.

    Partitions that are not published give no rows; a layer nobody published to gives a table without columns.

    Args:
        uc: The use case.
        layer: The layer.
        start: First partition.
        end: Last partition, included.
        columns: Columns to read; all by default.
        at: A version of the table, or a moment (with a time zone), instead of now.

    Raises:
        DataError: There is no such version, or retention has removed its files.
    """
    dataset = _dataset(uc, layer, start, end, at)
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
    _, batches = scan_version(uc, layer, partition, columns, batch_rows)
    yield from batches


def scan_version(
    uc: UseCase,
    layer: str,
    partition: date,
    columns: Sequence[str] | None = None,
    batch_rows: int = 65536,
) -> tuple[PartitionVersion | None, Iterator[pa.RecordBatch]]:
    """Return what is published for one partition, and its rows as ``scan`` yields them, of one same version.

    Whoever publishes the partition meanwhile changes neither. Without the partition: None, and no rows.
    """
    delta = open_table(uc, layer)
    version = _published(layer, delta).get(partition) if delta is not None else None
    if delta is None or version is None:
        return None, iter(())
    dataset = _files(uc, delta, layer, partition, partition)
    return version, _batches(uc, layer, dataset, columns, batch_rows)


def stretches(
    uc: UseCase, layer: str, partition: date, most_rows: int
) -> tuple[PartitionVersion | None, list[Stretch]]:
    """Return what is published for one partition, and its rows cut into stretches, of one same version.

    Every row is in exactly one stretch. Reads the table's log and the footers of the partition's files, no
    rows. Without the partition: None, and no stretches.

    Args:
        uc: The use case.
        layer: The layer.
        partition: The day.
        most_rows: A stretch has so many rows at most, and lies in one file.
    """
    delta = open_table(uc, layer)
    version = _published(layer, delta).get(partition) if delta is not None else None
    if delta is None or version is None:
        return None, []
    dataset = _files(uc, delta, layer, partition, partition)
    with explained(uc, layer):
        found = [
            stretch
            for file in dataset.get_fragments()
            for stretch in Stretch.of(file, dataset.schema, most_rows)
        ]
    return version, found


def newest_rows(
    uc: UseCase,
    layer: str,
    partitions: Collection[date],
    key_column: str,
    keys: Sequence[str],
) -> Iterator[pa.Table]:
    """Yield the newest row of each of ``keys``, as far as one of ``partitions`` has it.

    Args:
        uc: The use case.
        layer: The layer.
        partitions: The partitions to look in. They are read from the newest on, until every key is found.
        key_column: The column, of strings, that identifies a row within a partition.
        keys: What to look for.
    """
    dataset = _dataset(uc, layer, min(partitions), max(partitions)) if partitions and keys else None
    if dataset is None:
        return
    wanted = pa.array(keys, pa.string())
    for file in reversed(list(dataset.get_fragments())):
        if ds.get_partition_keys(file.partition_expression)["partition"] not in partitions:
            continue
        with explained(uc, layer):
            found = file.to_table(
                schema=dataset.schema,
                columns=_chosen(dataset, None),
                filter=pc.field(key_column).isin(wanted),
            )
        if found.num_rows:
            yield found
            wanted = wanted.filter(pc.invert(pc.is_in(wanted, found[key_column].combine_chunks())))
        if not len(wanted):
            return


def constants(
    uc: UseCase, layer: str, start: date, end: date, columns: Sequence[str]
) -> dict[date, dict[str, Any]]:
    """Return the values of columns that hold one value a partition, from one row of each partition."""
    dataset = _dataset(uc, layer, start, end)
    found: dict[date, dict[str, Any]] = {}
    if dataset is None:
        return found

    def first_row(file: ds.Fragment) -> pa.Table:
        return file.scanner(schema=dataset.schema, columns=["partition", *columns]).head(1)

    # One by one, a bucket would take seconds a hundred files.
    with explained(uc, layer), ThreadPoolExecutor(8) as readers:
        for rows in readers.map(first_row, dataset.get_fragments()):
            found |= {row.pop("partition"): row for row in rows.to_pylist()}
    return found


def vacuum(uc: UseCase, layer: str, retention_days: int) -> int:
    """Remove files no version younger than ``retention_days`` needs, killed writers' too; return how many."""
    delta = open_to_change(uc, layer)
    if delta is None:
        return 0
    with explained(uc, layer):
        if not table_properties(uc).items() <= delta.metadata().configuration.items():
            delta.alter.set_table_properties(table_properties(uc))
        removed = delta.vacuum(
            retention_hours=retention_days * 24, dry_run=False, enforce_retention_duration=False, full=True
        )
    return len(removed)


def _published(layer: str, delta: Opened) -> dict[date, PartitionVersion]:
    if delta not in _read_logs:
        _read_logs[delta] = _read_log(layer, delta)
    return dict(_read_logs[delta])


def _read_log(layer: str, delta: DeltaTable) -> dict[date, PartitionVersion]:
    """Return what is published by a table that may still be changed."""
    days = data_files(delta).group_by(["partition", HASH_COLUMN]).aggregate([("rows", "sum")])
    return {
        row["partition"]: PartitionVersion(
            layer=layer,
            partition=row["partition"],
            rows=row["rows_sum"],
            content_hash=row[HASH_COLUMN],
            table_version=delta.version(),
        )
        for row in days.sort_by("partition").to_pylist()
    }


def damaged(uc: UseCase, layer: str) -> set[date]:
    """Return the published partitions of which storage has lost a file, from one listing.

    Publishing such a partition again mends it.
    """
    delta = open_table(uc, layer)
    if delta is None:
        return set()
    folder = table_folder(uc, layer)
    there = {unquote(key) for key in open_store().list(f"{folder}/partition=")}
    return {
        row["partition"]
        for row in data_files(delta).to_pylist()
        if f"{folder}/{unquote(row['path'])}" not in there
    }


def _files_exist(uc: UseCase, layer: str, delta: DeltaTable, partition: date) -> bool:
    """Return whether storage still has a partition's files, so that publishing again mends lost ones."""
    files = data_files(delta)
    named = files.filter(pc.equal(files["partition"], partition))["path"].to_pylist()
    folder = table_folder(uc, layer)
    return {f"{folder}/{path}" for path in named} <= set(
        open_store().list(f"{folder}/partition={partition}/")
    )


def _batches(
    uc: UseCase, layer: str, dataset: ds.Dataset, columns: Sequence[str] | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    batches = dataset.to_batches(
        columns=_chosen(dataset, columns), batch_size=batch_rows, batch_readahead=2, fragment_readahead=1
    )
    with explained(uc, layer):
        for batch in batches:
            if batch.num_rows:
                yield batch


def _dataset(
    uc: UseCase, layer: str, start: date, end: date, at: int | datetime | None = None
) -> ds.Dataset | None:
    """Return the files of a range of partitions as a dataset that yields them in order."""
    delta = open_table(uc, layer, at)
    if delta is None:
        return None
    dataset = _files(uc, delta, layer, start, end)
    if at is not None:
        _require_kept(uc, layer, at, [file.path for file in dataset.get_fragments()])
    return dataset


def _files(uc: UseCase, delta: DeltaTable, layer: str, start: date, end: date) -> ds.FileSystemDataset:
    # Asked for the whole table, it writes an expression for each column of each file: more with each night.
    wanted = [("partition", ">=", start.isoformat()), ("partition", "<=", end.isoformat())]
    found = delta.to_pyarrow_dataset(
        filesystem=open_store().filesystem(table_folder(uc, layer)), file_pruning_predicate=wanted
    )
    # Paths begin with the partition and end in the number of the file within one write.
    files = sorted(found.get_fragments(), key=lambda file: file.path)
    return ds.FileSystemDataset(files, found.schema, found.format, found.filesystem)


def _require_kept(uc: UseCase, layer: str, at: int | datetime, paths: Sequence[str]) -> None:
    """Raise DataError when files of an earlier version are gone: storages word that in many ways."""
    folder = table_folder(uc, layer)
    there = {key.removeprefix(f"{folder}/") for key in open_store().list(f"{folder}/partition=")}
    if not {unquote(path) for path in paths} <= {unquote(key) for key in there}:
        raise DataError(
            f"{layer} as of {at} can no longer be read: retention has removed its files",
            rule=f"versions are kept for {uc.retention.version_days} days (retention.version_days)",
            where=f"{uc.name}, {layer}",
            cure="build the partition again, or read a later version",
        )


def _chosen(dataset: ds.Dataset, columns: Sequence[str] | None) -> list[str]:
    return (
        list(columns)
        if columns is not None
        else [name for name in dataset.schema.names if name != HASH_COLUMN]
    )
