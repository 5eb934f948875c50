"""Scales of numbers: learned from the training rows and stored with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

INPUTS_PER_NUMBER = 3
"""What ``NumberScale`` makes of each number."""

# Farther from the mean than so many standard deviations a value says no more: one wild number must not
# outweigh a hundred others.
_FARTHEST = 5.0


def moments(numbers: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each column of ``numbers`` (rows, columns).

    Missing values and infinities are left out; both are 0 for a column that holds nothing else.
    """
    present = np.isfinite(numbers)
    count = np.maximum(present.sum(axis=0), 1)
    means = np.where(present, numbers, 0).sum(axis=0, dtype=np.float64) / count
    spread = np.where(present, numbers - means, 0)
    return means, np.sqrt((spread**2).sum(axis=0) / count)


def standardize(
    numbers: npt.NDArray[np.float32], means: npt.NDArray[np.float64], deviations: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return ``numbers`` (rows, columns) in deviations from the mean, and what is missing, there 0.

    A column without deviation is told by its distance from the mean.
    """
    missing = ~np.isfinite(numbers)
    scaled = (np.where(missing, means, numbers) - means) / np.where(deviations > 0, deviations, 1)
    return scaled, missing


@dataclass(frozen=True)
class NumberScale:
    """What a network reads of a number: its quantile, its distance from the mean, and whether it is missing.

    Quantiles do not mind the heavy tails of delays (Gorishniy et al. 2021, "Revisiting Deep Learning Models
    for Tabular Data", section 4.2), but whatever lies beyond the training rows has the quantile of their
    extremes. The distance, in standard deviations, still tells such days apart.

    Attributes:
        knots: Per column, distinct values (ascending) and the mean quantile of each.
        means: Per column, over the training rows.
        deviations: Per column, the standard deviation over the training rows.
    """

    knots: list[tuple[list[float], list[float]]]
    means: list[float]
    deviations: list[float]

    @classmethod
    def fit(cls, numbers: npt.NDArray[np.float32], points: int = 129) -> NumberScale:
        """Learn the scale of ``numbers`` (rows, columns), NaN and infinities left out."""
        knots: list[tuple[list[float], list[float]]] = []
        levels = np.linspace(0, 1, points)
        for column in numbers.T:
            present = column[np.isfinite(column)].astype(np.float64)
            if present.size == 0:
                knots.append(([0.0], [0.5]))
                continue
            values, group = np.unique(np.quantile(present, levels), return_inverse=True)
            mean_level = np.bincount(group, weights=levels) / np.bincount(group)
            knots.append((values.tolist(), mean_level.tolist()))
        means, deviations = moments(numbers)
        return cls(knots, means.tolist(), deviations.tolist())

    def apply(self, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return (rows, 3 x columns): quantiles as -1 to 1, distances, and flags of what is missing.

        What is missing has the quantile and the distance 0.
        """
        inputs = np.zeros((len(numbers), INPUTS_PER_NUMBER, len(self.knots)), dtype=np.float32)
        distance, missing = standardize(numbers, np.array(self.means), np.array(self.deviations))
        for i, (values, levels) in enumerate(self.knots):
            inputs[:, 0, i] = 2 * np.interp(numbers[:, i], values, levels) - 1
        inputs[:, 0][missing] = 0
        np.clip(distance, -_FARTHEST, _FARTHEST, out=inputs[:, 1], casting="same_kind")
        inputs[:, 2] = missing
        return inputs.reshape(len(numbers), INPUTS_PER_NUMBER * len(self.knots))
