"""What an explanation is: a model's log-odds as a sum over features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Contributions:
    """What each feature adds to the uncalibrated log-odds of each row.

    Attributes:
        values: Shape (rows, features), in the order of ``Encoder.columns``.
        base: Log-odds where nothing sets a row apart; ``base`` and a row's values sum to the row's log-odds.
    """

    values: npt.NDArray[np.float64]
    base: float
