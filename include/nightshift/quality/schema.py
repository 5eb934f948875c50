"""Columns and types of what our own stages made: a changed query must not reach a table, a model or a reader.

Raw tables are checked against the catalogue before they come here (``sources.contract``). Features and
snapshots are checked against the columns that the use case declares, other layers against those of their
suite. Integers of any width are ``integer``, for engines differ in that; ``number`` allows them and floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import pyarrow as pa

from nightshift.errors import DataError
from nightshift.usecase import UseCase

Kind = Literal["string", "integer", "number", "boolean", "date", "timestamp"]

_IS: dict[Kind, Callable[[pa.DataType], bool]] = {
    "string": lambda given: pa.types.is_string(given) or pa.types.is_large_string(given),
    "integer": pa.types.is_integer,
    "number": lambda given: pa.types.is_integer(given) or pa.types.is_floating(given),
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date,
    # A time without a zone is no moment.
    "timestamp": lambda given: pa.types.is_timestamp(given) and given.tz is not None,
}


def check_schema(data: pa.Table, declared: Mapping[str, Kind], *, rule: str, place: str, exact: bool) -> None:
    """Check that ``data`` has the declared columns in the declared types. A column of nulls fits any type.

    Args:
        data: The rows.
        declared: What each column holds.
        rule: Names the rule in errors.
        place: Names the place in errors.
        exact: Refuse columns that are not declared.

    Raises:
        DataError: Columns are missing, of another type or, if ``exact``, undeclared; all are named.
    """
    given = dict(zip(data.schema.names, data.schema.types, strict=True))
    problems = [f"column {name!r} is missing" for name in declared if name not in given]
    if exact:
        problems += [f"column {name!r} is not declared" for name in given if name not in declared]
    problems += [
        f"column {name!r} is {given[name]}, not {kind}"
        for name, kind in declared.items()
        if name in given and not pa.types.is_null(given[name]) and not _IS[kind](given[name])
    ]
    if problems:
        raise DataError(
            "; ".join(problems),
            rule=f"{rule}: the columns are those that are declared, in their types",
            where=place,
            cure="mend the query or the code that makes these rows, or declare the change",
        )


def feature_columns(uc: UseCase) -> dict[str, Kind]:
    """Return what the use case declares of its features: event time and model inputs."""
    return {
        uc.event_time: "timestamp",
        **dict.fromkeys(uc.features.categorical, "string"),
        **dict.fromkeys(uc.features.numeric, "number"),
    }
