"""Where one task leaves a partition for the next: an object whose short description travels between them.

Staged objects are named by their content, so a task that runs again leaves the same object. They are
working material: ``sweep`` removes them once they are old.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.lake.canonical import with_partition
from nightshift.lake.hashing import content_hash
from nightshift.lake.objects import read_object, write_object
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase


class Staged(BaseModel):
    """A partition waiting to be published. JSON-able: this, not the rows, goes through XCom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    layer: str
    partition: date
    key: str
    key_columns: tuple[str, ...]
    rows: int
    content_hash: str
    build: str = ""


def stage(
    uc: UseCase, layer: str, partition: date, table: pa.Table, key_columns: Sequence[str], build: str = ""
) -> Staged:
    """Write one partition of ``layer`` for the next task.

    The ``partition`` column (date32) is added where missing, so the content hash is the one that
    ``tables.replace_partition`` will give. ``build`` names what it was built from; see ``lineage``.

    Raises:
        DataError: Rows name another partition, key columns are missing, or a type cannot be stored.
    """
    data = with_partition(table, partition)
    digest = content_hash(data, key_columns)
    return Staged(
        usecase=uc.name,
        layer=layer,
        partition=partition,
        key=write_object(f"staging/{uc.name}/{layer}/partition={partition}", data, digest),
        key_columns=tuple(key_columns),
        rows=data.num_rows,
        content_hash=digest,
        build=build,
    )


def read_staged(staged: Staged) -> pa.Table:
    """Return the rows of a staged partition, checked against its content hash.

    Raises:
        TransientError: The object is not there: the task that staged it has to run again.
        DataError: The object was changed or damaged.
    """
    return read_object(staged.key, staged.content_hash, staged.key_columns)


def sweep(uc: UseCase, older_than_days: int) -> int:
    """Remove staged objects last written more than ``older_than_days`` ago; return how many."""
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    old = [key for key, when in store.modified(f"staging/{uc.name}/").items() if when < limit]
    for key in old:
        store.delete(key)
    return len(old)
