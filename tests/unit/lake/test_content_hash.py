"""What a content hash must not notice, and what it must."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightshift.errors import DataError
from nightshift.lake.hashing import combine_hashes, content_hash, round_significant

KEY = ("k",)


def table(**changes: pa.Array) -> pa.Table:
    columns = {
        "k": pa.array(["a", "b", "c", "d"]),
        "whole": pa.array([1, 2, None, 4], pa.int64()),
        "part": pa.array([0.1, -2.5e-7, None, 3e12]),
        "word": pa.array(["x", None, "", "é"]),
        "yes": pa.array([True, None, False, True]),
        "day": pa.array([date(2013, 7, 1), None, date(1969, 12, 31), date(2013, 7, 2)]),
        "at": pa.array([datetime(2013, 7, 1, 8, tzinfo=UTC), None, None, None], pa.timestamp("us", "UTC")),
    }
    return pa.table(columns | changes)


def same(other: pa.Table) -> bool:
    return content_hash(table(), KEY) == content_hash(other, KEY)


def test_row_order_does_not_count() -> None:
    order = [3, 1, 0, 2]
    assert same(table().take(order))


def test_column_order_does_not_count() -> None:
    assert same(table().select(sorted(table().column_names, reverse=True)))


def test_chunking_does_not_count() -> None:
    assert same(pa.concat_tables([table().slice(0, 1), table().slice(1, 0), table().slice(1, 3)]))


def test_slices_of_a_larger_table_hash_as_themselves() -> None:
    padded = pa.concat_tables([table(), table(), table()]).combine_chunks()
    assert same(padded.slice(4, 4))


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint16()])
def test_the_width_of_integers_does_not_count(kind: pa.DataType) -> None:
    assert same(table(whole=table()["whole"].cast(kind)))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_the_encoding_of_strings_does_not_count(kind: pa.DataType) -> None:
    encoded = (
        table()["word"].dictionary_encode() if pa.types.is_dictionary(kind) else table()["word"].cast(kind)
    )
    assert same(table(word=encoded))


def test_a_dictionary_as_key_sorts_by_its_words_not_its_codes() -> None:
    codes = pa.DictionaryArray.from_arrays(pa.array([3, 2, 1, 0]), pa.array(["d", "c", "b", "a"]))
    assert same(table(k=codes))


def test_a_trip_through_pandas_and_parquet_does_not_count() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, row_group_size=2)
    assert same(pq.read_table(pa.BufferReader(sink.getvalue())))
    assert same(pa.Table.from_pandas(table().to_pandas(types_mapper=None), schema=table().schema))


def test_what_lies_under_a_null_does_not_count() -> None:
    whole = pa.array(np.array([1, 2, 999, 4]), mask=np.array([False, False, True, False]))
    part = pa.array(np.array([0.1, -2.5e-7, np.nan, 3e12]), mask=np.array([False, False, True, False]))
    word = pa.StringArray.from_buffers(
        4,
        pa.py_buffer(np.array([0, 1, 8, 8, 10], np.int32).tobytes()),
        pa.py_buffer("xgarbageé".encode()),
        pa.py_buffer(bytes([0b1101])),
    )
    assert same(table(whole=whole, part=part, word=word))


def test_a_column_of_nulls_is_no_content() -> None:
    for kind in (pa.null(), pa.string(), pa.float64()):
        assert same(table(new=pa.nulls(4, kind)))


def test_time_zones_and_units_of_the_same_moment_do_not_count() -> None:
    at = table()["at"]
    assert same(table(at=at.cast(pa.timestamp("ns", "America/New_York"))))
    assert same(table(at=at.cast(pa.timestamp("us"))))


def test_floats_count_to_nine_digits() -> None:
    noisy = pa.array([0.1 + 1e-12, -2.5e-7 * (1 + 1e-13), None, 3e12 + 1])
    assert same(table(part=noisy))
    assert not same(table(part=pa.array([0.100000001, -2.5e-7, None, 3e12])))


@pytest.mark.parametrize(
    ("said", "corrected"),
    [(12345678.91, 12345678.94), (1700000001.0, 1700000004.0), (4111111111111111.0, 4111111199999999.0)],
)
def test_what_a_source_said_counts_to_the_last_digit(said: float, corrected: float) -> None:
    one, two = (pa.table({"k": ["a"], "x": [value]}) for value in (said, corrected))
    assert content_hash(one, KEY, exact=True) != content_hash(two, KEY, exact=True)


def test_few_digits_hash_alike_exact_or_not() -> None:
    """So that raw objects keep their names that were written before all digits counted."""
    few = pa.table(
        {"k": [f"{number}" for number in range(2000)], "x": [number / 100 for number in range(2000)]}
    )
    assert content_hash(few, KEY, exact=True) == content_hash(few, KEY)


def test_a_run_id_of_a_source_is_data() -> None:
    one, two = (pa.table({"k": ["a"], "run_id": [value]}) for value in ("1", "2"))
    assert content_hash(one, KEY) == content_hash(two, KEY)
    assert content_hash(one, KEY, exact=True) != content_hash(two, KEY, exact=True)


def test_the_order_of_a_sum_does_not_count() -> None:
    rng = random.Random(7)
    terms = [rng.uniform(-1, 1) for _ in range(10_000)]
    there, back = sum(terms), sum(reversed(terms))
    assert there != back, "the test needs two different floats"
    one, two = (pa.table({"k": ["a"], "x": [value]}) for value in (there, back))
    assert content_hash(one, KEY) == content_hash(two, KEY)


@pytest.mark.parametrize("exact", [False, True])
def test_negative_zero_is_zero_and_nan_is_not_null(exact: bool) -> None:
    zero, minus, nan, null = (
        content_hash(pa.table({"k": ["a", "b"], "x": pa.array([1.0, value])}), KEY, exact=exact)
        for value in (0.0, -0.0, float("nan"), None)
    )
    assert zero == minus
    assert len({zero, nan, null}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"whole": pa.array([1, 2, None, 5])},
        {"whole": pa.array([1, 2, 0, 4])},
        {"whole": pa.array([1.0, 2.0, None, 4.0])},
        {"word": pa.array(["x", "", "", "é"])},
        {"word": pa.array(["x", None, "", "e"])},
        {"yes": pa.array([True, False, False, True])},
        {"day": pa.array([date(2013, 7, 1), None, date(1969, 12, 30), date(2013, 7, 2)])},
        {"at": pa.array([datetime(2013, 7, 1, 8, 0, 0, 1, tzinfo=UTC), None, None, None])},
        {"new": pa.array([None, None, None, 1])},
        {"k": pa.array(["a", "b", "c", "e"])},
    ],
)
def test_any_changed_value_counts(change: dict[str, pa.Array]) -> None:
    assert not same(table(**change))


def test_lost_doubled_and_renamed_count() -> None:
    assert not same(table().slice(0, 3))
    assert not same(pa.concat_tables([table(), table().slice(3)]))
    assert not same(table().rename_columns(["k", "whole", "part", "words", "yes", "day", "at"]))
    assert not same(table().drop_columns(["yes"]))


def test_text_cannot_slide_between_rows_or_columns() -> None:
    def of(first: list[str], second: list[str]) -> str:
        return content_hash(pa.table({"k": [1, 2], "a": first, "b": second}), KEY)

    assert len({of(["ab", "c"], ["d", "e"]), of(["a", "bc"], ["d", "e"]), of(["ab", "cd"], ["", "e"])}) == 3


def test_rows_with_the_same_key_have_one_hash_in_any_order() -> None:
    doubled = pa.table({"k": ["a", "a", "a"], "x": [3, 1, 2], "y": [None, "m", "n"]})
    assert len({content_hash(doubled.take(order), KEY) for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2])}) == 1


def test_empty_tables_hash_alike_whatever_their_columns() -> None:
    assert content_hash(table().slice(0, 0), KEY) == content_hash(
        pa.table({"k": pa.array([], pa.string())}), KEY
    )
    assert content_hash(table().slice(0, 0), KEY) != content_hash(table(), KEY)


def test_rounding_is_stable_at_every_size() -> None:
    rng = np.random.default_rng(3)
    values = (
        rng.uniform(1, 10, 60_000) * 10.0 ** rng.integers(-280, 300, 60_000) * rng.choice([-1, 1], 60_000)
    )
    values[:6] = [1e5, 999_999_999.6, 0.1, 1e-290, 1.7e308, 123_456_789.0]
    rounded = round_significant(values)
    assert np.array_equal(round_significant(rounded), rounded), "rounding twice is rounding once"
    assert np.all(np.abs(rounded - values) <= np.abs(values) * 5.01e-9)
    by_text = np.array([float(f"{value:.8e}") for value in values])
    usual = (np.abs(values) > 1e-13) & (np.abs(values) < 1e30)  # here the powers of ten needed are exact
    assert usual.sum() > 3_000
    assert np.array_equal(rounded[usual], by_text[usual])


def test_a_missing_key_column_is_named() -> None:
    with pytest.raises(DataError, match="no column flight among"):
        content_hash(table(), ["flight"])


def test_nested_columns_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'word'"):
        content_hash(table(word=pa.array([[1], [2], [3], [4]])), KEY)


def test_combined_hashes_depend_on_pairs_not_on_their_order() -> None:
    pairs = [("2013-07-01", "aa"), ("2013-07-02", "bb")]
    assert combine_hashes(pairs) == combine_hashes(reversed(pairs))
    assert combine_hashes(pairs) != combine_hashes([("2013-07-01", "bb"), ("2013-07-02", "aa")])
    assert combine_hashes(pairs) != combine_hashes(pairs[:1])
