"""Predictions where applications look: a plain PostgreSQL table, one current row per entity.

``predictions.<use case>`` holds the newest prediction of each entity, ``predictions.<use case>_latest`` those
of the newest partition. A night that runs again replaces its own rows and never those of a newer night.
Each publish is one transaction: readers see a partition's rows as before or as after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import psycopg
import pyarrow as pa
from psycopg import sql

from nightshift.errors import TransientError
from nightshift.inference.score import LAYER
from nightshift.lake import tables
from nightshift.usecase import UseCase

_SCHEMA = "predictions"


def serve(uc: UseCase, partition: date, url: str) -> int:
    """Copy the published predictions of ``partition`` to the PostgreSQL database at ``url``.

    Returns:
        Rows of the partition that the table holds afterwards: those of entities that no newer night scored.

    Raises:
        TransientError: The partition is not published, or the database does not answer.
    """
    if tables.partition_version(uc, LAYER, partition) is None:
        raise TransientError(f"predictions of {uc.name} {partition} are not published yet")
    try:
        with psycopg.connect(url) as connection:
            return _replace(connection, uc, partition)
    except psycopg.OperationalError as error:
        raise TransientError(
            f"the database of predictions does not take {uc.name} {partition}: {error}"
        ) from error


def _replace(connection: psycopg.Connection, uc: UseCase, partition: date) -> int:
    # One publisher of a use case at a time: two that start together neither race to create the table
    # nor lock each other's rows in opposite order.
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{_SCHEMA}.{uc.name}"])
    _create(connection, uc)
    names = list(_types(uc))
    parts = {
        "table": sql.Identifier(_SCHEMA, uc.name),
        "entity": sql.Identifier(uc.entity),
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "new": sql.SQL(", ").join(sql.Identifier("excluded", name) for name in names),
        "old": sql.SQL(", ").join(sql.Identifier("current", name) for name in names),
    }
    connection.execute(
        sql.SQL("create temporary table incoming (like {table}) on commit drop").format(**parts)
    )
    copy = sql.SQL("copy incoming ({columns}) from stdin").format(**parts)
    with connection.cursor() as cursor, cursor.copy(copy) as rows:
        for batch in tables.scan(uc, LAYER, partition, columns=names):
            for row in _rows(batch, names):
                rows.write_row(row)
    connection.execute(
        sql.SQL(
            "delete from {table} as current where partition = %s"
            " and not exists (select from incoming where incoming.{entity} = current.{entity})"
        ).format(**parts),
        [partition],
    )
    connection.execute(
        sql.SQL(
            "insert into {table} as current ({columns}) select {columns} from incoming"
            " on conflict ({entity}) do update set ({columns}) = row({new})"
            " where current.partition <= excluded.partition and row({old}) is distinct from row({new})"
        ).format(**parts)
    )
    count = connection.execute(
        sql.SQL("select count(*) from {table} where partition = %s").format(**parts), [partition]
    ).fetchone()
    return int(count[0]) if count else 0


def _create(connection: psycopg.Connection, uc: UseCase) -> None:
    found = connection.execute("select to_regclass(%s)", [f"{_SCHEMA}.{uc.name}_latest"]).fetchone()
    # Asking first keeps a publish from waiting, on the view's lock, for every application that reads it.
    if found and found[0]:
        return
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in _types(uc).items()
    )
    for statement in (
        "create schema if not exists {schema}",
        "create table if not exists {table} ({columns}, primary key ({entity}))",
        "create index if not exists {index} on {table} (partition)",
        "create view {view} as select * from {table} where partition = (select max(partition) from {table})",
    ):
        connection.execute(
            sql.SQL(statement).format(
                schema=sql.Identifier(_SCHEMA),
                table=sql.Identifier(_SCHEMA, uc.name),
                view=sql.Identifier(_SCHEMA, f"{uc.name}_latest"),
                index=sql.Identifier(f"{uc.name}_partition"),
                entity=sql.Identifier(uc.entity),
                columns=columns,
            )
        )


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
    }


def _rows(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[object, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in names), strict=True)
