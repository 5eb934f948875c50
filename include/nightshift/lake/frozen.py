"""Tables kept for good: what a model was trained on, exactly as it was.

A frozen table is one immutable object named by its content. Nothing sweeps it. A sealed one is read only by
who has written down, in a log that only grows, that it was opened, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import append_log
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
    sealed: bool = False


def freeze(
    uc: UseCase, kind: str, table: pa.Table, key_columns: Sequence[str], *, sealed: bool = False
) -> Frozen:
    """Keep ``table`` under ``kind`` (such as ``snapshots``); the same content again is the same object.

    Only ``unseal`` reads a ``sealed`` one.

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
        sealed=sealed,
    )


def thaw(frozen: Frozen) -> pa.Table:
    """Return a frozen table, rows in the order they were frozen in, checked against its content hash.

    Raises:
        TransientError: The object is not there.
        DataError: The object was changed or damaged, or it is sealed.
    """
    if frozen.sealed:
        raise DataError(
            f"{frozen.rows} rows of {frozen.kind} are sealed",
            rule="sealed rows are opened by an evaluation that is written down first",
            where=frozen.key,
            cure="evaluate the candidates (nightshift.evaluation), or work on the train and validation rows",
        )
    return _read(frozen)


def unseal(frozen: Frozen, log: str) -> pa.Table:
    """Return a sealed table as ``thaw`` returns others, after its opening was recorded.

    Args:
        frozen: What is opened.
        log: The append-only log whose newest record names the table's content hash under ``opened``.

    Raises:
        TransientError: The object is not there.
        DataError: The object was changed or damaged, or nobody wrote down that it is opened.
    """
    records = append_log.read_log(log)
    if not records or records[-1].get("opened") != frozen.content_hash:
        raise DataError(
            f"nothing in the log {log} says that {frozen.kind} {frozen.content_hash[:12]} is opened",
            rule="sealed rows are opened by an evaluation that is written down first",
            where=frozen.key,
            cure="open them through nightshift.evaluation.ledger",
        )
    return _read(frozen)


def _read(frozen: Frozen) -> pa.Table:
    return read_object(frozen.key, frozen.content_hash, frozen.key_columns)
