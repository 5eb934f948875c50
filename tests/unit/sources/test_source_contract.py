"""The contract between a source and the catalogue, table by table."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.sources.contract import arrow_schema, check_columns, check_not_empty
from nightshift.usecase import Table, UseCase

SOURCE, DAY = "readings", date(2013, 7, 1)


@pytest.fixture
def usecase(flight_delays: UseCase) -> UseCase:
    """A use case whose one source has a column of every type."""
    kinds = ("string", "int64", "float64", "boolean", "date", "timestamp")
    table = Table.model_validate(
        {
            "description": "One column of each type",
            "key": ["a_string"],
            "refresh": "daily",
            "columns": {f"a_{kind}": {"type": kind, "description": kind} for kind in kinds},
        }
    )
    source = next(iter(flight_delays.sources.values())).model_copy(update={"tables": {"sample": table}})
    return flight_delays.model_copy(update={"sources": {SOURCE: source}})


def sample(**replaced: pa.Array) -> pa.Table:
    columns = {
        "a_string": pa.array(["x", None]),
        "a_int64": pa.array([1, None]),
        "a_float64": pa.array([0.5, None]),
        "a_boolean": pa.array([True, None]),
        "a_date": pa.array([DAY, None]),
        "a_timestamp": pa.array([datetime(2013, 7, 1, 4, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
    }
    return pa.table({**columns, **replaced})


def checked(usecase: UseCase, data: pa.Table) -> pa.Table:
    return check_columns(usecase, SOURCE, "sample", data, partition=DAY)


def test_what_already_fits_comes_back_unchanged(usecase: UseCase) -> None:
    assert checked(usecase, sample()).equals(sample())


def test_columns_come_back_in_catalogue_order(usecase: UseCase) -> None:
    backwards = sample().select(sample().column_names[::-1])
    assert checked(usecase, backwards).schema == arrow_schema(usecase.sources[SOURCE].tables["sample"])


@pytest.mark.parametrize(
    ("column", "given"),
    [
        ("a_string", pa.array(["x", None]).dictionary_encode()),
        ("a_string", pa.array(["x", None], pa.large_string())),
        ("a_int64", pa.array([1, None], pa.int32())),
        ("a_int64", pa.array([1.0, None])),
        ("a_int64", pa.array(["1", None])),
        ("a_float64", pa.array(["0.5", None])),
        ("a_date", pa.array(["2013-07-01", None])),
        (
            "a_timestamp",
            pa.array([datetime(2013, 7, 1, 4, tzinfo=UTC), None], pa.timestamp("ns", "America/New_York")),
        ),
        ("a_timestamp", pa.array(["2013-07-01T04:00:00Z", None])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_values_that_convert_without_loss_are_converted(
    usecase: UseCase, column: str, given: pa.Array
) -> None:
    assert checked(usecase, sample(**{column: given})).equals(sample())


@pytest.mark.parametrize(
    ("column", "given", "seen"),
    [
        ("a_string", pa.array([17, None]), "17"),
        ("a_int64", pa.array(["many", None]), "many"),
        ("a_int64", pa.array([1.5, None]), "1.5"),
        ("a_float64", pa.array([True, None]), "True"),
        ("a_boolean", pa.array(["yes", None]), "yes"),
        ("a_boolean", pa.array([1, None]), "1"),
        ("a_date", pa.array([20130701, None]), "20130701"),
        ("a_timestamp", pa.array([datetime(2013, 7, 1, 4), None], pa.timestamp("us")), "2013"),
        ("a_timestamp", pa.array(["2013-07-01T04:00:00", None]), "zone offset"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_wrong_type_stops_and_shows_a_value(
    usecase: UseCase, column: str, given: pa.Array, seen: str
) -> None:
    with pytest.raises(DataError) as error:
        checked(usecase, sample(**{column: given}))
    assert f"~ {column} " in error.value.message
    assert seen in error.value.message


def test_an_empty_column_without_type_fits_any(usecase: UseCase) -> None:
    got = checked(usecase, sample(a_float64=pa.nulls(2)))
    assert got["a_float64"].type == pa.float64()
    assert got["a_float64"].null_count == 2


def test_every_offender_is_named_at_once_with_rule_place_and_cure(usecase: UseCase) -> None:
    broken = sample(a_int64=pa.array(["many", "few"]), surprise=pa.array([1, 2])).drop_columns(["a_date"])
    with pytest.raises(DataError) as error:
        checked(usecase, broken)
    said, *lines = error.value.message.split("\n")
    assert said == "the columns of readings.sample are not those of the catalogue:"
    assert [line.strip()[:24] for line in lines] == [
        "- a_date (in the catalog",
        "+ surprise (in what came",
        "~ a_int64 is string, not",
    ], "a diff, as of a file"
    assert "catalogue" in error.value.rule
    assert error.value.where == "flight_delays/readings/sample, partition 2013-07-01"
    assert "flight_delays/sources.yml" in error.value.cure
    assert "sources.readings.tables.sample.columns" in error.value.cure


def test_a_column_that_comes_twice_stops(usecase: UseCase) -> None:
    twice = sample().append_column("a_int64", pa.array([3, 4]))
    with pytest.raises(DataError, match="~ a_int64 comes 2 times"):
        checked(usecase, twice)


def test_a_day_without_rows_stops_unless_declared_normal(usecase: UseCase) -> None:
    nothing = sample().slice(0, 0)
    with pytest.raises(DataError) as error:
        check_not_empty(usecase, SOURCE, "sample", nothing, partition=DAY)
    assert "2013-07-01" in error.value.where
    assert "allow_empty" in error.value.cure

    check_not_empty(usecase, SOURCE, "sample", sample(), partition=DAY)
    source = usecase.sources[SOURCE]
    quiet = source.tables["sample"].model_copy(update={"allow_empty": True})
    relaxed = usecase.model_copy(
        update={"sources": {SOURCE: source.model_copy(update={"tables": {"sample": quiet}})}}
    )
    check_not_empty(relaxed, SOURCE, "sample", nothing, partition=DAY)
