"""Days as small tables of counts, so that a window costs a sum and never a look at the rows of training.

A grid cuts each column at quantiles of the reference. A sketch says how many rows of a day fell into each
cell, and how columns moved together. Both are whole numbers: sketches of days add up to the sketch of their
window, in any order, to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# Quantiles of the reference that cells end at. A column of fewer values has a cell for each.
_TAIL = (0.0005, 0.001, 0.002, 0.005)
_QUANTILES = np.unique([*np.linspace(0, 1, 129), *_TAIL, *(1 - share for share in _TAIL)])
# Cells beyond what the reference holds, in its standard deviations: distances are measured up to here.
_BEYOND = (*np.arange(0.25, 3.01, 0.25), 4.0, 6.0, 8.0, 12.0, 16.0)
# Normal scores are kept as whole numbers of this fraction, for sums that do not depend on their order.
_FRACTION = 32


@dataclass(frozen=True)
class Grid:
    """Where the columns are cut.

    Attributes:
        numeric: Names of the numeric columns that the reference has values of.
        points: Of each, the values at which its cells end, ascending: cell ``i`` holds values above point
            ``i - 1`` up to point ``i``, the last but one values above all points, the last missing ones.
        deviations: Of each, the standard deviation in the reference, at least 0.001 as Evidently bounds it.
        ranks: Of each, the normal score of each cell in the reference, times 32; a missing value has 0.
        categorical: Names of the categorical columns.
        categories: Of each, the values that the reference holds; a cell each, then one for values that are
            new, then one for missing ones.
    """

    numeric: tuple[str, ...]
    points: tuple[Floats, ...]
    deviations: tuple[float, ...]
    ranks: tuple[Counts, ...]
    categorical: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, numeric ones first."""
        return (*self.numeric, *self.categorical)

    @cached_property
    def _sizes(self) -> list[int]:
        return [points.size + 2 for points in self.points] + [len(known) + 2 for known in self.categories]

    @cached_property
    def cells(self) -> dict[str, slice]:
        """By column, where its cells lie in the counts of a sketch."""
        edges = np.concatenate([[0], np.cumsum(self._sizes)])
        return {name: slice(int(edges[i]), int(edges[i + 1])) for i, name in enumerate(self.columns)}

    @property
    def size(self) -> int:
        """Number of cells of all columns."""
        return sum(self._sizes)

    def sketch(self, table: pa.Table, day: npt.NDArray[np.intp], days: int) -> Sketches:
        """Count the rows of ``table`` by day and cell.

        Args:
            table: Rows with the columns of the grid; a column that is not there counts as missing.
            day: The day of each row, from 0 to ``days - 1``.
            days: How many days there are.
        """
        rows = table.num_rows
        counts = np.zeros((days, self.size), dtype=np.int64)
        scores = np.zeros((rows, len(self.numeric)))
        for place, name in enumerate(self.columns):
            if place < len(self.numeric):
                cell = self._cells_of_numbers(table, place)
                scores[:, place] = self.ranks[place][cell]
            else:
                cell = self._cells_of_categories(table, place - len(self.numeric))
            own = self.cells[name]
            size = own.stop - own.start
            counted = np.bincount(day * size + cell, minlength=days * size)
            counts[:, own] = counted.reshape(days, size)
        # Whole numbers far below 2^53: these products are exact, however they are summed up.
        products = np.zeros((days, len(self.numeric), len(self.numeric)))
        order = np.argsort(day, kind="stable")
        edges = np.searchsorted(day[order], np.arange(days + 1))
        for one in range(days):
            own_rows = scores[order[edges[one] : edges[one + 1]]]
            products[one] = own_rows.T @ own_rows
        sums = np.zeros((days, len(self.numeric)))
        for place in range(len(self.numeric)):
            sums[:, place] = np.bincount(day, weights=scores[:, place], minlength=days)
        total = np.bincount(day, minlength=days)
        return Sketches(total.astype(np.int64), counts, sums, products)

    def _cells_of_numbers(self, table: pa.Table, place: int) -> npt.NDArray[np.intp]:
        points = self.points[place]
        values = numbers(table, self.numeric[place])
        cell = np.searchsorted(points, values, side="left")
        return np.where(np.isfinite(values), cell, points.size + 1)

    def _cells_of_categories(self, table: pa.Table, place: int) -> npt.NDArray[np.intp]:
        known = self.categories[place]
        values = texts(table, self.categorical[place])
        found = pc.index_in(values, pa.array(known, pa.string()))
        cell = pc.fill_null(found, len(known)).to_numpy(zero_copy_only=False).astype(np.intp)
        missing = pc.is_null(values).to_numpy(zero_copy_only=False)
        return np.where(missing, len(known) + 1, cell)


