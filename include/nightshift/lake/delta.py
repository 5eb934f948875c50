"""What the Delta tables of ``tables`` stand on: opening, creating, committing, and explaining failures.

Two things of Delta decide the shape. First writes of a new table collide in its metadata, so a table is
created by a commit of its own before anyone writes. Of several commits to one partition at once all but one
fail, so a writer looks again at what is published and tries again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from nightshift.errors import DataError, TransientError
from nightshift.lake.store import STORE_CURE, open_store
from nightshift.usecase import UseCase

LAYERS = ("features", "labels", "predictions", "quarantine", "monitoring", "outcomes", "shadow", "feedback")
HASH_COLUMN = "content_hash"

_LAYER = re.compile(rf"({'|'.join(LAYERS)})(_[a-z0-9_]+)?")
# delta-rs wraps what its storage raises in an error of its own; only the words tell.
_STORAGE_FAILED = re.compile(r"Generic (S3|LocalFileSystem) error|os error \d+")
_COLOUR = re.compile(r"\x1b\[\d+m")
_BROKEN_OFF = "response body error"
_ATTEMPTS = 10
# So many tables stay open for reading.
_TABLES = 64
_T = TypeVar("_T")


class Opened(DeltaTable):
    """A table that several may read. Nobody changes it by then, so what was read of it stays true of it."""

    __hash__ = object.__hash__


def table_folder(uc: UseCase, layer: str) -> str:
    """Return the key under which the table of a layer lies.

    Raises:
        DataError: There is no such layer.
    """
    if not _LAYER.fullmatch(layer):
        raise DataError(
            f"there is no layer {layer!r}",
            rule=f"layers are {', '.join(LAYERS)}, or one of them followed by _<name>",
            where=f"{uc.name}, layer {layer}",
            cure="use one of these",
        )
    return f"tables/{uc.name}/{layer}"


def open_table(uc: UseCase, layer: str, at: int | datetime | None = None) -> Opened | None:
    """Return a layer's table to read from; None when nobody had published to it.

    A process opens a table once for each version that it meets: whoever asks again gets the same object,
    and must not change it.

    Args:
        uc: The use case.
        layer: The layer.
        at: A version of the table, or a moment (with a time zone), instead of now.

    Raises:
        DataError: There is no such version.
    """
    if at is None:
        return _newest(uc, layer)
    delta = open_to_change(uc, layer)
    if delta is None:
        return None
    with explained(uc, layer):
        # By what the commits say: delta-rs goes by times of files, which a bucket rounds and a copy changes.
        written = {commit["version"]: commit["timestamp"] / 1000 for commit in delta.history()}
    oldest, newest = min(written), max(written)
    wanted = [v for v, at_ in written.items() if at_ <= at.timestamp()] if isinstance(at, datetime) else [at]
    if not wanted and oldest == 0:
        return None
    version = max(wanted, default=-1)
    if version not in written:
        raise DataError(
            f"there is no version of {layer} as of {at}",
            rule=f"versions from {oldest} to {newest} are kept ({uc.retention.version_days} days of them)",
            where=f"{uc.name}, {layer}",
            cure="`nightshift versions` lists those of a partition",
        )
    with explained(uc, layer):
        delta.load_as_version(version)
    return delta


def open_to_change(uc: UseCase, layer: str) -> Opened | None:
    """Return a layer's table as an object of the caller's own; None when nobody has published to it."""
    try:
        return _open(uc, layer)
    except TableNotFoundError:
        return None


# The tables that this process has read, by address, each with how it was reached and its newest commit.
_opened: dict[str, tuple[Opened, dict[str, str], str]] = {}


def _newest(uc: UseCase, layer: str) -> Opened | None:
    store = open_store()
    options = store.storage_options()
    if kept := _opened.get(store.uri(table_folder(uc, layer))):
        delta, *known = kept
        # The options hold credentials, which are renewed; the table may have been removed and made anew.
        if known == [options, store.written(_commit(uc, layer, delta.version()))] and not store.exists(
            _commit(uc, layer, delta.version() + 1)
        ):
            return delta
    opened = open_to_change(uc, layer)
    if opened is not None:
        hand_over(uc, layer, opened)
    return opened


def hand_over(uc: UseCase, layer: str, delta: Opened) -> None:
    """Let whoever reads a layer have this table, which the caller changes no more."""
    store = open_store()
    # Without its newest commit it would never be taken for the newest.
    if commit := store.written(_commit(uc, layer, delta.version())):
        _opened[store.uri(table_folder(uc, layer))] = delta, store.storage_options(), commit
        for eldest in list(_opened)[:-_TABLES]:
            _opened.pop(eldest, None)


def _commit(uc: UseCase, layer: str, version: int) -> str:
    return f"{table_folder(uc, layer)}/_delta_log/{version:020}.json"


def _open(uc: UseCase, layer: str) -> Opened:
    store = open_store()
    tries = 1
    while True:
        try:
            with explained(uc, layer):
                return Opened(store.uri(table_folder(uc, layer)), storage_options=store.storage_options())
        except TransientError as error:
            # delta-rs asks again until an answer begins; whether it also ends is left to us.
            if _BROKEN_OFF not in str(error) or tries == _ATTEMPTS:
                raise
            tries += 1


def open_or_create(uc: UseCase, layer: str, columns: pa.Schema) -> Opened:
    """Return a layer's table, creating it with ``columns`` where there is none.

    Of several processes that create at once one wins, by Delta's own first commit, and the others open what
    it made. Nobody holds a lock that a killed process could leave behind.
    """
    delta = open_to_change(uc, layer)
    if delta is not None:
        return delta
    store = open_store()
    declared = [field.with_nullable(True) for field in columns.append(pa.field(HASH_COLUMN, pa.string()))]
    try:
        DeltaTable.create(
            store.uri(table_folder(uc, layer)),
            schema=pa.schema(declared),
            partition_by=["partition", HASH_COLUMN],
            configuration=table_properties(uc),
            storage_options=store.storage_options(),
        )
    except DeltaError:
        if open_to_change(uc, layer) is None:
            raise
    return _open(uc, layer)


def table_properties(uc: UseCase) -> dict[str, str]:
    """Return the properties of a table: versions stay readable for as long as the use case wants.

    Everybody who opens a table reads the commits since its last checkpoint, and what each says of its files:
    so the checkpoint is never far behind, and the range of each column of each file is left to the file's own
    footer. Nothing looks for rows by more than their partition before it opens the file.
    """
    return {
        "delta.logRetentionDuration": f"interval {uc.retention.version_days} days",
        "delta.checkpointInterval": "10",
        "delta.dataSkippingNumIndexedCols": "0",
    }


def committed(attempt: Callable[[], _T], what: str) -> _T:
    """Call ``attempt`` until no other writer's commit comes in between.

    Raises:
        TransientError: The others kept winning.
    """
    for tries in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except CommitFailedError as error:
            if tries == _ATTEMPTS:
                raise TransientError(
                    f"{what}: other writers committed first, {tries} times: {error}"
                ) from error
            # Random, so that writers that collided do not collide again.
            time.sleep(random.uniform(0.02, 0.2) * tries)  # nosec B311  # nobody gains by guessing a pause
    raise AssertionError("unreachable")


def as_declared(delta: DeltaTable, data: pa.Table, where: str) -> pa.Table:
    """Return ``data`` in the column types of the table; columns the table lacks stay as they are.

    Raises:
        DataError: A column's type has changed.
    """
    declared = pa.schema(delta.schema())
    for place, field in enumerate(data.schema):
        wanted = declared.field(field.name).type if field.name in declared.names else field.type
        if field.type == wanted:
            continue
        column = data[field.name]
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


def data_files(delta: DeltaTable) -> pa.Table:
    """Return a row for each data file of a table: its ``path``, ``rows``, ``partition`` and ``content_hash``.

    Reads what is known of the log, no data.
    """
    # Not flattened: that copies every statistic of every column of every file.
    files = pa.table(delta.get_add_actions())
    keys = files["partition"]
    return pa.table(
        {
            "path": files["path"],
            "rows": files["num_records"],
            "partition": pc.struct_field(keys, "partition"),
            HASH_COLUMN: pc.struct_field(keys, HASH_COLUMN),
        }
    )


@contextmanager
def explained(uc: UseCase, layer: str) -> Iterator[None]:
    """Tell apart a damaged table, a storage that failed, and a lost race (which passes through)."""
    try:
        yield
    except (CommitFailedError, TableNotFoundError):
        raise
    except FileNotFoundError as error:
        raise _damaged(uc, layer, "a file that its log names is gone", error) from error
    except OSError as error:
        raise _storage_failed(uc, layer, error) from error
    except DeltaError as error:
        if _STORAGE_FAILED.search(str(error)):
            raise _storage_failed(uc, layer, error) from error
        raise _damaged(uc, layer, "its log cannot be read or written", error) from error


def _storage_failed(uc: UseCase, layer: str, error: Exception) -> TransientError:
    # delta-rs draws its chain of causes, in colours, over several lines.
    said = " ".join(_COLOUR.sub("", str(error)).split())
    return TransientError(f"{uc.name}, {layer}: the storage failed: {said}; {STORE_CURE}")


def _damaged(uc: UseCase, layer: str, what: str, error: Exception) -> DataError:
    return DataError(
        f"the table of {layer} is damaged: {what}: {error}",
        rule="a table has its log and every file the log names",
        where=open_store().uri(table_folder(uc, layer)),
        cure="`nightshift doctor` names the days whose files are lost: run the DAG rebuild for them, which "
        "replaces the files; if the log is lost, remove the folder of the table and rebuild the layer",
    )
