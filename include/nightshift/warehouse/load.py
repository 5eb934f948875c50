"""Loading: the current version of each raw partition becomes rows of ``raw_<use case>.<table>``.

A partition is replaced as a whole, and ``raw_<use case>._loaded`` remembers the content hash of what
lies there, written in the same transaction as the rows. So loading again is free, a correction replaces
its partition, and a killed load leaves either all of a table's change or none of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, timedelta

import pyarrow as pa

from nightshift.errors import DataError
from nightshift.lake import raw
from nightshift.lake.canonical import ARROW_TYPES
from nightshift.lake.raw import RawManifest
from nightshift.usecase import ColumnType, Table, UseCase
from nightshift.warehouse.engine import Connection, engine, quoted

log = logging.getLogger(__name__)

_SQL_TYPES: dict[ColumnType, str] = {
    "string": "varchar",
    "int64": "bigint",
    "float64": "double precision",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp with time zone",
}

# What engines call these types when asked.
_OTHER_NAMES = {"character varying": "varchar", "double": "double precision"}


# By ``<source>.<table>`` and partition.
Manifests = Mapping[str, Mapping[date, RawManifest]]


def wanted(uc: UseCase, start: date, end: date) -> Manifests:
    """Return the current manifests that the nights ``start`` to ``end`` read, look-back included."""
    return {
        f"{source}.{name}": current_partitions(uc, source, name, start, end)
        for source, name, _ in uc.tables()
    }


def load(uc: UseCase, start: date, end: date, manifests: Manifests | None = None) -> dict[str, int]:
    """Load what the nights ``start`` to ``end`` may read, look-back included, and was not loaded before.

    Args:
        uc: The use case.
        start: First night.
        end: Last night.
        manifests: What ``wanted`` returned; asked for when not given. To be asked for within the
            ``exclusive`` of the build: a build that waited for another must not put back what that one read.

    Returns:
        Rows loaded by this call, per table; all zero when everything was there.

    Raises:
        TransientError: The warehouse is locked by another process, or out of reach.
        DataError: A raw object does not match its manifest.
    """
    manifests = wanted(uc, start, end) if manifests is None else manifests
    with engine().connect() as connection:
        connection.execute(f"create schema if not exists {quoted(_schema(uc))}")
        connection.execute(
            f"create table if not exists {_loaded(uc)} "
            "(table_name varchar, partition date, content_hash varchar)"
        )
        rows: dict[str, int] = {}
        for source, name, table in uc.tables():
            connection.execute("begin")
            try:
                _create(connection, uc, name, table)
                span = (start, end) if table.refresh == "slow" else partitions_read(uc, table, start, end)
                rows[name] = _load_table(connection, uc, name, table, manifests[f"{source}.{name}"], span)
                connection.execute("commit")
            except BaseException:
                # What failed is what matters: a commit that failed has ended its transaction already.
                with suppress(Exception):
                    connection.execute("rollback")
                raise
    return rows


def current_partitions(
    uc: UseCase, source: str, name: str, start: date, end: date
) -> dict[date, RawManifest]:
    """Return the current manifests that the nights ``start`` to ``end`` read from one table, by partition.

    Of a slow table these are the snapshots in force on those nights.
    """
    table = uc.sources[source].tables[name]
    if table.refresh == "slow":
        first = raw.newest_snapshot(uc, source, name, start)
        later = raw.current_many(uc, source, name, start, end)
        return ({first.partition: first} if first else {}) | later
    return raw.current_many(uc, source, name, *partitions_read(uc, table, start, end))


def partitions_read(uc: UseCase, table: Table, start: date, end: date) -> tuple[date, date]:
    """Return the first and the last partition of a daily table that the nights ``start`` to ``end`` read."""
    first = max(uc.history_start, start - timedelta(days=uc.features.lookback_days))
    return first, end - timedelta(days=table.lag_days)


def _schema(uc: UseCase) -> str:
    return f"raw_{uc.name}"


def _loaded(uc: UseCase) -> str:
    return quoted(_schema(uc), "_loaded")


def _create(connection: Connection, uc: UseCase, name: str, table: Table) -> None:
    columns = {"partition": "date"} | {column: _SQL_TYPES[c.type] for column, c in table.columns.items()}
    found = connection.execute(
        "select column_name, lower(data_type) from information_schema.columns "
        "where table_schema = $1 and table_name = $2 order by ordinal_position",
        [_schema(uc), name],
    )
    present = [(column, _OTHER_NAMES.get(sql_type, sql_type)) for column, sql_type in found]
    if present == list(columns.items()):
        return
    # New, or the catalogue has changed. Either way what is read will be loaded again from the lake.
    connection.execute(f"drop table if exists {quoted(_schema(uc), name)} cascade")
    connection.create_table(_schema(uc), name, columns)
    connection.execute(f"delete from {_loaded(uc)} where table_name = $1", [name])  # nosec B608  # quoted


def _load_table(
    connection: Connection,
    uc: UseCase,
    name: str,
    table: Table,
    wanted: Mapping[date, RawManifest],
    span: tuple[date, date],
) -> int:
    """Make the partitions in ``span`` those of ``wanted``; return the rows inserted."""
    # A slow table's snapshot in force may be older than the span.
    first, last = min((span[0], *wanted)), span[1]
    loaded: dict[date, str] = dict(
        connection.execute(
            f"select partition, content_hash from {_loaded(uc)} "  # nosec B608  # quoted
            "where table_name = $1 and partition between $2 and $3",
            [name, first, last],
        )
    )
    incoming = {day: m for day, m in sorted(wanted.items()) if loaded.get(day) != m.content_hash}
    # What the lake no longer has must go too, or features would rest on data that nobody can show.
    vanished = [day for day in loaded if day not in wanted and span[0] <= day <= span[1]]
    outdated = [*incoming, *vanished]
    if not outdated:
        return 0
    # Bounds as well as the list: engines skip blocks outside bounds, however long history is.
    condition = (
        f"partition between '{min(outdated)}' and '{max(outdated)}' and partition in "
        f"({', '.join(repr(str(day)) for day in outdated)})"
    )
    table_name = quoted(_schema(uc), name)
    connection.execute(f"delete from {table_name} where {condition}")  # nosec B608  # quoted, and dates
    connection.execute(
        f"delete from {_loaded(uc)} where table_name = $1 and {condition}",  # nosec B608  # quoted, and dates
        [name],
    )
    if not incoming:
        return 0
    rows = pa.concat_tables(_rows(table, day, manifest) for day, manifest in incoming.items())
    connection.append(_schema(uc), name, rows)
    hashes = [manifest.content_hash for manifest in incoming.values()]
    connection.append(
        _schema(uc),
        "_loaded",
        pa.table(
            {
                "table_name": pa.array([name] * len(incoming), pa.string()),
                "partition": pa.array(list(incoming), pa.date32()),
                "content_hash": pa.array(hashes, pa.string()),
            }
        ),
    )
    log.info("loaded %d rows of %s.%s in %d partitions", rows.num_rows, _schema(uc), name, len(incoming))
    return int(rows.num_rows)


def _rows(table: Table, day: date, manifest: RawManifest) -> pa.Table:
    data = raw.read(manifest)
    # An object landed before a column was added to the catalogue lacks it: null, as for any unknown.
    arrays = {"partition": pa.array([day] * data.num_rows, pa.date32())}
    for column, declared in table.columns.items():
        arrow_type = ARROW_TYPES[declared.type]
        try:
            arrays[column] = (
                data[column].cast(arrow_type)
                if column in data.column_names
                else pa.nulls(data.num_rows, arrow_type)
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"column {column!r} of {manifest.table} {day} does not fit the catalogue: {error}",
                rule="what was landed before a column changed its type can be read as the new one",
                where=f"raw {manifest.source}.{manifest.table}, partition {day}, version {manifest.version}",
                cure="ingest the partition again, or give the column a new name",
            ) from error
    return pa.table(arrays)
