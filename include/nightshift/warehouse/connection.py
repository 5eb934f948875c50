"""The only place that opens the DuckDB file: one process at a time, never longer than needed.

An open file locks out other processes, readers included. A lock is bad luck, not bad data, so it is
a ``TransientError``; whoever only wants to look at features or predictions reads the lake instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from nightshift.errors import DataError, TransientError
from nightshift.settings import settings

# How DuckDB words it when another process holds the file.
LOCKED = ("Could not set lock on file", "Conflicting lock is held", "being used by another process")


def warehouse_file() -> Path:
    """Return where the warehouse lies; its folder exists afterwards.

    Raises:
        DataError: The settings ask for an engine that this version does not drive.
    """
    if settings().warehouse != "duckdb":
        raise DataError(
            f"no warehouse engine {settings().warehouse!r} yet",
            rule="the warehouse is DuckDB",
            where="setting NIGHTSHIFT_WAREHOUSE",
            cure="unset NIGHTSHIFT_WAREHOUSE",
        )
    file = settings().home / "warehouse" / "warehouse.duckdb"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@contextmanager
def connect(*, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the warehouse, in UTC, and close it again, whatever happens.

    Args:
        read_only: Refuse writes; a warehouse that does not exist yet is a ``TransientError`` then.

    Raises:
        TransientError: Another process holds the file, or there is nothing to read yet.
    """
    file = warehouse_file()
    if read_only and not file.exists():
        raise TransientError(f"there is no warehouse at {file} yet: nothing was loaded")
    try:
        connection = duckdb.connect(str(file), read_only=read_only)
    except duckdb.Error as error:
        if is_locked(str(error)):
            raise TransientError(f"the warehouse {file} is open in another process: {error}") from error
        raise
    try:
        connection.execute("set TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def is_locked(message: str) -> bool:
    """Return whether an engine's error message says that somebody else holds the warehouse."""
    return any(words in message for words in LOCKED)
