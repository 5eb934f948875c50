"""Tables kept for good: what a model was trained on, exactly as it was.

A frozen table is one immutable object named by its content. Nothing sweeps it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.lake.hashing import content_hash
from nightshift.lake.objects import read_object, write_object
from nightshift.usecase import UseCase


class Frozen(BaseModel):
    """Where a frozen table lies and what it holds. JSON-able."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    kind: str
    key: str
    key_columns: tuple[str, ...]
    rows: int
    content_hash: str


def freeze(uc: UseCase, kind: str, table: pa.Table, key_columns: Sequence[str]) -> Frozen:
    """Keep ``table`` under ``kind`` (such as ``snapshots``); the same content again is the same object.

    Raises:
        DataError: Key columns are missing, or a column type cannot be stored.
    """
    digest = content_hash(table, key_columns)
    return Frozen(
        usecase=uc.name,
        kind=kind,
        key=write_object(f"{kind}/{uc.name}", table, digest),
        key_columns=tuple(key_columns),
        rows=table.num_rows,
        content_hash=digest,
    )


def thaw(frozen: Frozen) -> pa.Table:
    """Return a frozen table, rows in the order they were frozen in, checked against its content hash.

    Raises:
        TransientError: The object is not there.
        DataError: The object was changed or damaged.
    """
    return read_object(frozen.key, frozen.content_hash, frozen.key_columns)
