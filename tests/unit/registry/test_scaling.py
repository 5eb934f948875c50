"""Scales of numbers, as networks and the baseline read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nightshift.registry.scaling import NumberScale, moments, standardize

NAN, INFINITE = float("nan"), float("inf")


def column(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


def read(scale: NumberScale, *values: float) -> Any:
    """Return quantile, distance and missing flag of each value of the only column."""
    return scale.apply(column(*values)).tolist()


@pytest.fixture
def scale() -> NumberScale:
    """Learned from 0 to 100, of mean 50, and a missing value."""
    return NumberScale.fit(column(*range(101), NAN))


def test_the_quantile_is_that_among_the_training_rows(scale: NumberScale) -> None:
    assert [row[0] for row in read(scale, 0, 25, 50, 100)] == pytest.approx([-1, -0.5, 0, 1], abs=0.01)


def test_values_beyond_the_training_rows_are_told_apart_by_their_distance(scale: NumberScale) -> None:
    highest, beyond, wild, wilder = read(scale, 100, 120, 1e6, 1e7)
    assert highest[0] == beyond[0] == 1
    assert highest[1] < beyond[1] < wild[1]
    assert wild == wilder


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_what_is_missing_is_flagged_and_says_nothing_else(scale: NumberScale, value: float) -> None:
    assert read(scale, value, 50) == [[0, 0, 1], pytest.approx([0, 0, 0], abs=1e-6)]


@pytest.mark.parametrize("values", [(3.0, 3.0, 3.0), (NAN, NAN)])
def test_a_column_in_which_nothing_differs_has_a_scale(values: tuple[float, ...]) -> None:
    scale = NumberScale.fit(column(*values))
    assert np.isfinite(scale.apply(column(*values, 4.0, NAN))).all()


def test_all_inputs_of_a_number_stand_at_fixed_places(scale: NumberScale) -> None:
    both = NumberScale.fit(np.hstack([column(*range(101), NAN), column(*range(0, -101, -1), NAN)]))
    inputs = both.apply(np.array([[100, NAN]], dtype=np.float32))
    ((quantile, distance, missing),) = read(scale, 100)
    assert inputs.tolist() == [[quantile, 0, distance, 0, missing, 1]]


def test_moments_are_of_what_is_there() -> None:
    means, deviations = moments(np.array([[1.0, NAN], [3.0, INFINITE]]))
    assert means.tolist() == [2, 0]
    assert deviations.tolist() == [1, 0]


def test_standardized_numbers_have_mean_0_and_deviation_1() -> None:
    numbers = np.random.default_rng(1).normal(5, 3, (1000, 2)).astype(np.float32)
    scaled, missing = standardize(numbers, *moments(numbers))
    assert scaled.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert scaled.std(axis=0) == pytest.approx([1, 1], abs=1e-6)
    assert not missing.any()
