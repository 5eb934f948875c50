"""JSON lines, read strictly: each line is one object, and no line can take the process down.

Arrow's reader is fast, and trusts its input: it takes two objects on a line for two rows, and a line that
says ``null``, or that is nested a hundred thousand deep, ends the whole process. So it sees only what looks
right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.json as pa_json

from nightshift.usecase import Column, ColumnType

_TYPES: dict[ColumnType, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
}
# Of a line: a catalogue has no nested columns, so whatever has more of them is not one of its rows.
_BRACKETS = 1_000
_BLOCK = 1 << 20


def parse(lines: Sequence[bytes], columns: Mapping[str, Column], ignore: Sequence[str] = ()) -> pa.Table:
    """Return a row for each line that is not blank: the columns, and whatever else the lines have.

    Columns that are neither numbers nor booleans are text. A field that a line lacks is null.

    Args:
        lines: Lines without their breaks.
        columns: The columns of the catalogue.
        ignore: Fields that are left out, whatever they hold.

    Raises:
        ValueError: A line is no JSON object, or holds what a column does not take.
    """
    found = [text for line in lines if (text := line.strip())]
    schema = pa.schema((name, _TYPES.get(column.type, pa.string())) for name, column in columns.items())
    try:
        rows = _read(found, schema)
    except ValueError:
        if not ignore:
            raise
        # A field that is ignored may hold another type on each line, or a tree.
        rows = _read([_without(line, ignore) for line in found], schema)
    return rows.drop_columns([name for name in ignore if name in rows.column_names])


def _read(lines: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    if not lines:
        return schema.empty_table()
    for line in lines:
        if not (line.startswith(b"{") and line.endswith(b"}")):
            raise ValueError("a line is no JSON object")
        if len(line) > _BRACKETS and line.count(b"{") + line.count(b"[") > _BRACKETS:
            raise ValueError(f"a line has more than {_BRACKETS} lists and objects")
    rows = pa_json.read_json(
        pa.BufferReader(b"\n".join(lines)),
        read_options=pa_json.ReadOptions(block_size=max(_BLOCK, 2 * max(map(len, lines)))),
        parse_options=pa_json.ParseOptions(explicit_schema=schema),
    )
    if rows.num_rows != len(lines):
        raise ValueError("a line holds more than one JSON object")
    return rows


def _without(line: bytes, ignore: Sequence[str]) -> bytes:
    try:
        row = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("a line is nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError("a line is no JSON object")
    return json.dumps({name: value for name, value in row.items() if name not in ignore}).encode()
