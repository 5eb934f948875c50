"""Columns become model input the same way in training and in scoring."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder

TRAIN = pa.table({"city": ["york", "bath", None, "york"], "wind": [1.5, None, 3.0, 4.0]})


@pytest.fixture
def encoder() -> Encoder:
    return Encoder.fit(TRAIN, ("city",), ("wind",))


def test_categories_are_the_sorted_values_of_the_training_rows(encoder: Encoder) -> None:
    assert encoder.categories == {"city": ("bath", "york")}
    assert encoder.columns == ("city", "wind")


def test_a_value_never_seen_in_training_is_missing(encoder: Encoder) -> None:
    seen = pa.table({"city": ["york", "rome", None], "wind": [1.0, 1.0, 1.0]})
    encoded = encoder.encode(seen)
    assert encoded["city"].to_pylist() == ["york", None, None]
    codes, _ = encoder.tensors(seen)
    assert codes.ravel().tolist() == [2, 0, 0]


def test_codes_do_not_depend_on_the_rows_of_the_batch(encoder: Encoder) -> None:
    alone = encoder.encode(pa.table({"city": ["york"], "wind": [1.0]}))["city"].combine_chunks()
    assert alone.dictionary.to_pylist() == ["bath", "york"]
    assert alone.indices.to_pylist() == [1]


@pytest.mark.parametrize(
    "wind",
    [
        pa.array([1, 0, None], pa.int64()),
        pa.array([True, False, None]),
        pa.array([Decimal("1.0"), Decimal("0.0"), None]),
        pa.array([1.0, 0.0, None], pa.float32()),
        pa.array([1.0, 0.0, float("nan")]),
    ],
)
def test_numbers_of_every_type_are_the_same_number(encoder: Encoder, wind: pa.Array) -> None:
    _, numbers = encoder.tensors(pa.table({"city": ["york"] * 3, "wind": wind}))
    np.testing.assert_array_equal(numbers.ravel(), np.array([1, 0, np.nan], dtype=np.float32))


def test_text_and_dictionary_columns_are_the_same(encoder: Encoder) -> None:
    plain = pa.array(["york", None, "bath"])
    for column in (plain, plain.dictionary_encode(), plain.cast(pa.large_string())):
        batch = pa.record_batch({"city": column, "wind": [1.0, 2.0, 3.0]})
        assert encoder.encode(batch)["city"].to_pylist() == ["york", None, "bath"]


def test_a_missing_column_is_named(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="'wind' is missing"):
        encoder.encode(pa.table({"city": ["york"]}))


def test_text_where_numbers_belong_is_named(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="'wind' is string"):
        encoder.encode(pa.table({"city": ["york"], "wind": ["strong"]}))
