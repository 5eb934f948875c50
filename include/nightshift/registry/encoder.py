"""Turns feature columns into model input, in training and scoring by the same code.

Categories are fixed by the training rows and stored with the model. A category that was not among them
is missing, in validation as in production, so a new value can never be mistaken for an old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError


class Encoder(BaseModel):
    """Feature columns in model order: categorical (with their known values), then numeric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categories: Mapping[str, tuple[str, ...]]
    numeric: tuple[str, ...]

    @classmethod
    def fit(cls, table: pa.Table, categorical: tuple[str, ...], numeric: tuple[str, ...]) -> Encoder:
        """Learn the known categories, sorted, from the rows of ``table``."""
        known = {}
        for name in categorical:
            values = pc.unique(_text(_column(table, name))).drop_null()
            known[name] = tuple(sorted(values.to_pylist()))
        for name in numeric:
            _column(table, name)
        return cls(categories=known, numeric=numeric)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns read, in model order."""
        return (*self.categories, *self.numeric)

    def encode(self, data: pa.RecordBatch | pa.Table) -> pa.Table:
        """Return categorical columns as dictionary arrays over the known categories, numeric ones as float32.

        Raises:
            DataError: A column is missing, or holds neither numbers nor booleans where numbers are expected.
        """
        arrays = [
            pa.DictionaryArray.from_arrays(codes, pa.array(self.categories[name], pa.string()))
            for name, codes in zip(self.categories, self._codes(data), strict=True)
        ]
        return pa.table([*arrays, *self._numbers(data)], names=list(self.columns))

    def tensors(
        self, data: pa.RecordBatch | pa.Table
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return codes (rows, categorical), 0 for missing, and numbers (rows, numeric), NaN for missing.

        Raises:
            DataError: As ``encode``.
        """
        codes = np.zeros((data.num_rows, len(self.categories)), dtype=np.int64)
        for position, column in enumerate(self._codes(data)):
            codes[:, position] = pc.add(pc.fill_null(column, -1), 1).to_numpy(zero_copy_only=False)
        numbers = np.empty((data.num_rows, len(self.numeric)), dtype=np.float32)
        for position, column in enumerate(self._numbers(data)):
            numbers[:, position] = column.to_numpy(zero_copy_only=False)
        return codes, numbers

    def _codes(self, data: pa.RecordBatch | pa.Table) -> list[pa.Array]:
        return [
            pc.index_in(_text(_column(data, name)), value_set=pa.array(known, pa.string()))
            for name, known in self.categories.items()
        ]

    def _numbers(self, data: pa.RecordBatch | pa.Table) -> list[pa.Array]:
        return [_number(_column(data, name), name) for name in self.numeric]


def _column(data: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    position = data.schema.get_field_index(name)
    if position < 0:
        raise DataError(
            f"feature column {name!r} is missing; there are {', '.join(data.schema.names)}",
            rule="a model reads every column of its feature list",
            where="model input",
            cure="rebuild the features of these partitions, or train a model on the columns that exist",
        )
    column = data.column(position)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _text(column: pa.Array) -> pa.Array:
    return column if column.type == pa.string() else pc.cast(column, pa.string())


def _number(column: pa.Array, name: str) -> pa.Array:
    kind: Any = column.type
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"feature column {name!r} is {kind}, not a number",
            rule="columns under features.numeric hold numbers or booleans",
            where="model input",
            cure=f"list {name!r} under features.categorical, or make it a number in the features relation",
        )
    return pc.cast(column, pa.float32(), safe=False)
