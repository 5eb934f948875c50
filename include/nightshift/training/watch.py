"""Who looks on while a trainer trains: keeps checkpoints, shows progress, and may call it off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class PrunedError(Exception):
    """Whoever watches a training has seen enough: it is not worth its time. Raised by ``Watch.report``."""


class Watch(Protocol):
    """What a trainer tells about itself while it trains, and what it is told when it starts."""

    def resume(self) -> bytes | None:
        """Return the state that this very training kept last, or None at its first start."""

    def due(self) -> bool:
        """Return whether a checkpoint is wanted now. Cheap enough to ask at every step."""

    def keep(self, state: bytes, step: int) -> None:
        """Store ``state``, from which ``resume`` goes on, as reached after ``step`` steps."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Note that ``step`` of at most ``total`` steps are done, and how good the model is by now.

        Raises:
            PrunedError: The training shall end here, without a model.
        """


class Unwatched:
    """Keeps nothing and shows nothing, for calls that are over in a moment."""

    def resume(self) -> bytes | None:
        """Return None: every training starts from the beginning."""
        return None

    def due(self) -> bool:
        """Return False: no checkpoint is wanted."""
        return False

    def keep(self, state: bytes, step: int) -> None:
        """Forget it."""

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Say nothing."""
