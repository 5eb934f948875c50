"""PostgreSQL as warehouse: the database ``warehouse`` of the server that also serves predictions.

Rows travel as Arrow by binary COPY in both directions. The database is created when missing, with text that
sorts by code point as it does in DuckDB: in another order of text, rows that tie on time would be told
apart differently, and features would differ between engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
from psycopg import sql

from nightshift.databases import MAINTENANCE_DATABASE, url
from nightshift.errors import DataError, TransientError
from nightshift.settings import settings
from nightshift.warehouse.engine import NoWarehouseError, quoted

DATABASE = "warehouse"

_PATIENCE = 300.0

# A statement whose client was killed ends soon, rather than hold its locks to its own end.
_NOTICE_THE_END = "client_connection_check_interval=2000"

# SQLSTATE classes: connection lost, transaction rolled back (deadlock, serialization), resources, lock not
# available, operator intervention (shutdown), system error.
_TRANSIENT_CLASSES = ("08", "40", "53", "55", "57", "58")
# The same in PostgreSQL's words, which are all that dbt hands on; their language is its lc_messages.
_BAD_LUCK = (
    "connection to server",
    "server closed the connection",
    "connection already closed",
    "SSL connection has been closed",
    "terminating connection",
    "the database system is",
    "too many clients",
    "remaining connection slots",
    "deadlock detected",
    "could not serialize access",
    "canceling statement due to lock timeout",
    "No space left on device",
    "out of shared memory",
    "out of memory",
)
_REFUSED = ("authentication failed", "no password supplied", "no pg_hba.conf entry", "permission denied")


class PostgresEngine:
    """The database ``warehouse``, by ``NIGHTSHIFT_POSTGRES_URL`` or on the embedded server."""

    name = "postgres"

    def where(self) -> str:
        """Return the engine, its database and its server."""
        given = _parameters()
        return f"PostgreSQL, database {DATABASE} on {given.get('host', 'this machine')}:{_port(given)}"

    @contextmanager
    def connect(self, *, read_only: bool = False) -> Iterator[PostgresConnection]:
        """Open a session; see ``Engine``."""
        try:
            with self._open(read_only=read_only) as connection:
                opened = PostgresConnection(connection)
                opened.execute("set TimeZone = 'UTC'")
                opened.execute(f"set {_NOTICE_THE_END}")
                self._require_order_of_text(opened)
                yield opened
        except adbc.Error as error:
            _explain(error)

    @contextmanager
    def exclusive(self, usecase: str, patience: float = _PATIENCE) -> Iterator[None]:
        """Hold an advisory lock of the use case in a session of its own; see ``Engine``.

        The server drops the lock with the session, so a killed build does not leave it behind.
        """
        with self.connect():
            pass  # the database exists now
        key = f"{DATABASE}.{usecase}"
        try:
            connection = psycopg.connect(url(DATABASE), autocommit=True)
        except psycopg.OperationalError as error:
            _explain(error)
        with connection:
            try:
                # The session idles while the build runs, and must not be ended for it.
                connection.execute("select set_config('idle_session_timeout', '0', false)")
                connection.execute("select set_config('lock_timeout', %s, false)", [f"{patience * 1000:.0f}"])
                connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [key])
            except psycopg.errors.LockNotAvailable as error:
                raise TransientError(
                    f"another build of {usecase} holds the warehouse; waited {patience:.0f} s for it"
                ) from error
            except psycopg.Error as error:
                _explain(error)
            yield
            try:
                connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [key])
            except psycopg.OperationalError as error:
                # What came out may be mixed with another build's: it must not be used.
                raise TransientError(f"the lock of {usecase} was lost during its build: {error}") from error

    def dbt_environment(self) -> dict[str, str]:
        """Return the parts of the URL.

        The password has a name that dbt keeps out of its logs. libpq's own variables carry the rest: what
        the adapter has no setting for (TLS, options), and the settings of its sessions.
        """
        given = _parameters()
        own = {
            "NIGHTSHIFT_DBT_POSTGRES_HOST": given.get("host", ""),
            "NIGHTSHIFT_DBT_POSTGRES_PORT": _port(given),
            "NIGHTSHIFT_DBT_POSTGRES_USER": given.get("user", ""),
            "NIGHTSHIFT_DBT_POSTGRES_DATABASE": DATABASE,
            "NIGHTSHIFT_DBT_THREADS": str(settings().dbt_threads),
            "DBT_ENV_SECRET_NIGHTSHIFT_POSTGRES_PASSWORD": given.get("password", ""),
        }
        rest = {
            option.envvar.decode(): option.val.decode()
            for option in psycopg.pq.Conninfo.parse(url(DATABASE).encode())
            if option.envvar and option.val and option.keyword not in (b"password", b"dbname")
        }
        options = f"{rest.get('PGOPTIONS', '')} -c TimeZone=UTC -c {_NOTICE_THE_END}"
        return own | rest | {"PGOPTIONS": options.strip()}

    def after_dbt(self) -> None:
        """Nothing: dbt closes its sessions itself."""

    def is_bad_luck(self, message: str) -> bool:
        """Return whether the server was away, busy or full, or ended one of two transactions."""
        return any(words in message for words in _BAD_LUCK)

    def _open(self, *, read_only: bool) -> adbc.Connection:
        try:
            return adbc.connect(url(DATABASE), autocommit=True)
        except adbc.OperationalError:
            # Its words are the server's; whether the database is there can be asked.
            if not self._exists():
                if read_only:
                    raise NoWarehouseError(
                        f"there is no warehouse yet ({self.where()}): nothing was loaded"
                    ) from None
                self._create()
        # It is there by now, made here or by another process: what still fails has another reason.
        return adbc.connect(url(DATABASE), autocommit=True)

    def _exists(self) -> bool:
        try:
            with psycopg.connect(url(MAINTENANCE_DATABASE), autocommit=True) as server:
                found = server.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
        except psycopg.Error as error:
            _explain(error)
        return found is not None

    def _create(self) -> None:
        statement = sql.SQL(
            "create database {} template template0 encoding 'UTF8'"
            " locale_provider libc lc_collate 'C' lc_ctype 'C'"
        ).format(sql.Identifier(DATABASE))
        try:
            # Another process may be first.
            with (
                suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation),
                psycopg.connect(url(MAINTENANCE_DATABASE), autocommit=True) as server,
            ):
                server.execute(statement)
        except psycopg.Error as error:
            _explain(error)

    def _require_order_of_text(self, connection: PostgresConnection) -> None:
        ((by_language,),) = connection.execute("select 'a' < 'B'")
        if by_language:
            raise DataError(
                f"the database {DATABASE} does not sort text by code point",
                rule="the warehouse sorts text as DuckDB does: collation C",
                where=self.where(),
                cure=f"drop the database {DATABASE}: it is created right, and filled again from the lake",
            )


class PostgresConnection:
    """A session of PostgreSQL."""

    def __init__(self, connection: adbc.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, list(parameters) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def create_table(self, schema: str, name: str, columns: Mapping[str, str]) -> None:
        """Create a table with an index: a night's partitions cost the same however many there are."""
        definition = ", ".join(f"{quoted(column)} {sql_type}" for column, sql_type in columns.items())
        self.execute(f"create table {quoted(schema, name)} ({definition})")
        self.execute(f"create index on {quoted(schema, name)} (partition)")

    def append(self, schema: str, name: str, rows: pa.Table) -> None:
        """Add ``rows`` to a table, columns by name, and let the planner know what it holds now."""
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(name, rows, mode="append", db_schema_name=schema)
        self.execute(f"analyze {quoted(schema, name)}")

    def query(self, statement: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return the rows of a query."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, list(parameters) or None)
            rows = cursor.fetch_arrow_table()
        # Without the driver's notes on each column.
        return rows.cast(pa.schema([field.remove_metadata() for field in rows.schema]))


def _explain(error: adbc.Error | psycopg.Error) -> NoReturn:
    """Raise the error as bad luck, as what a person has to change, or as it is.

    Raises:
        TransientError: The server is away, busy or full, or ended one of two transactions.
        DataError: The server refuses a value, or us.
    """
    message, where = str(error).strip(), PostgresEngine().where()
    state = error.sqlstate or ""
    # A connection that fails has no SQLSTATE, only words.
    lost = not state and isinstance(error, adbc.OperationalError | psycopg.OperationalError)
    if state == "42501" or state.startswith("28") or (lost and any(words in message for words in _REFUSED)):
        raise DataError(
            f"the warehouse ({where}) does not let us in: {message}",
            rule="the role of NIGHTSHIFT_POSTGRES_URL may create the database and write to it",
            where="setting NIGHTSHIFT_POSTGRES_URL",
            cure="correct the setting, or grant the role what it lacks",
        ) from error
    if lost:
        raise TransientError(
            f"the warehouse ({where}) is out of reach: {message} (`nightshift up` starts the embedded server)"
        ) from error
    if state.startswith(_TRANSIENT_CLASSES):
        raise TransientError(f"the warehouse ({where}) could not do it now: {message}") from error
    if state.startswith("22"):
        raise DataError(
            f"the warehouse cannot hold a value: {message}",
            rule=f"PostgreSQL takes what is loaded (SQLSTATE {state})",
            where=where,
            cure="correct the value where the raw data come from, or add an expectation that quarantines it",
        ) from error
    raise error


def _parameters() -> dict[str, str]:
    return {name: str(value) for name, value in psycopg.conninfo.conninfo_to_dict(url(DATABASE)).items()}


def _port(parameters: Mapping[str, str]) -> str:
    return parameters.get("port", "5432")
