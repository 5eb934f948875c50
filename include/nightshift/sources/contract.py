"""The contract between a source and the catalogue: exactly the declared columns, in the declared types.

Whole-table breaches stop here. Single bad rows (a null in a key, a value out of range) pass: the
expectation suites find them and quarantine them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake.canonical import arrow_schema
from nightshift.lake.protection import HIDDEN_TEXT
from nightshift.usecase import UseCase

# Days since 1970 of 0001-01-01 and of 10000-01-01.
_FIRST_DAY, _END_DAY = -719_162, 2_932_897


def check_columns(
    usecase: UseCase, source: str, table: str, data: pa.Table, *, partition: date | None = None
) -> pa.Table:
    """Return ``data`` with the catalogue's columns, in its order and types.

    Values must convert without loss: text that reads as the type, integers to floats, integral floats to
    integers, finer timestamps that fall on microseconds. Nothing but text becomes text, nothing but
    booleans becomes boolean, and a timestamp without a time zone is not one. Text is UTF-8, and dates lie in
    the years 1 to 9999: beyond that, no engine agrees with another on what was said.

    Args:
        usecase: The use case.
        source: Name of the source in the catalogue.
        table: Name of the table in the catalogue.
        data: What the connector yielded.
        partition: The day, where ``data`` is one partition; it is named in the error.

    Raises:
        DataError: Columns are missing, undeclared, repeated or of another type; all of them are named.
    """
    schema = arrow_schema(usecase.sources[source].tables[table])
    names = data.column_names
    changed = {name: f"comes {names.count(name)} times" for name in schema.names if names.count(name) > 1}
    columns = []
    for field in schema:
        if names.count(field.name) != 1:
            continue
        try:
            columns.append(_convert(data[field.name], field.type))
        except pa.ArrowInvalid as error:
            declared = usecase.sources[source].tables[table].columns[field.name]
            given = data[field.name].type
            what = (
                f"is {given}, not {declared.type}"
                if given != field.type
                else f"holds what is no {declared.type}"
            )
            why = HIDDEN_TEXT if declared.hidden else error
            changed[field.name] = f"{what}: {why}"
    if diff := column_diff(schema.names, names, "what came", changed):
        raise DataError(
            f"the columns of {source}.{table} are not those of the catalogue:{diff}",
            rule="a source yields exactly the columns of the catalogue, in its types",
            where=_place(usecase, source, table, partition),
            cure=f"correct the source, or declare the change in {usecase.name}/sources.yml "
            f"under sources.{source}.tables.{table}.columns",
        )
    return pa.table(columns, schema=schema)


def column_diff(
    declared: Sequence[str], found: Sequence[str], place: str, changed: Mapping[str, str] | None = None
) -> str:
    """Return how columns differ from the catalogue's, a line each, to be read as a diff; empty if in nothing.

    Args:
        declared: The catalogue's columns.
        found: Those that are there.
        place: What has them, in words.
        changed: Columns that both have and that are not the same, with what is different.
    """
    lines = [f"- {name} (in the catalogue, not in {place})" for name in declared if name not in found]
    lines += [
        f"+ {name} (in {place}, not in the catalogue)"
        for name in dict.fromkeys(found)
        if name not in declared
    ]
    lines += [f"~ {name} {what}" for name, what in (changed or {}).items()]
    return "".join(f"\n    {line}" for line in lines)


def check_not_empty(usecase: UseCase, source: str, table: str, data: pa.Table, *, partition: date) -> None:
    """Stop on a partition without rows, unless the catalogue says ``allow_empty``.

    Raises:
        DataError: ``data`` has no rows and the table must have some every day.
    """
    if data.num_rows or usecase.sources[source].tables[table].allow_empty:
        return
    raise DataError(
        f"{table} has no rows on {partition.isoformat()}",
        rule="a partition has rows, unless its table is declared allow_empty",
        where=_place(usecase, source, table, partition),
        cure="ask the owner of the source whether the day is missing, and run the partition again when it is "
        f"there; if empty days are normal, set allow_empty in {usecase.name}/sources.yml",
    )


def parse_value(usecase: UseCase, source: str, table: str, column: str, value: Any) -> pa.Scalar:
    """Return one value that a person gave for a column, in the column's type.

    Args:
        usecase: The use case.
        source: Name of the source in the catalogue.
        table: Name of the table in the catalogue.
        column: Name of the column.
        value: Text, a number, a boolean or None, converted as ``check_columns`` does; text may also say
            ``true`` or ``false``.

    Raises:
        DataError: There is no such column, or the value does not convert.
    """
    schema = arrow_schema(usecase.sources[source].tables[table])
    if column not in schema.names:
        raise DataError(
            f"there is no column {column!r}",
            rule=f"columns of {table} are {', '.join(schema.names)}",
            where=_place(usecase, source, table, None),
            cure="use one of these",
        )
    wanted = schema.field(column).type
    declared = usecase.sources[source].tables[table].columns[column]
    if pa.types.is_boolean(wanted) and value in ("true", "false"):
        value = value == "true"
    try:
        return _convert(pa.chunked_array([pa.array([value])]), wanted)[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        shown = f"the value is no {declared.type}: {HIDDEN_TEXT}"
        raise DataError(
            shown if declared.hidden else f"{value!r} is no {declared.type}: {error}",
            rule="a value has the type that the catalogue declares for its column",
            where=f"{_place(usecase, source, table, None)}, column {column}",
            cure="write numbers as 12 or 3.5, booleans as true or false, dates as 2013-07-01, and times with "
            "their zone, as 2013-07-01T09:30:00Z",
        ) from (None if declared.hidden else error)


def _place(usecase: UseCase, source: str, table: str, partition: date | None) -> str:
    place = f"{usecase.name}/{source}/{table}"
    return f"{place}, partition {partition.isoformat()}" if partition else place


def _convert(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Cast without loss; Arrow alone would also turn numbers into text and local times into UTC."""
    converted = _cast(column, wanted)
    converted.validate(full=True)
    if pa.types.is_date(wanted):
        for day in (pc.min(converted), pc.max(converted)):
            if day.is_valid and not _FIRST_DAY <= day.value < _END_DAY:
                raise pa.ArrowInvalid(f"{day.value} days from 1970 is not in the years 1 to 9999")
    return converted


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    given = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(given) or given == wanted:
        return column.cast(wanted)
    text = pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given)
    if pa.types.is_string(wanted):
        fits = text
    elif pa.types.is_boolean(wanted):
        fits = False
    elif pa.types.is_timestamp(wanted):
        fits = text or (pa.types.is_timestamp(given) and given.tz is not None)
    elif pa.types.is_date(wanted):
        fits = text or pa.types.is_date(given)
    else:
        fits = text or pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given)
    if not fits:
        raise pa.ArrowInvalid(f"values such as {_examples(column)} do not convert")
    return column.cast(wanted)


def _examples(column: pa.ChunkedArray) -> str:
    return ", ".join(repr(value) for value in pc.drop_null(column).slice(0, 3).to_pylist()) or "null"
