"""One form for equal data: the column types the lake stores, whatever engine produced the table.

Integers become int64, floats float64, all strings and dictionaries string, dates date32, timestamps
microseconds in UTC (those without a zone are taken to be UTC). Decimals and binary stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.usecase import ColumnType, Table

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""The types of the catalogue as the lake stores them."""


def arrow_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a catalogue table, in declared order.

    Every field may hold nulls, declared or not, so that a row with a forbidden null can travel to the
    validation that quarantines it.
    """
    return pa.schema([(name, ARROW_TYPES[column.type]) for name, column in table.columns.items()])


def canonical(table: pa.Table) -> pa.Table:
    """Return ``table`` with the lake's column types, same columns, same order.

    Raises:
        DataError: A column has a type the lake does not store, or a value does not fit.
    """
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            columns[field.name] = column.cast(_stored_type(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"column {field.name!r} of type {field.type} cannot be stored: {error}",
                rule="columns hold numbers, strings, booleans, dates, timestamps or bytes",
                where=f"column {field.name}",
                cure="cast the column before it reaches the lake, nested values for example to JSON text",
            ) from error
    return pa.table(columns)


def with_partition(table: pa.Table, partition: date) -> pa.Table:
    """Return ``table`` in canonical types with a ``partition`` column (date32) that names its day.

    Raises:
        DataError: There is such a column already and it names another day.
    """
    data = canonical(table)
    day = pa.scalar(partition, pa.date32())
    if "partition" in data.column_names:
        place = data.column_names.index("partition")
        try:
            given = data["partition"].cast(pa.date32())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            given = pa.chunked_array([pa.nulls(data.num_rows, pa.date32())])
        strangers = data.num_rows - (pc.sum(pc.equal(given, day)).as_py() or 0)
        if strangers:
            raise DataError(
                f"{strangers} of {data.num_rows} rows belong to another partition than {partition}",
                rule="every row of a partition carries that partition's day",
                where=f"column partition, for {partition}",
                cure="select the partition's rows before publishing",
            )
        return data.set_column(place, "partition", given)
    return data.append_column("partition", pa.repeat(day, data.num_rows))


def sort_rows(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return the rows in the order of ``key``; rows with equal keys in the order of all other columns.

    Raises:
        DataError: ``key`` names a column that is not there.
    """
    missing = [name for name in key if name not in table.column_names]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)} among {', '.join(table.column_names)}",
            rule="the key columns are columns of the table",
            where="key columns",
            cure="mend the key, or add the columns",
        )
    order = [*key, *sorted(set(table.column_names) - set(key))]
    # Arrow cannot sort by a column without a type; such a column holds only nulls.
    order = [name for name in order if not pa.types.is_null(table.schema.field(name).type)]
    if not order or table.num_rows < 2:
        return table
    return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in order]))


def _stored_type(given: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(given):
        return _stored_type(given.value_type)
    if pa.types.is_integer(given):
        return pa.int64()
    if pa.types.is_floating(given):
        return pa.float64()
    if pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given):
        return pa.string()
    if pa.types.is_timestamp(given):
        return pa.timestamp("us", "UTC")
    if pa.types.is_date(given):
        return pa.date32()
    if pa.types.is_large_binary(given) or pa.types.is_binary_view(given):
        return pa.binary()
    if pa.types.is_nested(given) or pa.types.is_time(given) or pa.types.is_duration(given):
        raise pa.ArrowNotImplementedError(f"{given} is not among the types the lake stores")
    return given
