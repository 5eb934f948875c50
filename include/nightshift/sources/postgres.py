"""Tables of a PostgreSQL database in use, read by watermark or by change data capture.

``watermark`` asks for the rows changed since the last time, by a column that every change renews. It needs
no more than the right to select, sees the state of a row when it asks, and never a deletion. ``cdc`` reads
every insert, update and delete in the order of their commits; see ``replication``.

A row's ``updated_at`` is older than its commit: what a transaction wrote at 12:00 may appear at 12:05. So a
watermark never passes the start of a transaction that still runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.settings import source_address
from nightshift.sources.captured import CapturedConnector
from nightshift.sources.contract import column_diff
from nightshift.sources.options import checked
from nightshift.usecase import ColumnName, UseCase

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# So that text means the same whatever the server's own settings are.
SESSION = "-c timezone=UTC -c datestyle=ISO -c extra_float_digits=1 -c default_transaction_read_only=on"
_CONNECT_SECONDS = 10
# Of refusals before there is a session, only the words tell.
_REFUSED = re.compile(r"authentication failed|does not exist|no pg_hba.conf entry|must be .*replication")


class PostgresTable(BaseModel):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relation: str = Field(pattern=r"^[^.\s]+\.[^.\s]+$", description="`schema.table` in the database.")
    capture: Literal["watermark", "cdc"] = Field(description="How changes are found.")
    day: ColumnName | None = Field(None, description="Column of the day a row is of; none if it is slow.")
    updated_at: ColumnName | None = Field(None, description="With watermark: column that each change renews.")
    skew_seconds: float = Field(
        1, ge=0, description="With watermark: how far clocks that set updated_at may be apart."
    )
    publication: str = Field("nightshift", description="With cdc: the publication that has the table.")
    ignore: tuple[str, ...] = Field((), description="Columns of the relation that the catalogue leaves out.")

    @model_validator(mode="after")
    def _has_its_watermark(self) -> PostgresTable:
        if (self.capture == "watermark") != (self.updated_at is not None):
            raise ValueError("updated_at is given with `capture: watermark`, and only then")
        return self


class PostgresOptions(BaseModel):
    """``options`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: dict[str, PostgresTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(50_000, ge=1, description="Changes read at once, and held in memory.")


class Postgres(CapturedConnector):
    """Yields tables of the database at ``NIGHTSHIFT_SOURCE_<NAME OF THE SOURCE>``."""

    Options = PostgresOptions

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is connected yet.

        Raises:
            DataError: An option is wrong or missing.
        """
        self.place = f"{usecase.name}/sources.yml: sources.{source}.options"
        tables = usecase.sources[source].tables
        self.options = checked(usecase, source, PostgresOptions)
        for name, chosen in self.options.tables.items():
            if chosen.updated_at and tables[name].columns.get(chosen.updated_at, None) is None:
                raise DataError(
                    f"{name} has no column {chosen.updated_at!r}",
                    rule="updated_at is a column of the table",
                    where=f"{self.place}.tables.{name}.updated_at",
                    cure="declare the column in the catalogue, with type timestamp",
                )
        super().__init__(usecase, source, {name: chosen.day for name, chosen in self.options.tables.items()})
        for name, chosen in self.options.tables.items():
            self.require_clear(name, chosen.updated_at, "updated_at")

    def _capture(self, table: str) -> int:
        """Write all that the database has of a table and the journal has not; return how many changes.

        Raises:
            DataError: The table's columns differ from the catalogue's, it cannot be read without loss, or
                changes were lost for good.
            TransientError: The database or the lake cannot be reached now.
        """
        newest = journal.last(self.usecase, self.source, table)
        chosen = self.options.tables[table].capture
        if newest is not None and newest.position.startswith("{") != (chosen == "cdc"):
            raise DataError(
                f"{table} was not captured by {chosen} so far",
                rule="a journal goes on as it began: where it ends is said in the words of its kind",
                where=f"{self.place}.tables.{table}.capture",
                cure="take the change back, or declare the table under a new name, with a journal of its own",
            )
        if chosen == "cdc":
            from nightshift.sources.replication import capture

            return capture(self, table)
        return self._by_watermark(table)

    @contextmanager
    def connected(self, **options: Any) -> Iterator[psycopg.Connection]:
        """Yield a connection that only reads; what the server says is told apart into bad luck and bad setup.

        Args:
            options: What ``psycopg.connect`` takes, besides.
        """
        import psycopg

        address = source_address(self.source)
        try:
            psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.ProgrammingError:
            # What it says holds the password.
            raise self._refused(
                "it is no address of PostgreSQL, such as postgresql://<user>@<host>/<database>"
            ) from None
        try:
            with psycopg.connect(
                address,
                connect_timeout=_CONNECT_SECONDS,
                application_name="nightshift",
                keepalives_idle=30,
                tcp_user_timeout=60_000,
                **options,
            ) as connection:
                yield connection
        except psycopg.Error as error:
            hides = any(self.hides(table) for table in self.options.tables)
            wrong = isinstance(
                error, psycopg.ProgrammingError | psycopg.DataError | psycopg.NotSupportedError
            )
            told = (
                self._refused(_said(error, hides))
                if wrong or _REFUSED.search(str(error))
                else TransientError(f"{self.source}: the database said: {_said(error, hides)}")
            )
            raise told from (None if hides else error)

    def _refused(self, message: str) -> DataError:
        return DataError(
            f"{self.source}: {message}",
            rule="the address leads to the database, and its role may read what sources.yml names",
            where=f"{self.place}, NIGHTSHIFT_SOURCE_{self.source.upper()}",
            cure="correct the address (reserved characters as %xx) or the names, or grant what is missing",
        )

    def check_columns(self, connection: psycopg.Connection, table: str) -> dict[str, str]:
        """Return the columns of a table's relation, with their SQL types.

        Raises:
            DataError: They are not those of the catalogue; all differences are named.
        """
        chosen = self.options.tables[table]
        found: dict[str, str] = dict(
            connection.execute(
                "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
                [_quoted(chosen.relation)],
            ).fetchall()
        )
        self.compare_columns(table, list(found))
        return found

    def compare_columns(self, table: str, found: Sequence[str]) -> None:
        """Compare the names of a relation's columns with the catalogue's.

        Raises:
            DataError: They differ; all differences are named.
        """
        chosen, declared = self.options.tables[table], self.declared(table).columns
        read = [name for name in found if name in declared or name not in chosen.ignore]
        if diff := column_diff(list(declared), read, chosen.relation):
            raise DataError(
                f"the columns of {chosen.relation} are not those of the catalogue:{diff}",
                rule="a source has exactly the columns of the catalogue, but for those under `ignore`",
                where=f"{self.usecase.name}/{self.source}/{table}",
                cure="declare the change in sources.yml, or name a new column under "
                f"options.tables.{table}.ignore; nothing was captured",
            )

    def _by_watermark(self, table: str) -> int:
        captured = 0
        with self.connected(options=SESSION, autocommit=True) as connection:
            types = self._check_placed(connection, table)
            # What begins while this reads is for the next time, or it might never end.
            horizon = self._horizon(connection, self.options.tables[table].skew_seconds)
            while True:
                newest = journal.last(self.usecase, self.source, table)
                position = json.loads(self.position_of(newest)) if newest else None
                rows, query = self._rows_after(connection, table, types, position, horizon)
                if not rows:
                    return captured
                names = list(self.declared(table).columns)
                columns = {
                    name: pa.array(values, pa.string())
                    for name, values in zip(names, zip(*rows, strict=True), strict=True)
                }
                changed_at = pa.chunked_array([columns[str(self.options.tables[table].updated_at)]])
                changes = self.changes(
                    table,
                    self.from_text(table, pa.table(columns)),
                    known_at=changed_at.cast(journal.MOMENT),
                )
                reached = self.kept_position(
                    table, json.dumps([columns[name][-1].as_py() for name in self._order(table)])
                )
                after = newest.number if newest else 0
                # None: another process has read on from there.
                if journal.append(
                    self.usecase, self.source, table, after, changes, position=reached, query=query
                ):
                    captured += len(rows)

    def _check_placed(self, connection: psycopg.Connection, table: str) -> dict[str, str]:
        """Return the SQL types of a table's columns, once no row can be passed over.

        Raises:
            DataError: The columns differ from the catalogue's, or what rows are read by is missing in some.
        """
        from psycopg import sql

        types = self.check_columns(connection, table)
        chosen = self.options.tables[table]
        where = f"{self.usecase.name}/{self.source}/{table}"
        updated_at = str(chosen.updated_at)
        if types[updated_at] != "timestamp with time zone" or (
            self.declared(table).columns[updated_at].type != "timestamp"
        ):
            raise DataError(
                f"{updated_at} is {types[updated_at]} in {chosen.relation}",
                rule="updated_at is `timestamp with time zone` there, and timestamp in the catalogue",
                where=where,
                cure="change the column's type, or read the table with `capture: cdc`",
            )
        row = connection.execute(
            sql.SQL("select count(*) from {} where {} or not isfinite({})").format(
                sql.Identifier(*chosen.relation.split(".")),
                sql.SQL(" or ").join(
                    sql.SQL("{} is null").format(sql.Identifier(one)) for one in self._order(table)
                ),
                sql.Identifier(updated_at),
            )
        ).fetchone()
        if row and row[0]:
            raise DataError(
                f"{row[0]} rows of {chosen.relation} have no {', '.join(self._order(table))}",
                rule="what a watermark reads by is never null or infinite, or rows would be passed over",
                where=where,
                cure="correct them, and declare the columns `not null` in the database",
            )
        return types

    def _order(self, table: str) -> list[str]:
        """Return the columns that rows are read in the order of: no two rows are equal in all of them."""
        chosen = self.options.tables[table]
        return list(
            dict.fromkeys(
                name
                for name in (chosen.updated_at, chosen.day, *self.declared(table).key)
                if name is not None
            )
        )

    def _rows_after(
        self,
        connection: psycopg.Connection,
        table: str,
        types: Mapping[str, str],
        position: Sequence[str] | None,
        horizon: str,
    ) -> tuple[list[tuple[str | None, ...]], str]:
        """Return the next rows of a table as text, in the catalogue's columns, and the query for people."""
        query = self._query_after(table, types, position, horizon)
        rows = connection.execute(query).fetchall()
        if position is not None:
            hidden = self.declared(table).hidden
            shown = [
                "..." if name in hidden else value
                for name, value in zip(self._order(table), position, strict=True)
            ]
            query = self._query_after(table, types, shown, horizon)
        return rows, query.as_string(connection)

    def _query_after(
        self, table: str, types: Mapping[str, str], position: Sequence[str] | None, horizon: str
    ) -> sql.Composed:
        from psycopg import sql

        chosen, order = self.options.tables[table], self._order(table)
        relation = sql.Identifier(*chosen.relation.split("."))
        # Named with their table: a bare name means what the query gives, which is text, and sorts like it.
        names = [sql.Identifier("source", name) for name in order]
        conditions = [sql.SQL("{} < {}").format(names[0], sql.Literal(horizon) + sql.SQL("::timestamptz"))]
        if position is not None:
            values = sql.SQL(", ").join(
                sql.Literal(value) + sql.SQL("::" + types[name])
                for name, value in zip(order, position, strict=True)
            )
            conditions.append(sql.SQL("({}) > ({})").format(sql.SQL(", ").join(names), values))
        return sql.SQL("select {} from {} source where {} order by {} limit {}").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier(name)) for name in self.declared(table).columns
            ),
            relation,
            sql.SQL(" and ").join(conditions),
            sql.SQL(", ").join(names),
            sql.Literal(self.options.batch_rows),
        )

    def _horizon(self, connection: psycopg.Connection, skew_seconds: float) -> str:
        """Return the moment before which nothing more can appear: no transaction that runs began earlier.

        Raises:
            DataError: The role may not see when others' transactions began, or asks a copy of the database.
            TransientError: A prepared transaction waits for its end.
        """
        # In a statement of its own: a transaction may begin between the two.
        now = connection.execute("select clock_timestamp()").fetchone()
        assert now is not None  # nosec B101  # the query has one row
        row = connection.execute(
            "select pg_is_in_recovery(),"
            " (select count(*) from pg_stat_activity where datname = current_database()"
            "   and (query = '<insufficient privilege>' or state = 'disabled')),"
            " (select count(*) from pg_prepared_xacts where database = current_database()),"
            " least(%s, (select min(xact_start) from pg_stat_activity"
            "   where datname = current_database() and pid <> pg_backend_pid()))"
            " - make_interval(secs => %s)",
            [now[0], skew_seconds],
        ).fetchone()
        assert row is not None  # nosec B101  # the query has one row
        copy, hidden, prepared, horizon = row
        if copy or hidden:
            raise DataError(
                "this server is a standby, which does not know what runs on the primary"
                if copy
                else f"the role may not see when the transactions of {hidden} sessions began",
                rule="a watermark stays behind every transaction that runs, so that it passes over no row",
                where=f"{self.place}, NIGHTSHIFT_SOURCE_{self.source.upper()}",
                cure="give the address of the primary, or use `capture: cdc`"
                if copy
                else "as a superuser: grant pg_read_all_stats to the role, and leave track_activities on for "
                "all; or use `capture: cdc`",
            )
        if prepared:
            raise TransientError(
                f"{self.source}: {prepared} prepared transactions wait for their end; what they wrote may "
                "lie before the watermark"
            )
        return str(horizon.isoformat())


def _quoted(relation: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in relation.split("."))


def _said(error: psycopg.Error, hides: bool) -> str:
    """Return what the server said; if values are to be hidden, without the details, which repeat them."""
    brief = error.diag.message_primary if hides and error.sqlstate else None
    return " ".join((brief or str(error)).split())
