"""What a trainer is: rows in, weights out. Everything around it (data, calibration, logging) is shared.

A trainer that is interrupted and started again with the same arguments goes on from its last checkpoint, and
ends with the weights of an undisturbed training: byte for byte on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.registry.encoder import Encoder
from nightshift.training.watch import Watch


@dataclass(frozen=True)
class Examples:
    """Rows with their labels.

    Attributes:
        features: As published.
        label: Shape (rows,), 0 or 1.
        weight: Shape (rows,): how much each row counts in the loss; None: all alike.
    """

    features: pa.Table
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Fit:
    """The outcome of one training.

    Attributes:
        weights: As the scorer of this kind reads them.
        history: Per name (``train_log_loss``, ``validation_log_loss``), one value a round or epoch. Where
            rows are weighted, so are the losses.
        params: Every parameter that was in effect, defaults included.
    """

    weights: bytes
    history: dict[str, list[float]]
    params: dict[str, Any]


class Trainer(Protocol):
    """Fits one kind of model."""

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that decides a training beside rows and seed, JSON-able.

        Parameters with their defaults, kind of device, and version of the library that trains.

        Raises:
            DataError: A parameter is unknown or impossible, as far as this can be told beforehand.
        """

    def fit(
        self,
        train: Examples,
        validation: Examples,
        encoder: Encoder,
        params: Mapping[str, Any],
        seed: int,
        *,
        watch: Watch,
    ) -> Fit:
        """Train on ``train``, stopping when ``validation`` no longer improves.

        On the CPU the same arguments give the same weights, byte for byte, also when the training was
        interrupted and ``watch`` gives back what an earlier one kept. On a GPU they give them as far as its
        kernels are deterministic.

        Raises:
            DataError: A parameter is unknown or has an impossible value.
            PrunedError: ``watch`` called the training off.
        """