@dataclass(frozen=True)
class Sketches:
    """What some days hold.

    Attributes:
        rows: Rows of each day, of shape (days,).
        counts: Rows by cell, of shape (days, cells).
        sums: Sums of the normal scores of numeric columns, of shape (days, numeric).
        products: Sums of their products, of shape (days, numeric, numeric).
    """

    rows: Counts
    counts: Counts
    sums: Floats
    products: Floats

    def take(self, days: Sequence[int] | npt.NDArray[np.intp]) -> Sketches:
        """Return the sketches of these days only."""
        chosen = np.asarray(days, dtype=np.intp)
        return Sketches(self.rows[chosen], self.counts[chosen], self.sums[chosen], self.products[chosen])

    def total(self) -> Sketches:
        """Return one sketch of all days together, as a single day."""
        return Sketches(
            self.rows.sum(keepdims=True),
            self.counts.sum(axis=0, keepdims=True),
            self.sums.sum(axis=0, keepdims=True),
            self.products.sum(axis=0, keepdims=True),
        )


def make_grid(table: pa.Table, numeric: Sequence[str], categorical: Sequence[str]) -> Grid:
    """Return the grid of a reference; columns that it holds no value of are left out."""
    known, points, deviations, ranks = [], [], [], []
    for name in numeric:
        values = numbers(table, name)
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        own = _points(values)
        known.append(name)
        points.append(own)
        deviations.append(max(float(values.std()), 0.001))
        ranks.append(_ranks(values, own))
    found = {name: pc.unique(texts(table, name).drop_null()).to_pylist() for name in categorical}
    named = [name for name in categorical if found[name]]
    categories = [tuple(sorted(found[name])) for name in named]
    return Grid(tuple(known), tuple(points), tuple(deviations), tuple(ranks), tuple(named), tuple(categories))


def numbers(table: pa.Table, name: str) -> Floats:
    """Return a numeric or boolean column as floats of shape (rows,), NaN where there is no value."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values: Floats = pc.cast(table.column(name), pa.float64(), safe=False).to_numpy()
    return values


def texts(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a categorical column as strings; null where the table has none."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    return pc.cast(table.column(name), pa.string())


def _points(values: Floats) -> Floats:
    # Values that occur, rather than means of two: a column of few values is counted value by value.
    inner = np.unique(np.quantile(values, _QUANTILES, method="inverted_cdf"))
    step = max(float(values.std()), 0.001)
    below = [inner[0] - step * share for share in reversed(_BEYOND)]
    above = [inner[-1] + step * share for share in _BEYOND]
    return np.concatenate([below, inner, above])


def _ranks(values: Floats, points: Floats) -> Counts:
    up_to = np.searchsorted(np.sort(values), points, side="right") / values.size
    shares = np.concatenate([[0.0], up_to, [1.0]])
    middle = np.clip((shares[1:] + shares[:-1]) / 2, 0.5 / values.size, 1 - 0.5 / values.size)
    scores = np.rint(ndtri(middle) * _FRACTION).astype(np.int64)
    return np.concatenate([scores, [0]])
