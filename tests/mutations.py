"""A thousand ways in which a source gets its data wrong, each the same for the same seed.

``damaged_file`` damages the bytes of a CSV file, as a disk, a transfer or an export would; ``damaged_table``
damages the rows that a connector gives, as a bug in it or a change upstream would.
"""

from __future__ import annotations

import csv
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from nightshift.sources.base import Connector, Extract
from nightshift.usecase import UseCase

TEXTS = (
    "",
    " ",
    "NA",
    "null",
    "\u00e9\u00e8\u00fc",
    "\u65e5\u672c\u8a9e",
    "\u05e9\u05dc\u05d5\u05dd\u202e",
    "\U0001f6eb" * 3,
    "e\u0301\u0301\u0301",
    "\ufeffid",
    "line\u2028separator",
    "nul\x00inside",
    "tab\tquote'\"",
    "\U0010ffff",
    "x" * 5000,
    "'; drop table raw; --",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
)
NUMBERS = (
    "1e308",
    "-1e308",
    "1e-320",
    "1e400",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "0x1F",
    "1,5",
    "1_000",
    "- 1",
    "-0",
    "-0.0",
    "+7",
    "007",
    "\u0663",
)
MOMENTS = (
    "0000-00-00T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "1583-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "2013-02-29T00:00:00Z",
    "2013-03-10T07:30:00Z",
    "2013-07-02",
    "2013-07-02T10:00:00",
    "2013-07-02T25:00:00Z",
    "9999-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "294247-01-10T04:00:54Z",
)
UNREAL = ("NaN", "nan", "inf", "-inf", "Infinity", "1.#QNAN")


# Files ------------------------------------------------------------------------------------------------

Lines = list[list[str]]


def damaged_file(name: str, content: bytes, seed: int) -> tuple[str, str, bytes]:
    """Damage a CSV file once or twice.

    Returns:
        What was done, the name of the file to write (plain or zipped) and its bytes.
    """
    random = Random(seed)
    done = []
    for kind in random.sample(sorted(_OF_VALUES), random.choice((0, 1, 1, 2))):
        lines = list(csv.reader(io.StringIO(content.decode())))
        if len(lines) < 4 or len({len(line) for line in lines}) > 1:
            break  # so damaged already that there is no column to speak of
        content = _as_csv(_OF_VALUES[kind](random, lines) or lines)
        done.append(kind)
    if not done or random.random() < 0.15:
        kind = random.choice(sorted(_OF_BYTES))
        content = _OF_BYTES[kind](random, content)
        done.append(kind)
    if random.random() < 0.1:
        kind = random.choice(sorted(_OF_ARCHIVES))
        return " + ".join([*done, kind]), f"{name}.csv.zip", _OF_ARCHIVES[kind](random, name, content)
    return " + ".join(done), f"{name}.csv", content


