"""How far one ordinary day lies from a whole training period, by the training days themselves.

Much of what a model reads is the same for all rows of a day (the weather, yesterday's mean), so any single
day is far from the mixture of many days. A distance means something only beside those of other single days.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]


def largest_daily_distances(reference: pa.Table, columns: Sequence[str]) -> dict[str, float]:
    """Return, for each numeric column, the largest distance of any day of ``reference`` from all of it.

    The distance is that of ``reports.Comparison``: Wasserstein, in standard deviations of the reference.
    A column without values gets 0.

    Args:
        reference: A sample with a column ``partition``.
        columns: Numeric columns of ``reference``.
    """
    _, day = np.unique(reference.column("partition").to_numpy(), return_inverse=True)
    return {name: _largest(numbers(reference, name), day) for name in columns}


def sometimes_absent(reference: pa.Table, columns: Sequence[str]) -> set[str]:
    """Return the numeric columns that had no value at all on some day of ``reference``."""
    _, day = np.unique(reference.column("partition").to_numpy(), return_inverse=True)
    size = day.max(initial=-1) + 1
    return {
        name
        for name in columns
        if (np.bincount(day[np.isfinite(numbers(reference, name))], minlength=size) == 0).any()
    }


def numbers(table: pa.Table, name: str) -> Floats:
    """Return a numeric or boolean column as floats of shape (rows,), NaN where there is no value."""
    values: Floats = pc.cast(table.column(name), pa.float64()).to_numpy()
    return values


def _largest(values: Floats, day: npt.NDArray[np.intp]) -> float:
    present = np.isfinite(values)
    values, day = values[present], day[present]
    if values.size == 0:
        return 0.0
    order = np.argsort(values, kind="stable")
    values, day = values[order], day[order]
    counts = np.bincount(day)
    # The distance is the area between two cumulative distributions. Every value of a day is one of the whole,
    # so the steps of both lie on the same grid, and all days are measured at once.
    steps = np.zeros((counts.size, values.size), dtype=np.float32)
    steps[day, np.arange(values.size)] = 1 / counts[day]
    shares = np.cumsum(steps, axis=1)
    whole = np.arange(1, values.size + 1) / values.size
    areas = np.abs(shares - whole.astype(np.float32))[:, :-1] @ np.diff(values)
    # Evidently bounds the standard deviation in the same way.
    return float(areas[counts > 0].max() / max(float(values.std()), 0.001))
