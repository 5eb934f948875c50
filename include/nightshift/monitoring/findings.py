"""What is wrong with a day's data, told apart from drift: a feed that failed is not a world that changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from nightshift.monitoring.baseline import Baseline
from nightshift.monitoring.sketches import Sketches

Kind = Literal["outage", "constant", "missing", "new_category", "volume", "late"]

# Beyond the worst day of the reference: this much more of a day's values, and more than noise explains.
_MORE_MISSING = 0.05
_NEW = 0.01
_DEVIATIONS = 3.0
# A day has to differ by so much, and by so many of the reference's deviations, before its size is remarkable.
_VOLUME = math.log(1.2)
_VOLUME_DEVIATIONS = 4.0
# Of fewer rows, all of one value says nothing.
_ROWS = 30
_CHANCE = 1e-3
# A number that fills fewer cells on a day may have close values in one of them.
_CELLS = 8


class Finding(BaseModel):
    """One thing that is wrong.

    Attributes:
        kind: outage (no value at all), constant (one value only), missing (more than ever), new_category
            (values that the reference does not hold), volume (far more or fewer rows), late (days that are
            not there while later ones are).
        column: The column; empty where it is about rows or days.
        message: In a sentence, with figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    column: str = ""
    message: str


def of_columns(baseline: Baseline, sketch: Sketches) -> list[Finding]:
    """Return what is wrong with the columns of one day, whose sketch this is."""
    rows = int(sketch.rows[0])
    found = []
    for place, name in enumerate(baseline.grid.columns if rows else ()):
        finding = _of_column(baseline, place, name, sketch, rows)
        if finding is not None:
            found.append(finding)
    return found


def of_rows(baseline: Baseline, day: date, rows: int, absent: Sequence[date]) -> list[Finding]:
    """Return what is wrong with the size of a day, and with the days before it.

    Args:
        baseline: Of the model.
        day: The day.
        rows: How many rows it has.
        absent: Days before it that should be there, and are not.
    """
    found = []
    volume = _volume(baseline, day, rows)
    if volume is not None:
        found.append(volume)
    if absent:
        named = ", ".join(map(str, absent))
        found.append(Finding(kind="late", message=f"earlier days are not there yet: {named}"))
    return found


def _of_column(baseline: Baseline, place: int, name: str, sketch: Sketches, rows: int) -> Finding | None:
    own = baseline.grid.cells[name]
    counts = sketch.counts[0, own]
    missing = int(counts[-1])
    usual = float(baseline.most_missing[place])
    if missing == rows:
        # Few rows of a column that is often missing may well have none.
        if usual**rows > _CHANCE:
            return None
        return Finding(kind="outage", column=name, message=f"{name} has no value in any of {rows} rows")
    if missing / rows > usual + max(_MORE_MISSING, _noise(usual, rows)):
        return Finding(
            kind="missing",
            column=name,
            message=f"{name} is missing in {missing / rows:.0%} of {rows} rows, "
            f"on days of training in {usual:.0%} at most",
        )
    if name in baseline.grid.categorical:
        new, new_usually = int(counts[-2]), float(baseline.most_new[place])
        if new / rows > new_usually + max(_NEW, _noise(new_usually, rows)):
            return Finding(
                kind="new_category",
                column=name,
                message=f"{name} has values in {new} of {rows} rows that training never saw",
            )
        filled = np.flatnonzero(counts[:-2]) if new == 0 else np.arange(2)
    else:
        # The cells at both ends hold whatever lies far away: different values, for all that is known.
        ends = counts[0] + counts[-2]
        filled = np.flatnonzero(counts[:-1]) if ends == 0 else np.arange(2)
    varies = baseline.least_distinct[place] >= (2 if name in baseline.grid.categorical else _CELLS)
    if filled.size == 1 and varies and rows - missing >= _ROWS:
        return Finding(
            kind="constant", column=name, message=f"{name} has one value in all {rows - missing} rows"
        )
    return None


def _noise(share: float, rows: int) -> float:
    return _DEVIATIONS * math.sqrt(share * (1 - share) / rows)


def _volume(baseline: Baseline, day: date, rows: int) -> Finding | None:
    usual = float(baseline.rows[day.weekday()])
    apart = math.log(max(1, rows) / usual)
    spread = baseline.row_spread[0 if apart < 0 else 1]
    if abs(apart) <= max(_VOLUME, _VOLUME_DEVIATIONS * spread):
        return None
    return Finding(kind="volume", message=f"{rows} rows where {usual:.0f} are usual on such a day")
