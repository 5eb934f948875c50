"""Distances from counts are those of scipy and Evidently on the rows themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import chisquare, ks_2samp, spearmanr, wasserstein_distance

from nightshift.monitoring import calibration
from nightshift.monitoring.sketches import make_grid

RANDOM = np.random.default_rng(0)


def _measured(reference: pa.Table, current: pa.Table, score: str = "") -> dict[tuple[str, str], float]:
    numeric = [name for name in reference.column_names if not pa.types.is_string(reference[name].type)]
    categorical = [name for name in reference.column_names if name not in numeric]
    grid = make_grid(reference, numeric, categorical)
    taken = calibration.statistics(grid, score)
    before, now = (
        grid.sketch(table, np.zeros(table.num_rows, dtype=np.intp), 1) for table in (reference, current)
    )
    values = calibration.measure(grid, taken, now, before)[0]
    return {(one.column, one.name): float(value) for one, value in zip(taken, values, strict=True)}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (RANDOM.normal(size=5000) * 3, RANDOM.normal(size=800) * 3 + 1),
        (RANDOM.lognormal(size=5000), RANDOM.lognormal(size=800) * 1.2),
        (RANDOM.integers(0, 5, size=5000), RANDOM.integers(1, 6, size=800)),
        (np.where(RANDOM.random(5000) < 0.2, np.nan, RANDOM.normal(size=5000)), RANDOM.normal(size=800) + 3),
    ],
    ids=["normal", "skewed", "few values", "gaps, far away"],
)
def test_numbers(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> None:
    found = _measured(
        pa.table({"x": pa.array(before, from_pandas=True)}), pa.table({"x": pa.array(now, from_pandas=True)})
    )
    known = before[np.isfinite(before)]
    expected = wasserstein_distance(known, now) / np.std(known)
    # Values beyond the reference are counted in cells of a quarter of a standard deviation.
    assert found["x", "wasserstein"] == pytest.approx(expected, rel=0.02, abs=0.15)
    assert found["x", "kolmogorov_smirnov"] == pytest.approx(ks_2samp(known, now).statistic, abs=0.01)


def test_categories() -> None:
    before = np.array(["a"] * 500 + ["b"] * 300 + ["c"] * 200)
    now = np.array(["a"] * 30 + ["b"] * 40 + ["c"] * 30)
    found = _measured(pa.table({"c": before}), pa.table({"c": now}))
    assert found["c", "jensen_shannon"] == pytest.approx(jensenshannon([0.5, 0.3, 0.2], [0.3, 0.4, 0.3]))
    chi = chisquare([30, 40, 30], [50, 30, 20]).statistic
    assert found["c", "chi_squared"] == pytest.approx(np.sqrt(chi / 100))


def test_scores() -> None:
    before, now = RANDOM.beta(2, 5, size=20_000), RANDOM.beta(2, 4, size=20_000)
    found = _measured(pa.table({"score": before}), pa.table({"score": now}), score="score")
    edges = np.quantile(before, np.linspace(0, 1, 11))
    edges[[0, -1]] = -np.inf, np.inf
    p, q = (np.histogram(values, edges)[0] / values.size for values in (now, before))
    index = float(((p - q) * np.log(p / q)).sum())
    assert found["score", "psi"] == pytest.approx(np.sqrt(index), rel=0.03)
    assert calibration.in_its_unit("psi", found["score", "psi"]) == pytest.approx(index, rel=0.05)


def test_correlations_are_those_of_ranks() -> None:
    x = RANDOM.lognormal(size=4000)
    y = np.log(x) + 0.5 * RANDOM.normal(size=4000)
    table = pa.table({"x": x, "y": y})
    grid = make_grid(table, ["x", "y"], [])
    sketch = grid.sketch(table, np.zeros(4000, dtype=np.intp), 1)
    pairs = calibration.strongest_pairs(sketch, 10)
    assert pairs.tolist() == [[0, 1]]
    found = calibration._correlations(pairs, sketch)[0, 0]
    assert found == pytest.approx(spearmanr(x, y).statistic, abs=0.02)


def test_sketches_of_days_add_up_to_that_of_all() -> None:
    table = pa.table({"x": RANDOM.normal(size=1000), "c": RANDOM.choice(["a", "b"], size=1000)})
    grid = make_grid(table, ["x"], ["c"])
    whole = grid.sketch(table, np.zeros(1000, dtype=np.intp), 1)
    split = grid.sketch(table, RANDOM.integers(0, 7, size=1000), 7).total()
    for part in ("rows", "counts", "sums", "products"):
        assert (getattr(whole, part) == getattr(split, part)).all()