def _as_csv(lines: Lines) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _plant(random: Random, lines: Lines, values: tuple[str, ...], columns: tuple[str, ...] = ()) -> None:
    """Put values into one column of some rows."""
    names = [name for name in lines[0] if name in columns] or lines[0]
    column = lines[0].index(random.choice(names))
    for line in random.sample(lines[1:], random.choice((1, 1, 2, len(lines) // 3))):
        line[column] = random.choice(values)


def _swap_columns(random: Random, lines: Lines) -> None:
    one, other = random.sample(range(len(lines[0])), 2)
    for line in lines[random.choice((0, 1)) :]:
        line[one], line[other] = line[other], line[one]


def _shift_dates(random: Random, lines: Lines) -> None:
    names = [name for name in lines[0] if name in ("time_hour", "day", "month", "year")]
    if not names:
        return _plant(random, lines, MOMENTS)
    place = lines[0].index(random.choice(names))
    by = random.choice((1, -1, 7, 365, -3650))
    for line in random.sample(lines[1:], random.choice((1, 2, len(lines) - 1))):
        if line[place].isdigit():
            line[place] = str(int(line[place]) + by)
        elif line[place].startswith("2013"):
            line[place] = line[place].replace("2013", str(2013 + by))
    return None


def _duplicate_column(random: Random, lines: Lines) -> None:
    place = random.randrange(len(lines[0]))
    for line in lines:
        line.append(line[place])


def _drop_column(random: Random, lines: Lines) -> None:
    place = random.randrange(len(lines[0]))
    for line in lines[random.choice((0, 0, 1)) :]:
        del line[place]


def _add_column(random: Random, lines: Lines) -> None:
    for number, line in enumerate(lines):
        line.append(random.choice(TEXTS[4:9]) if number == 0 else "1")


def _rename_column(random: Random, lines: Lines) -> None:
    place = random.randrange(len(lines[0]))
    lines[0][place] = random.choice((lines[0][place].upper(), f" {lines[0][place]}", *TEXTS[:10]))


def _repeat_rows(random: Random, lines: Lines) -> None:
    lines.extend(list(line) for line in random.sample(lines[1:], random.choice((1, 2, len(lines) - 1))))


def _drop_rows(random: Random, lines: Lines) -> None:
    del lines[random.choice((1, 2, len(lines) // 2, len(lines) - 1)) :]


def _cut_rows(random: Random, lines: Lines) -> None:
    for line in random.sample(lines[1:], random.choice((1, 2))):
        del line[random.randrange(len(line)) :]


def _null_key(random: Random, lines: Lines) -> None:
    _plant(random, lines, ("", "NA"), ("origin", "time_hour", "carrier", "flight", "faa", "tailnum"))


_OF_VALUES: dict[str, Callable[[Random, Lines], None]] = {
    "swapped columns": _swap_columns,
    "shifted dates": _shift_dates,
    "unicode": lambda random, lines: _plant(random, lines, TEXTS),
    "not a number": lambda random, lines: _plant(random, lines, UNREAL),
    "huge number": lambda random, lines: _plant(random, lines, NUMBERS),
    "odd time": lambda random, lines: _plant(random, lines, MOMENTS, ("time_hour", "name", "tzone")),
    "duplicated column": _duplicate_column,
    "missing column": _drop_column,
    "extra column": _add_column,
    "renamed column": _rename_column,
    "wrong type": lambda random, lines: _plant(
        random, lines, ("yes", "12:30", "1.5", "[1]", "TRUE", "N14228")
    ),
    "null in key": _null_key,
    "negative zero": lambda random, lines: _plant(random, lines, ("-0", "-0.0", "0")),
    "negative": lambda random, lines: _plant(random, lines, ("-1", "-2400", "2460", "99999")),
    "repeated rows": _repeat_rows,
    "missing rows": _drop_rows,
    "short rows": _cut_rows,
}


def _flip_bytes(random: Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 3, 50))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _mix_line_ends(random: Random, content: bytes) -> bytes:
    return b"".join(line + random.choice((b"\n", b"\r\n", b"\r", b"\n\n")) for line in content.split(b"\n"))


_OF_BYTES: dict[str, Callable[[Random, bytes], bytes]] = {
    "flipped bytes": _flip_bytes,
    "flipped bytes again": _flip_bytes,
    "truncated": lambda random, content: content[: random.randrange(len(content))],
    "emptied": lambda random, content: random.choice((b"", b"\n", b"\xef\xbb\xbf", b"\x00" * 512, b",,,\n")),
    "byte order mark": lambda random, content: random.choice((b"", b" ")) + b"\xef\xbb\xbf" + content,
    "utf-16": lambda random, content: content.decode("utf-8", "replace").encode(
        random.choice(("utf-16", "utf-16-be", "utf-32"))
    ),
    "latin-1": lambda random, content: content.replace(b"E", b"\xe9", random.choice((1, 3, 999))),
    "mixed line ends": _mix_line_ends,
    "windows line ends": lambda random, content: content.replace(b"\n", b"\r\n"),
    "open quote": lambda random, content: content.replace(b",", b',"', random.choice((1, 40))),
    "other separator": lambda random, content: content.replace(b",", random.choice((b";", b"\t", b", "))),
    "header twice": lambda random, content: content[: content.index(b"\n") + 1] + content,
    "two halves swapped": lambda random, content: content[len(content) // 2 :] + content[: len(content) // 2],
    "nul bytes": lambda random, content: content.replace(b"E", b"\x00", random.choice((1, 50))),
}


def _zipped(name: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


def _marked(content: bytes, local: int, central: int, value: int) -> bytes:
    """Set a field (two bytes) of both headers of the archive's only member."""
    data = bytearray(content)
    struct.pack_into("<H", data, local, value)
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + central, value)
    return bytes(data)


_OF_ARCHIVES: dict[str, Callable[[Random, str, bytes], bytes]] = {
    "zipped": lambda random, name, content: _zipped(f"{name}.csv", content),
    "other member": lambda random, name, content: _zipped("readme.txt", content),
    "no archive": lambda random, name, content: content,
    "flipped archive": lambda random, name, content: _flip_bytes(random, _zipped(f"{name}.csv", content)),
    "truncated archive": lambda random, name, content: _zipped(f"{name}.csv", content)[
        : random.randrange(1, 400)
    ],
    "encrypted archive": lambda random, name, content: _marked(_zipped(f"{name}.csv", content), 6, 8, 1),
    "unknown compression": lambda random, name, content: _marked(_zipped(f"{name}.csv", content), 8, 10, 99),
}


# Tables -----------------------------------------------------------------------------------------------

ORDERS: dict[str, Any] = {
    "description": "Made-up orders.",
    "key": ["order_id", "ordered_at"],
    "refresh": "daily",
    "columns": {
        "order_id": {"type": "string", "description": "Key", "nullable": False},
        "ordered_at": {"type": "timestamp", "description": "When", "nullable": False},
        "amount": {"type": "float64", "description": "Price"},
        "pieces": {"type": "int64", "description": "How many"},
        "paid": {"type": "boolean", "description": "Whether paid"},
        "due": {"type": "date", "description": "When to be paid"},
        "note": {"type": "string", "description": "Free text"},
    },
}
"""A catalogue table with a column of every type."""

SHOPS: dict[str, Any] = {
    "description": "Made-up shops.",
    "key": ["shop"],
    "refresh": "slow",
    "columns": {"shop": {"type": "string", "description": "Key", "nullable": False}},
}

_MOMENT = pa.timestamp("us", tz="UTC")


class Given(Connector):
    """Gives the tables that a test put into ``tables``, by name and day."""

    tables: ClassVar[dict[tuple[str, date], pa.Table]] = {}

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Need nothing."""

    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return the table of the day."""
        return Extract(self.tables[table, partition], f"{table} of {partition}")


def orders(day: date, rows: int = 24) -> pa.Table:
    """A day of good rows, the same at each call."""
    random = np.random.default_rng(day.toordinal())
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return pa.table(
        {
            "order_id": [f"{day}-{number:03d}" for number in range(rows)],
            "ordered_at": pa.array(
                [midnight + timedelta(minutes=30 * number) for number in range(rows)], _MOMENT
            ),
            "amount": random.normal(50, 10, rows).round(2),
            "pieces": random.integers(1, 9, rows),
            "paid": random.random(rows) < 0.5,
            "due": pa.array([day + timedelta(days=14)] * rows, pa.date32()),
            "note": pa.array(
                random.choice(["gift", "express"], rows).tolist(), mask=random.random(rows) < 0.3
            ),
        }
    )


@dataclass
class _Damage:
    """A table under damage; columns may share a name, which no dictionary could hold."""

    random: Random
    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: int

    def some(self) -> list[int]:
        """Some rows: mostly few."""
        count = min(self.rows, self.random.choice((1, 1, 2, 3, self.rows)))
        return self.random.sample(range(self.rows), count)

    def plant(self, kinds: tuple[str, ...], values: tuple[Any, ...], columns: tuple[str, ...] = ()) -> None:
        """Put values into some rows of a column of one of these types; nothing where there is none."""
        places = [
            place
            for place, column in enumerate(self.columns)
            if str(column.type) in kinds and (not columns or self.names[place] in columns)
        ]
        if not places:
            return
        place = self.random.choice(places)
        column = self.columns[place]
        number = pa.types.is_temporal(column.type)
        stored = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
        plain = (column.cast(stored) if number else column).to_pylist()
        for row in self.some():
            plain[row] = self.random.choice(values)
        made = pa.array(plain, stored if number else column.type)
        self.columns[place] = pa.chunked_array([made.cast(column.type) if number else made])

    def replace(self, name: str, make: Callable[[pa.ChunkedArray], pa.Array | pa.ChunkedArray]) -> None:
        """Replace the column ``name`` if it is still there."""
        if name in self.names:
            place = self.names.index(name)
            made = make(self.columns[place])
            self.columns[place] = made if isinstance(made, pa.ChunkedArray) else pa.chunked_array([made])


def damaged_table(day: date, seed: int) -> tuple[str, pa.Table]:
    """Damage a day of orders once or twice; return what was done, and the table."""
    random = Random(seed)
    good = orders(day)
    damage = _Damage(random, list(good.column_names), list(good.columns), good.num_rows)
    kinds = random.sample(sorted(_OF_TABLES), random.choice((1, 1, 2)))
    for kind in kinds:
        _OF_TABLES[kind](damage)
    return " + ".join(kinds), pa.table(damage.columns, names=damage.names)


def _swap(damage: _Damage) -> None:
    one, other = damage.random.sample(range(len(damage.columns)), 2)
    damage.columns[one], damage.columns[other] = damage.columns[other], damage.columns[one]


def _missing(damage: _Damage) -> None:
    place = damage.random.randrange(len(damage.columns))
    del damage.names[place], damage.columns[place]


def _extra(damage: _Damage) -> None:
    damage.names.append(damage.random.choice(("partition", "row_number", "_extra", "", *TEXTS[4:9])))
    damage.columns.append(damage.columns[0])


def _twice(damage: _Damage) -> None:
    place = damage.random.randrange(len(damage.columns))
    damage.names.append(damage.names[place])
    damage.columns.append(damage.columns[place])


def _take(damage: _Damage, rows: list[int]) -> None:
    damage.columns = [column.take(pa.array(rows, pa.int64())) for column in damage.columns]
    damage.rows = len(rows)


def _contradict(damage: _Damage) -> None:
    if damage.rows:
        _take(damage, [*range(damage.rows), *damage.some()])
        damage.plant(("double",), (1.25, -3.5))


def _rechunk(damage: _Damage) -> None:
    at = damage.random.randrange(damage.rows + 1)
    damage.columns = [
        pa.chunked_array(
            [*column.slice(0, at).chunks, pa.array([], column.type), *column.slice(at).chunks], column.type
        )
        for column in damage.columns
    ]


def _broken_text(damage: _Damage) -> None:
    def spoil(column: pa.ChunkedArray) -> pa.Array:
        values = [None if value is None else str(value).encode() for value in column.to_pylist()]
        for row in damage.some():
            values[row] = damage.random.choice((b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80"))
        spoilt = pa.array(values, pa.binary())
        return pa.Array.from_buffers(pa.string(), len(spoilt), spoilt.buffers(), spoilt.null_count)

    damage.replace(damage.random.choice(("order_id", "note")), spoil)


def _retype(damage: _Damage) -> None:
    name, make = damage.random.choice(_RETYPED)
    damage.replace(name, make)


def _shift(damage: _Damage) -> None:
    by = damage.random.choice((1, -1, 30, -365)) * 86_400_000_000
    place = next((i for i, column in enumerate(damage.columns) if pa.types.is_timestamp(column.type)), None)
    if place is not None:
        column = damage.columns[place]
        moments = column.cast(pa.int64()).to_pylist()
        for row in damage.some():
            moments[row] = None if moments[row] is None else moments[row] + by
        damage.columns[place] = pa.chunked_array([pa.array(moments, pa.int64()).cast(column.type)])


_RETYPED: tuple[tuple[str, Callable[[pa.ChunkedArray], Any]], ...] = (
    ("order_id", lambda column: pa.array(range(len(column)), pa.int64())),
    ("order_id", lambda column: column.cast(pa.large_string())),
    ("order_id", lambda column: column.cast(pa.string_view())),
    ("order_id", lambda column: column.cast(pa.binary())),
    ("order_id", lambda column: column.dictionary_encode()),
    ("note", lambda column: pa.nulls(len(column))),
    ("note", lambda column: pa.array([["a", "list"]] * len(column))),
    ("note", lambda column: pa.array([{"a": 1}] * len(column))),
    ("amount", lambda column: column.cast(pa.string())),
    ("amount", lambda column: column.cast(pa.float32())),
    ("amount", lambda column: pa.array([Decimal("12.34")] * len(column))),
    ("amount", lambda column: pa.array(["12,50"] * len(column))),
    ("amount", lambda column: pa.array([Decimal("1" * 38)] * len(column))),
    ("pieces", lambda column: column.cast(pa.float64())),
    ("pieces", lambda column: pa.array([1.5] * len(column))),
    ("pieces", lambda column: pa.array([2**63 + 1] * len(column), pa.uint64())),
    ("pieces", lambda column: pa.array([7] * len(column), pa.uint8())),
    ("pieces", lambda column: pa.array([True] * len(column))),
    ("pieces", lambda column: pa.array(["7"] * len(column))),
    ("pieces", lambda column: pa.array([float("nan")] * len(column))),
    ("pieces", lambda column: pa.array([7] * len(column), pa.duration("s"))),
    ("paid", lambda column: pa.array([1] * len(column))),
    ("paid", lambda column: pa.array(["true"] * len(column))),
    ("due", lambda column: column.cast(pa.date64())),
    ("due", lambda column: column.cast(pa.timestamp("us"))),
    ("due", lambda column: column.cast(pa.string())),
    ("due", lambda column: pa.array(["02/07/2013"] * len(column))),
    ("due", lambda column: pa.array([45] * len(column), pa.time32("s"))),
    ("ordered_at", lambda column: column.cast(pa.timestamp("us"))),
    ("ordered_at", lambda column: column.cast(pa.timestamp("s", tz="Europe/Paris"))),
    ("ordered_at", lambda column: column.cast(pa.timestamp("ns", tz="UTC"))),
    ("ordered_at", lambda column: column.cast(pa.string())),
    ("ordered_at", lambda column: column.cast(pa.int64())),
    ("ordered_at", lambda column: pa.array([1] * len(column), pa.timestamp("ns", tz="UTC"))),
    ("ordered_at", lambda column: pa.array([2**60] * len(column), pa.timestamp("s", tz="UTC"))),
    ("ordered_at", lambda column: pa.array([0] * len(column), pa.timestamp("us", tz="Mars/Base"))),
)

_TYPES = ("string", "timestamp[us, tz=UTC]", "double", "int64", "bool", "date32[day]")
_OF_TABLES: dict[str, Callable[[_Damage], None]] = {
    "swapped columns": _swap,
    "missing column": _missing,
    "extra column": _extra,
    "duplicated column": _twice,
    "renamed column": lambda damage: damage.names.__setitem__(
        0, damage.random.choice((" order_id", "ORDER_ID", ""))
    ),
    "reordered columns": lambda damage: (damage.names.reverse(), damage.columns.reverse(), None)[-1],
    "wrong type": _retype,
    "wrong type again": _retype,
    "unicode": lambda damage: damage.plant(("string",), TEXTS),
    "broken text": _broken_text,
    "not a number": lambda damage: damage.plant(("double",), (float("nan"), float("inf"), float("-inf"))),
    "huge number": lambda damage: damage.plant(("double",), (1.7e308, -1.7e308, 5e-324, 1e200)),
    "huge integer": lambda damage: damage.plant(("int64",), (2**63 - 1, -(2**63), 2**53 + 1)),
    "negative zero": lambda damage: damage.plant(("double",), (-0.0,)),
    "negative": lambda damage: damage.plant(("int64", "double"), (-1,)),
    "nulls": lambda damage: damage.plant(_TYPES, (None,)),
    "null in key": lambda damage: damage.plant(_TYPES, (None,), ("order_id", "ordered_at")),
    "shifted dates": _shift,
    "far time": lambda damage: damage.plant(
        ("timestamp[us, tz=UTC]",), (2**63 - 1, -(2**63), 0, 253402300800000000, -62135596800000001)
    ),
    "far date": lambda damage: damage.plant(("date32[day]",), (2**31 - 1, -(2**31), 2932897, -719163, 0)),
    "empty": lambda damage: _take(damage, []),
    "few rows": lambda damage: _take(damage, [0] if damage.rows else []),
    "repeated rows": lambda damage: _take(damage, [*range(damage.rows), *damage.some()]),
    "many rows": lambda damage: _take(damage, [*range(damage.rows)] * 40),
    "contradicting rows": _contradict,
    "odd chunks": _rechunk,
}
