"""Single training days measured against all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import wasserstein_distance

from nightshift.monitoring.baseline import largest_daily_distances, sometimes_absent


def _reference(seed: int = 0, days: int = 6, rows: int = 50) -> pa.Table:
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    own = random.normal(size=days)[day]
    gaps = np.where(random.random(day.size) < 0.3, np.nan, random.normal(size=day.size))
    return pa.table(
        {
            "partition": np.datetime64("2013-01-01") + day,
            "row_level": random.normal(size=day.size),
            "same_all_day": own,
            "with_gaps": pa.array(gaps, from_pandas=True),
            "constant": np.ones(day.size),
            "outage": pa.array(np.where(day == 3, np.nan, 1.0), from_pandas=True),
            "empty": pa.nulls(day.size, pa.float64()),
        }
    )


@pytest.mark.parametrize("name", ["row_level", "same_all_day", "with_gaps"])
def test_the_largest_distance_is_that_of_one_day_by_scipy(name: str) -> None:
    frame = _reference().to_pandas()
    values = frame[name].dropna()
    expected = max(
        wasserstein_distance(values, part.dropna()) for _, part in frame.groupby("partition")[name]
    ) / np.std(values)
    found = largest_daily_distances(_reference(), [name])[name]
    assert found == pytest.approx(expected, rel=1e-3)


def test_what_is_the_same_all_day_differs_more_between_days() -> None:
    found = largest_daily_distances(_reference(), ["row_level", "same_all_day"])
    assert found["same_all_day"] > 3 * found["row_level"]


def test_columns_that_say_nothing_have_distance_zero() -> None:
    assert largest_daily_distances(_reference(), ["constant", "empty"]) == {"constant": 0.0, "empty": 0.0}


def test_columns_missing_on_a_whole_day() -> None:
    assert sometimes_absent(_reference(), ["row_level", "with_gaps", "outage"]) == {"outage"}
