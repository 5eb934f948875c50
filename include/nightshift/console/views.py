"""What every page's answers are made of."""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from nightshift.errors import DataError
from nightshift.usecase import UseCase


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""A number that JSON can say; what the rows do not define is None."""


class View(BaseModel):
    """A part of an answer: frozen, and with no field that its type does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def require_range(uc: UseCase, what: str, start: date, end: date, most: int) -> None:
    """Raise unless ``start`` to ``end`` is 1 to ``most`` days: a page costs what it shows.

    Raises:
        DataError: It is longer, or ends before it starts.
    """
    if not 0 <= (end - start).days < most:
        raise DataError(
            f"{start} to {end} cannot be shown at once",
            rule=f"{what} shows 1 to {most} days",
            where=f"{uc.name}, {what}",
            cure="ask for a shorter range, its first day first",
        )
