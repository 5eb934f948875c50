"""Tables that enter the lake: one set of types, one partition."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.lake.canonical import canonical, sort_rows, with_partition

DAY = date(2013, 7, 1)


def test_types_become_the_stored_ones_and_columns_keep_their_order() -> None:
    table = pa.table(
        {
            "z": pa.array([1], pa.int32()),
            "a": pa.array([1.5], pa.float32()),
            "c": pa.array(["x"]).dictionary_encode(),
            "t": pa.array([0], pa.timestamp("s")),
            "d": pa.array([0], pa.date64()),
            "m": pa.array([Decimal("1.50")]),
        }
    )
    stored = canonical(table)
    assert stored.column_names == table.column_names
    assert [str(kind) for kind in stored.schema.types] == [
        "int64",
        "double",
        "string",
        "timestamp[us, tz=UTC]",
        "date32[day]",
        "decimal128(3, 2)",
    ]


def test_a_number_too_large_is_an_error_that_names_the_column() -> None:
    with pytest.raises(DataError, match="'big'"):
        canonical(pa.table({"big": pa.array([2**64 - 1], pa.uint64())}))


@pytest.mark.parametrize("given", [None, DAY, DAY.isoformat()])
def test_the_partition_column_is_a_day_however_it_was_given(given: object) -> None:
    table = pa.table({"k": ["a", "b"]} | ({"partition": [given] * 2} if given else {}))
    assert with_partition(table, DAY).to_pylist() == [
        {"k": "a", "partition": DAY},
        {"k": "b", "partition": DAY},
    ]


@pytest.mark.parametrize("stranger", [date(2013, 7, 2), None, "garbage"])
def test_rows_of_another_partition_are_refused(stranger: object) -> None:
    table = pa.table({"k": ["a"], "partition": [stranger]})
    with pytest.raises(DataError, match="1 of 1 rows belong to another partition"):
        with_partition(table, DAY)


def test_sorting_takes_columns_without_a_type_along() -> None:
    table = pa.table({"k": ["b", "a"], "nothing": pa.nulls(2)})
    assert sort_rows(table, ["k"]).to_pylist() == [{"k": "a", "nothing": None}, {"k": "b", "nothing": None}]
