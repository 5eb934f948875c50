"""Predictions where applications look: a plain PostgreSQL table, one current row per entity.

``predictions.<use case>`` holds the newest prediction of each entity, ``predictions.<use case>_latest`` those
of the newest partition. A night that runs again replaces its own rows and never those of a newer night.
Each publish is one transaction: readers see a partition's rows as before or as after it.

The lake decides what is served. ``predictions._<use case>_partitions`` says which content of each partition
was copied, so that what the lake has otherwise by now can be found (``differences``) and copied again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import psycopg
import pyarrow as pa
from psycopg import sql

from nightshift.errors import DataError, TransientError
from nightshift.inference.score import LAYER
from nightshift.lake import tables
from nightshift.usecase import UseCase

_SCHEMA = "predictions"
_CONNECT_SECONDS = 10


def serve(uc: UseCase, partition: date, url: str) -> int:
    """Make the PostgreSQL database at ``url`` hold of ``partition`` what the lake holds.

    A partition that the lake does not have is withdrawn. An entity that the partition scored and does so no
    more has its prediction of the newest earlier partition again, if there is one.

    Returns:
        Rows of the partition that the table holds afterwards: those of entities that no newer night scored.

    Raises:
        TransientError: The database does not answer.
        DataError: The partition cannot be read.
    """
    with _transaction(uc, url, f"partition {partition}") as connection:
        return _replace(connection, uc, partition)


def differences(uc: UseCase, url: str) -> dict[date, str]:
    """Return the partitions that are served in another content than the lake has, and how they differ.

    Raises:
        TransientError: The database does not answer.
        DataError: Predictions are served, and the lake has no table of them at all.
    """
    with _transaction(uc, url, "what is served") as connection:
        served = _served(connection, uc)
    lake = {day: version.content_hash for day, version in tables.partition_versions(uc, LAYER).items()}
    # An empty lake is a wrong address more often than a wish to have nothing served.
    if served and not lake and LAYER not in tables.layers(uc):
        raise DataError(
            f"{len(served)} partitions of predictions are served, and the lake has no predictions",
            rule="what is served is a copy of what the lake has",
            where=f"{uc.name}, {LAYER}",
            cure="check NIGHTSHIFT_LAKE; if the lake was emptied on purpose, drop schema "
            f"{_SCHEMA} of the database",
        )
    return {
        day: "is served, the lake has it no more"
        if day not in lake
        else "is not served"
        if day not in served
        else f"is served as {served[day][:12] or 'nobody knows what'}, the lake has {lake[day][:12]}"
        for day in sorted(served.keys() | lake.keys())
        if served.get(day) != lake.get(day)
    }


@contextmanager
def _transaction(uc: UseCase, url: str, what: str) -> Iterator[psycopg.Connection]:
    """Connect to the tables of ``uc``, alone among publishers, until the end of one transaction.

    Two publishers that start together neither race to create the tables nor lock each other's rows in
    opposite order.
    """
    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
            _lock(connection, f"{_SCHEMA}.{uc.name}")
            _create(connection, uc)
            yield connection
    except psycopg.OperationalError as error:
        raise TransientError(
            f"the database of predictions does not take {uc.name}, {what}: {error}"
        ) from error


def _lock(connection: psycopg.Connection, name: str) -> None:
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def _replace(connection: psycopg.Connection, uc: UseCase, partition: date) -> int:
    names = list(_types(uc))
    parts = _names(uc) | {
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "new": sql.SQL(", ").join(sql.Identifier("excluded", name) for name in names),
        "old": sql.SQL(", ").join(sql.Identifier("current", name) for name in names),
    }
    connection.execute(
        sql.SQL("create temporary table incoming (like {table}) on commit drop").format(**parts)
    )
    copy = sql.SQL("copy incoming ({columns}) from stdin").format(**parts)
    # Only now that nobody else serves: whoever replaces the partition in the lake from here on, serves later.
    version, batches = tables.scan_version(uc, LAYER, partition)
    _copy(connection, copy, batches, names)
    gone = connection.execute(
        sql.SQL(
            "delete from {table} as current where partition = %s"
            " and not exists (select from incoming where incoming.{entity} = current.{entity})"
            " returning current.{entity}"
        ).format(**parts),
        [partition],
    ).fetchall()
    if gone:
        # Those that are not served yet bring their rows themselves.
        earlier = {day for day in _served(connection, uc) if day < partition}
        found = tables.newest_rows(uc, LAYER, earlier, uc.entity, [entity for (entity,) in gone])
        _copy(connection, copy, (batch for rows in found for batch in rows.to_batches()), names)
    connection.execute(
        sql.SQL(
            "insert into {table} as current ({columns}) select {columns} from incoming"
            " on conflict ({entity}) do update set ({columns}) = row({new})"
            " where current.partition <= excluded.partition and row({old}) is distinct from row({new})"
        ).format(**parts)
    )
    if version is None:
        connection.execute(
            sql.SQL("delete from {partitions} where partition = %s").format(**parts), [partition]
        )
        return 0
    connection.execute(
        sql.SQL(
            "insert into {partitions} as current (partition, content_hash) values (%s, %s)"
            " on conflict (partition) do update set content_hash = excluded.content_hash"
            " where current.content_hash <> excluded.content_hash"
        ).format(**parts),
        [partition, version.content_hash],
    )
    count = connection.execute(
        sql.SQL("select count(*) from {table} where partition = %s").format(**parts), [partition]
    ).fetchone()
    return int(count[0]) if count else 0


def _copy(
    connection: psycopg.Connection, copy: sql.Composed, batches: Iterator[pa.RecordBatch], names: list[str]
) -> None:
    with connection.cursor() as cursor, cursor.copy(copy) as rows:
        for batch in batches:
            for row in _rows(batch, names):
                rows.write_row(row)


def _served(connection: psycopg.Connection, uc: UseCase) -> dict[date, str]:
    """Return the content hash of every partition that is served; an empty one where nobody knows."""
    return dict(
        connection.execute(
            sql.SQL("select partition, content_hash from {partitions}").format(**_names(uc))
        ).fetchall()
    )


def _create(connection: psycopg.Connection, uc: UseCase) -> None:
    names = [uc.name, f"{uc.name}_latest", f"_{uc.name}_partitions"]
    found = connection.execute(
        "select to_regclass(%s), to_regclass(%s), to_regclass(%s)", [f"{_SCHEMA}.{name}" for name in names]
    ).fetchone()
    complete = found is not None and None not in found
    # Asking first keeps a publish from waiting, on the view's lock, for every application that reads it.
    if complete and _has_every_column(connection, uc):
        return
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in _types(uc).items()
    )
    _lock(connection, _SCHEMA)  # another use case may be creating it
    for statement in (
        "create schema if not exists {schema}",
        "create table if not exists {table} ({columns}, primary key ({entity}))",
        # What an earlier release created lacks it. The view has its columns in the order of the table.
        "alter table {table} add column if not exists reasons jsonb",
        "create index if not exists {index} on {table} (partition)",
        "create or replace view {view} as"
        " select * from {table} where partition = (select max(partition) from {table})",
        # What it says of a table that somebody dropped, or that is older than it, is not to be trusted.
        *(
            ()
            if complete
            else (
                "drop table if exists {partitions}",
                "create table {partitions} (partition date primary key, content_hash text not null)",
                "insert into {partitions} select distinct partition, '' from {table}",
            )
        ),
    ):
        connection.execute(sql.SQL(statement).format(**_names(uc), columns=columns))


def _has_every_column(connection: psycopg.Connection, uc: UseCase) -> bool:
    found = connection.execute(
        "select column_name from information_schema.columns where table_schema = %s and table_name = %s",
        [_SCHEMA, uc.name],
    ).fetchall()
    return _types(uc).keys() <= {name for (name,) in found}


def _names(uc: UseCase) -> dict[str, sql.Composable]:
    return {
        "schema": sql.Identifier(_SCHEMA),
        "table": sql.Identifier(_SCHEMA, uc.name),
        "view": sql.Identifier(_SCHEMA, f"{uc.name}_latest"),
        # No use case is called so: their names begin with a letter.
        "partitions": sql.Identifier(_SCHEMA, f"_{uc.name}_partitions"),
        "index": sql.Identifier(f"{uc.name}_partition"),
        "entity": sql.Identifier(uc.entity),
    }


def _types(uc: UseCase) -> dict[str, str]:
    return {
        uc.entity: "text not null",
        "partition": "date not null",
        uc.event_time: "timestamptz",
        "score": "double precision not null",
        "decision": "boolean not null",
        "model_version": "text not null",
        "model_hash": "text not null",
        "feature_version": "text not null",
        "run_id": "text not null",
        "reasons": "jsonb",
    }


def _rows(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[object, ...]]:
    # A table that only earlier releases wrote to lacks columns of later ones.
    there, rows = batch.schema.names, batch.num_rows
    return zip(
        *(batch.column(name).to_pylist() if name in there else [None] * rows for name in names), strict=True
    )
