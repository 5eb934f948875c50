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


def find(baseline: Baseline, day: date, sketch: Sketches, absent: Sequence[date]) -> list[Finding]:
    """Return the findings of one day.

    Args:
        baseline: Of the model.
        day: The day.
        sketch: Of that day alone.
        absent: Days of the longest window that are not there.
    """
    found = []
    rows = int(sketch.rows[0])
    if rows:
        for place, name in enumerate(baseline.grid.columns):
            finding = _of_column(baseline, place, name, sketch, rows)
            if finding is not None:
                found.append(finding)
    volume = _volume(baseline, day, rows)
    if volume is not None:
        found.append(volume)
    if absent:
        named = ", ".join(str(one) for one in absent[:5]) + (" and others" if len(absent) > 5 else "")
        found.append(Finding(kind="late", message=f"{len(absent)} earlier days are not there yet: {named}"))
    return found


def _of_column(baseline: Baseline, place: int, name: str, sketch: Sketches, rows: int) -> Finding | None:
    own = baseline.grid.cells[name]
    counts = sketch.counts[0, own]
    missing = int(counts[-1])
    usual = float(baseline.most_missing[place])
    if missing == rows:
        if usual == 1:
            return None
        return Finding(kind="outage", column=name, message=f"{name} has no value in any of {rows} rows")
    noise = _DEVIATIONS * math.sqrt(usual * (1 - usual) / rows)
    if missing / rows > usual + max(_MORE_MISSING, noise):
        return Finding(
            kind="missing",
            column=name,
            message=f"{name} is missing in {missing / rows:.0%} of {rows} rows, "
            f"at most {usual:.0%} on any day of training",
        )
    filled = int(np.count_nonzero(counts[:-1]))
    if filled == 1 and baseline.least_distinct[place] > 1 and rows - missing >= _ROWS:
        return Finding(
            kind="constant", column=name, message=f"{name} has one value in all {rows - missing} rows"
        )
    if name in baseline.grid.categorical:
        new = int(counts[-2])
        if new / rows > _NEW:
            return Finding(
                kind="new_category",
                column=name,
                message=f"{name} has values in {new} of {rows} rows that training never saw",
            )
    return None


def _volume(baseline: Baseline, day: date, rows: int) -> Finding | None:
    usual = float(baseline.rows[day.weekday()])
    apart = math.log(max(1, rows) / usual)
    spread = baseline.row_spread[0 if apart < 0 else 1]
    if abs(apart) <= max(_VOLUME, _VOLUME_DEVIATIONS * spread):
        return None
    return Finding(kind="volume", message=f"{rows} rows where {usual:.0f} are usual on such a day")
