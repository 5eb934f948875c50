"""Rows as JSON and back without loss: how quarantined rows are kept, told apart, corrected and judged again.

Times and dates are text, as are NaN and infinities, which JSON lacks. A time outside the years 1 to 9999,
which cannot be read back from text, is its number of microseconds since 1970.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

HIDDEN = "hidden: personal data"
"""What stands for a value that not everybody may see."""

_ID_DIGITS = 16
# Microseconds since 1970 of 0001-01-01 and of 10000-01-01.
_FIRST, _END = -62_135_596_800_000_000, 253_402_300_800_000_000


def to_plain(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as values that JSON holds, by column."""
    columns = [_plain(column) for column in rows.columns]
    return [dict(zip(rows.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def without_hidden(row: Mapping[str, Any], hidden: Container[str]) -> dict[str, Any]:
    """Return a row that ``to_plain`` gave without the values of the ``hidden`` columns; null stays null."""
    return {name: HIDDEN if name in hidden and value is not None else value for name, value in row.items()}


def from_plain(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows that ``to_plain`` gave, in the types of ``schema``; columns that they lack are null.

    Raises:
        pyarrow.ArrowInvalid: A value does not fit its type, as it may be after the schema has changed.
    """
    columns = [_typed([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.table(columns, schema=schema)


def row_id(row: Mapping[str, Any]) -> str:
    """Return the id of a row that ``to_plain`` gave: a hash of its values, without nulls, in any order.

    It is the same wherever the row appears again, also after a column of whole numbers became one of floats,
    and rows that are alike in every column share it.
    """
    values = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in row.items()
        if value is not None
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        numbers = pc.cast(pc.cast(column, pa.timestamp("us", column.type.tz), safe=False), pa.int64())
        # Converted in Arrow: a broken source may hold years that Python's datetime cannot.
        return [
            text if number is None or _FIRST <= number < _END else number
            for text, number in zip(
                pc.cast(column, pa.string()).to_pylist(), numbers.to_pylist(), strict=True
            )
        ]
    if pa.types.is_temporal(column.type):
        column = pc.cast(column, pa.string())
    return [
        str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for value in column.to_pylist()
    ]


def _typed(values: list[Any], wanted: pa.DataType) -> pa.Array:
    if pa.types.is_floating(wanted):
        return pa.array([None if value is None else float(value) for value in values], wanted)
    if pa.types.is_timestamp(wanted):
        texts = pa.array([value if isinstance(value, str) else None for value in values], pa.string())
        numbers = pa.array([value if isinstance(value, int) else None for value in values], pa.int64())
        return pc.coalesce(texts.cast(wanted), numbers.cast(wanted))
    if pa.types.is_temporal(wanted):
        return pa.array(values, pa.string()).cast(wanted)
    return pa.array(values, wanted)
