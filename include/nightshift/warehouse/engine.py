"""The one seam between the warehouse and the database behind it: DuckDB or PostgreSQL, by setting.

Loading, dbt and reading say what they need in SQL that both engines take; what differs is here, and
nothing outside this room knows which engine runs. Parameters are written ``$1``, ``$2``; SQL text sorts by
code point on both, and sessions are in UTC.

A build is three steps, load, dbt and read, each with connections of its own. Whoever takes more than one
of them takes them within ``exclusive``, or another build of overlapping nights comes in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from nightshift.errors import DataError, TransientError
from nightshift.settings import settings

# What PostgreSQL keeps of a name; it cuts the rest off without an error.
_LONGEST = 63


class NoWarehouseError(TransientError):
    """Nothing was loaded yet, so there is nothing to read."""


class Connection(Protocol):
    """An open session. Each statement is a transaction, unless ``begin`` was executed."""

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""

    def create_table(self, schema: str, name: str, columns: Mapping[str, str]) -> None:
        """Create a table of these columns and SQL types whose rows are found by ``partition``."""

    def append(self, schema: str, name: str, rows: pa.Table) -> None:
        """Add ``rows`` to a table, columns by name."""

    def query(self, statement: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return the rows of a query. Timestamps are UTC with microseconds."""


class Engine(Protocol):
    """A database that dbt, loading and reading share."""

    # The output of profiles.yml.
    name: str

    def where(self) -> str:
        """Return the engine and the place of its data, in words and without secrets."""

    def connect(self, *, read_only: bool = False) -> AbstractContextManager[Connection]:
        """Open a session and close it again, whatever happens.

        Args:
            read_only: Whether a warehouse that does not exist yet is a ``NoWarehouseError``, not created.

        Raises:
            TransientError: The warehouse is locked or out of reach, or the machine ran out of something.
            DataError: The engine refuses what it was given: a value, the password, the database.
        """

    def exclusive(self, usecase: str, patience: float = ...) -> AbstractContextManager[None]:
        """Keep other builds of the use case out. Not to be taken twice by one process; ends with it.

        Args:
            usecase: Name of the use case.
            patience: Seconds to wait for another build to end.

        Raises:
            TransientError: The other build did not end in time, or the lock was lost on the way.
        """

    def dbt_environment(self) -> dict[str, str]:
        """Return what profiles.yml reads from the environment."""

    def after_dbt(self) -> None:
        """Close what dbt leaves open in this process."""

    def is_bad_luck(self, message: str) -> bool:
        """Return whether an error of the engine, as dbt words it, may be gone the next time."""


def quoted(*parts: str) -> str:
    """Return a name, such as a schema's and its table's, as SQL that both engines read as that name alone.

    Values are parameters; names cannot be, so every name that SQL is built with comes through here.

    Raises:
        DataError: A part is empty, longer than engines keep, or holds a character that no name may have.
    """
    for part in parts:
        if not part or "\0" in part or len(part.encode()) > _LONGEST:
            raise DataError(
                f"{part!r} cannot be a name in the warehouse",
                rule=f"names of tables and columns have 1 to {_LONGEST} bytes and no null character",
                where="the warehouse",
                cure="rename the table or the column in sources.yml",
            )
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def engine() -> Engine:
    """Return the engine that the settings name."""
    if settings().warehouse == "postgres":
        from nightshift.warehouse.postgres_engine import PostgresEngine

        return PostgresEngine()
    from nightshift.warehouse.duckdb_engine import DuckDBEngine

    return DuckDBEngine()
