"""What a trainer is: rows in, weights out. Everything around it (data, calibration, logging) is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.registry.encoder import Encoder


@dataclass(frozen=True)
class Examples:
    """Rows with their labels: features as a table, label of shape (rows,), 0 or 1."""

    features: pa.Table
    label: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """The outcome of one training.

    Attributes:
        weights: As the scorer of this kind reads them.
        history: Per name (``train_log_loss``, ``validation_log_loss``), one value a round or epoch.
        params: Every parameter that was in effect, defaults included.
    """

    weights: bytes
    history: dict[str, list[float]]
    params: dict[str, Any]


class Trainer(Protocol):
    """Fits one kind of model."""

    def fit(
        self, train: Examples, validation: Examples, encoder: Encoder, params: Mapping[str, Any], seed: int
    ) -> Fit:
        """Train on ``train``, stopping when ``validation`` no longer improves.

        The same arguments give the same weights, byte for byte, on the same kind of device.

        Raises:
            DataError: A parameter is unknown or has an impossible value.
        """
