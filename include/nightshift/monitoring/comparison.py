"""Is a window of days like the days a model learned from? Which columns are not, and how far they moved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from nightshift.monitoring import calibration
from nightshift.monitoring.baseline import Baseline
from nightshift.monitoring.calibration import Calibration, Floats
from nightshift.monitoring.sketches import Sketches

# A column of which half of the values that it has usually are missing, or new, is a finding and no drift.
_KNOWN = 0.5
# Figures are kept to so many digits: enough to read, and the same on every machine.
_DIGITS = 6


class Signal(BaseModel):
    """One column, or pair of columns, further from the reference than ordinary windows are.

    Attributes:
        column: The column, or the first of a pair.
        other: The second of a pair; empty for a column.
        statistic: The distance that stands out most.
        value: That distance.
        limit: What an ordinary window stays below.
        effect: How far it moved: numbers in standard deviations of the reference (Wasserstein), categories as
            Jensen-Shannon distance, pairs as the change of their correlation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    other: str = ""
    statistic: calibration.Name
    value: float
    limit: float
    effect: float

    @property
    def title(self) -> str:
        """Column, or both of a pair, in words."""
        return f"{self.column} with {self.other}" if self.other else self.column


class Window(BaseModel):
    """What was found for one window.

    Attributes:
        length: Days that it should have.
        days: Days that it has.
        rows: Its rows.
        compared_with: Days of the reference it is compared with.
        signals: The columns and pairs that moved, the furthest beyond their limit first.
        distances: Of each column that was compared: Wasserstein distance in standard deviations, or
            Jensen-Shannon distance.
        limits: Of each such distance, what an ordinary window stays below.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int
    days: int
    rows: int
    compared_with: str
    signals: tuple[Signal, ...]
    distances: dict[str, float]
    limits: dict[str, float]


def judge(
    baseline: Baseline,
    days: Sketches,
    length: int,
    stratum: str,
    *,
    min_effect: float,
    skip: frozenset[str] = frozenset(),
    scored: Sketches | None = None,
    score: str = "score",
) -> Window:
    """Compare a window with what is ordinary.

    Args:
        baseline: Of the model.
        days: A sketch a day; all of them are the window.
        length: Length of the window by the policy, one that ``stratum`` is calibrated for.
        stratum: Days of the reference to compare with.
        min_effect: Smaller effects never signal, however sure they are.
        skip: Columns that are not compared, for a finding tells of them.
        scored: Those of ``days`` whose scores are the model's own; all by default.
        score: Name of the column of scores.
    """
    reference = baseline.strata[stratum].reference
    ordinary = baseline.strata[stratum].calibrations[length]
    window = _with_scores(baseline, days.total(), (scored or days).total(), score)
    taken = baseline.statistics
    compared = {
        name
        for name in baseline.grid.columns
        if name not in skip and _is_known(baseline, window, reference, name)
    }
    widen = _widening(ordinary, int(window.rows[0]))
    values = calibration.measure(baseline.grid, taken, window, reference)
    signals, limits = _columns(baseline, ordinary, values, compared, widen, min_effect)
    moved, changed = calibration.measure_pairs(baseline.pairs, window, reference)
    # How scores of another model go with the features says nothing about this one.
    paired = compared if scored is None else compared - {score}
    signals += _pairs(baseline, ordinary, moved, changed, paired, widen, min_effect)
    found: dict[str, float] = {}
    for place, statistic in enumerate(taken):
        if statistic.column in compared:
            found.setdefault(statistic.column, _rounded(values[0, place]))
    return Window(
        length=length,
        days=len(days.rows),
        rows=int(window.rows[0]),
        compared_with=stratum,
        signals=tuple(sorted(signals, key=lambda one: (-one.value / one.limit, one.title))),
        distances=found,
        limits={name: limits[name] for name in found},
    )


def _columns(
    baseline: Baseline,
    ordinary: Calibration,
    values: Floats,
    compared: set[str],
    widen: float,
    min_effect: float,
) -> tuple[list[Signal], dict[str, float]]:
    taken = baseline.statistics
    chosen = [place for place, statistic in enumerate(taken) if statistic.column in compared]
    if not chosen:
        return [], {}
    names = list(dict.fromkeys(taken[place].column for place in chosen))
    group = np.array([names.index(taken[place].column) for place in chosen], dtype=np.intp)
    single = ordinary.columns.probabilities(values, widen)[:, chosen]
    probability = calibration.of_groups(single, group)[0]
    passing = calibration.discoveries(probability, ordinary.column_level)
    # The limit of a column is where it would signal alone, beside columns that are all quiet.
    per_statistic = ordinary.column_level / len(names) / np.bincount(group)[group]
    whole = np.full(len(taken), 0.5)
    whole[chosen] = per_statistic
    limits = ordinary.columns.limits(whole, widen)
    signals = []
    headline: dict[str, float] = {}
    for index, name in enumerate(names):
        own = [place for place in chosen if taken[place].column == name]
        headline[name] = _rounded(limits[own[0]])
        effect = _rounded(values[0, own[0]])
        if not passing[index] or effect < min_effect:
            continue
        leading = min(own, key=lambda place: single[0, chosen.index(place)])
        signals.append(
            Signal(
                column=name,
                statistic=taken[leading].name,
                value=_rounded(calibration.in_its_unit(taken[leading].name, values[0, leading])),
                limit=_rounded(calibration.in_its_unit(taken[leading].name, limits[leading])),
                effect=effect,
            )
        )
    return signals, headline


def _pairs(
    baseline: Baseline,
    ordinary: Calibration,
    moved: Floats,
    changed: Floats,
    compared: set[str],
    widen: float,
    min_effect: float,
) -> list[Signal]:
    names = baseline.grid.numeric
    chosen = [
        place
        for place, (first, second) in enumerate(baseline.pairs)
        if names[first] in compared and names[second] in compared
    ]
    if not chosen:
        return []
    probability = ordinary.pairs.probabilities(moved, widen)[0, chosen]
    passing = calibration.discoveries(probability, ordinary.pair_level)
    limits = ordinary.pairs.limits(np.full(len(baseline.pairs), ordinary.pair_level / len(chosen)), widen)
    return [
        Signal(
            column=names[baseline.pairs[place, 0]],
            other=names[baseline.pairs[place, 1]],
            statistic="correlation",
            value=_rounded(moved[0, place]),
            limit=_rounded(limits[place]),
            effect=_rounded(abs(changed[0, place])),
        )
        for index, place in enumerate(chosen)
        if passing[index] and abs(changed[0, place]) >= min_effect
    ]


def _with_scores(baseline: Baseline, whole: Sketches, scored: Sketches, score: str) -> Sketches:
    """Return ``whole`` with the counts of scores of ``scored``: those of other models are no drift."""
    if score not in baseline.grid.columns or scored is whole:
        return whole
    counts = whole.counts.copy()
    own = baseline.grid.cells[score]
    counts[:, own] = scored.counts[:, own]
    return Sketches(whole.rows, counts, whole.sums, whole.products)


def _is_known(baseline: Baseline, window: Sketches, reference: Sketches, name: str) -> bool:
    own = baseline.grid.cells[name]
    cells = slice(own.start, own.stop - (1 if name in baseline.grid.numeric else 2))
    now, usually = (
        float(counts[0, cells].sum()) / max(1, int(counts[0, own].sum()))
        for counts in (window.counts, reference.counts)
    )
    return now > 0 and now >= _KNOWN * usually


def _widening(ordinary: Calibration, rows: int) -> float:
    """Return by how much noise is larger than in ordinary windows, for having fewer rows than they have."""
    return max(1.0, math.sqrt(ordinary.rows / max(1, rows)))


def _rounded(value: Any) -> float:
    return round(float(value), _DIGITS)
