"""The only place that opens the DuckDB file: one process at a time, never longer than needed.

An open file locks out other processes, readers included. A lock is bad luck, not bad data, so it is
a ``TransientError``; whoever only wants to look at features or predictions reads the lake instead.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from nightshift.errors import TransientError
from nightshift.settings import settings
from nightshift.warehouse.engine import NoWarehouseError, quoted

# How DuckDB words it when another process holds the file.
_LOCKED = ("Could not set lock on file", "Conflicting lock is held", "being used by another process")
# The machine's fault, not the data's: the same build may succeed later.
_BAD_LUCK = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "Out of Memory Error",
    "could not allocate",
    "Too many open files",
)

_PATIENCE = 300.0


class DuckDBEngine:
    """DuckDB in one file under the state folder."""

    name = "duckdb"

    def where(self) -> str:
        """Return the engine and its file."""
        return f"DuckDB, {_file()}"

    @contextmanager
    def connect(self, *, read_only: bool = False) -> Iterator[DuckDBConnection]:
        """Open the file; see ``Engine``."""
        file = _file()
        if read_only and not file.exists():
            raise NoWarehouseError(f"there is no warehouse at {file} yet: nothing was loaded")
        try:
            if not file.exists():
                _create(file)
            connection = duckdb.connect(str(file), read_only=read_only)
        except duckdb.Error as error:
            if any(words in str(error) for words in _LOCKED):
                raise TransientError(f"the warehouse {file} is open in another process: {error}") from error
            if self.is_bad_luck(str(error)):
                raise _no_room(file, error) from error
            raise
        try:
            connection.execute("set TimeZone = 'UTC'")
            yield DuckDBConnection(connection)
        except duckdb.Error as error:
            if self.is_bad_luck(str(error)):
                raise _no_room(file, error) from error
            raise
        finally:
            connection.close()

    @contextmanager
    def exclusive(self, usecase: str, patience: float = _PATIENCE) -> Iterator[None]:
        """Hold a lock file; see ``Engine``.

        One for all use cases: they share the file, which whoever comes in between would find locked. The
        lock is the operating system's and goes with the process, however that ends.
        """
        lock = _file().with_name("warehouse.lock")
        deadline = time.monotonic() + patience
        with lock.open("a") as held:
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise TransientError(
                            f"another build holds the warehouse; {usecase} waited {patience:.0f} s for {lock}"
                        ) from error
                    time.sleep(0.1)
            yield

    def dbt_environment(self) -> dict[str, str]:
        """Return the path of the file."""
        return {"NIGHTSHIFT_DBT_DUCKDB_FILE": str(_file())}

    def after_dbt(self) -> None:
        """Close the file, which dbt would keep, and with it everybody else out, as long as Python runs."""
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        # A command that only parsed the project has opened nothing.
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager.env().close()
            DuckDBConnectionManager.close_all_connections()

    def is_bad_luck(self, message: str) -> bool:
        """Return whether the file was locked or the machine ran out of something."""
        return any(words in message for words in (*_LOCKED, *_BAD_LUCK))


class DuckDBConnection:
    """A session of DuckDB."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self._connection.execute(statement, parameters).fetchall()

    def create_table(self, schema: str, name: str, columns: Mapping[str, str]) -> None:
        """Create a table. It needs no index: DuckDB skips blocks by the smallest and largest partition."""
        definition = ", ".join(f"{quoted(column)} {sql_type}" for column, sql_type in columns.items())
        self._connection.execute(f"create table {quoted(schema, name)} ({definition})")

    def append(self, schema: str, name: str, rows: pa.Table) -> None:
        """Add ``rows`` to a table, columns by name."""
        self._connection.register("incoming", rows)
        into = quoted(schema, name)
        self._connection.execute(f"insert into {into} by name select * from incoming")  # nosec B608  # quoted
        self._connection.unregister("incoming")

    def query(self, statement: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return the rows of a query."""
        return self._connection.sql(statement, params=list(parameters)).to_arrow_table()


def _create(file: Path) -> None:
    """Make an empty database appear whole: half of one, which a full disk or a kill leaves, never opens."""
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        duckdb.connect(str(draft)).close()
        # Unlike a rename, a link fails when another process has made one meanwhile.
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _no_room(file: Path, error: duckdb.Error) -> TransientError:
    return TransientError(
        f"the machine has no room for the warehouse {file}: {error}; free some and run again"
    )


def _file() -> Path:
    file = settings().home / "warehouse" / "warehouse.duckdb"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
