"""Tables as immutable Parquet objects that are named by what they hold.

The key ends in the content hash, so writing the same content twice is one object, and whoever reads can tell
that it got what was written.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from nightshift.errors import DataError
from nightshift.lake import encryption
from nightshift.lake.canonical import canonical
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import open_store


def object_key(folder: str, digest: str) -> str:
    """Return the key of the object in ``folder`` that holds the content ``digest``."""
    return f"{folder}/{digest}.parquet"


def write_object(folder: str, table: pa.Table, digest: str, encrypted: Sequence[str] = ()) -> str:
    """Write ``table``, whose content hash is ``digest``, unless it is there already; return its key.

    Args:
        folder: Where it goes.
        table: Its content.
        digest: The content hash.
        encrypted: Columns that only holders of the lake's key can read; see ``encryption``.

    Raises:
        NoKeyError: Columns are to be encrypted and there is no key.
    """
    store = open_store()
    key = object_key(folder, digest)
    if not store.exists(key):
        sink = pa.BufferOutputStream()
        pq.write_table(
            canonical(table), sink, compression="zstd", encryption_properties=encryption.writing(encrypted)
        )
        store.put(key, sink.getvalue().to_pybytes())
    return key


def read_object(key: str, digest: str, key_columns: Sequence[str], *, exact: bool = False) -> pa.Table:
    """Return the table under ``key`` after comparing it with its content hash, ``exact`` or not.

    Raises:
        NoSuchObjectError: The object is not there.
        DataError: The object does not hold what it was written with, or (NoKeyError) no key opens it.
    """
    store = open_store()
    content = store.get(key)
    try:
        table = pq.read_table(pa.BufferReader(content), decryption_properties=encryption.reading())
        found = content_hash(table, key_columns, exact=exact)
        if exact and found != digest:
            # Named before raw content counted exactly.
            found = content_hash(table, key_columns)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        if (locked := encryption.no_key(error, store.uri(key))) is not None:
            raise locked from error
        found = f"nothing readable ({error})"
    if found != digest:
        raise DataError(
            f"an object of the lake was changed or damaged after it was written: it holds {found}",
            rule="an object holds the content its name says",
            where=store.uri(key),
            cure="delete the object and run the stage that wrote it again",
        )
    return table
