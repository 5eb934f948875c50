"""Reading CSV files strictly: the header is exactly what is expected, and so is every type.

For connectors whose upstream is files. What goes wrong is a ``DataError`` that names file, column and value.
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from nightshift.errors import DataError

_NULLS = ["", "NA"]


def read_csv(file: Path, columns: Mapping[str, pa.DataType | None]) -> pa.Table:
    """Return the columns of ``file`` that have a type, in the order of ``columns``.

    Args:
        file: A CSV file with a header, or a zip archive (``name.csv.zip``) that holds one
            (``name.csv``). ``NA`` and an empty field mean null.
        columns: Every column of the file. ``None`` as type: expected in the file, not read.

    Raises:
        DataError: The file cannot be read, its header has other columns, or values other types.
    """
    data = _content(file)
    if not data.endswith(b"\n"):
        data += b"\n"  # Arrow takes a header that ends without a line break for no header
    found = _header(data)
    problems = [f"column {name!r} is missing" for name in columns if name not in found]
    problems += [f"column {name!r} is not expected" for name in dict.fromkeys(found) if name not in columns]
    problems += [
        f"column {name!r} comes {found.count(name)} times" for name in columns if found.count(name) > 1
    ]
    if problems:
        raise _defect(file, "; ".join(problems), "the header names exactly the expected columns")

    wanted = {name: kind for name, kind in columns.items() if kind is not None}
    try:
        return _parse(data, wanted)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        message = _culprits(data, wanted) or str(error)
        raise _defect(file, message, "every value has the type of its column") from error


def _content(file: Path) -> bytes:
    try:
        if file.suffix != ".zip":
            return file.read_bytes()
        with zipfile.ZipFile(file) as archive:
            return archive.read(file.stem)
    except (OSError, zipfile.BadZipFile, KeyError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        # Encrypted, of an unknown compression, or damaged inside: the module has no one error for these.
        raise _defect(file, f"cannot be read: {error}", "the source has its files") from error


def _header(data: bytes) -> list[str]:
    line = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return [line]


def _parse(data: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    return pa_csv.read_csv(
        pa.BufferReader(data),
        convert_options=pa_csv.ConvertOptions(
            include_columns=list(types), column_types=types, null_values=_NULLS, strings_can_be_null=True
        ),
    )


def _culprits(data: bytes, types: Mapping[str, pa.DataType]) -> str:
    """Name columns and values that do not convert; Arrow's own message names neither column nor line."""
    try:
        text = _parse(data, dict.fromkeys(types, pa.string()))
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return ""
    problems = []
    for name, kind in types.items():
        for line, value in enumerate(text[name].to_pylist(), start=2):
            try:
                pa.scalar(value, pa.string()).cast(kind)
            except pa.ArrowInvalid:
                problems.append(f"column {name!r}, line {line}: {value!r} is not {kind}")
                break
    return "; ".join(problems)


def _defect(file: Path, message: str, rule: str) -> DataError:
    return DataError(
        f"{file.name}: {message}",
        rule=rule,
        where=str(file),
        cure="restore the file, or have its owner announce the change and adapt the connector to it",
    )
