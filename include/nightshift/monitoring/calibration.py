"""How far ordinary windows lie from the reference, by its own days: what an alarm is held against.

Much of what a model reads is the same for all rows of a day (the weather, yesterday's mean), so a day is no
sample of independent rows, and a p-value that takes it for one fires every night. Here windows are drawn from
the reference itself, in blocks of consecutive days that keep their weekday (the generalized seasonal block
bootstrap: Dudek, Leskow, Paparoditis and Politis 2014), and each is compared with the days it has nothing to
do with. A distance is extreme when it lies beyond what these windows predict for one more of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from nightshift.monitoring import distances
from nightshift.monitoring.sketches import Grid, Sketches

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

Name = Literal["wasserstein", "kolmogorov_smirnov", "jensen_shannon", "chi_squared", "psi", "correlation"]

# Windows drawn where there are more than can be counted.
_DRAWS = 400
# A block holds a week where the reference has many; else fewer days, to have blocks enough.
_WEEK, _SHORT_BLOCK, _MANY_DAYS = 7, 3, 70
# Days beside a drawn one that it is not compared with either: features look back, and weather lasts.
_NEAR = 3
# From so many days on, they have neighbours to spare, and weeks that the level can be tried on.
_NEIGHBOURS_FROM, _HELD_OUT_FROM = 28, 42
_FOLDS = 6
_LEAST_OUTSIDE = 10
# Of what is held out, the share whose excesses show how the tail falls.
_TAIL = 0.15
_SEED = 20130101
# Below this a distance is rounding.
_SMALLEST = 1e-6
# Distances of windows that differ by less than this share of their median say that there are too few of them.
_LEAST_SPREAD = 0.05
_LEAST_EFFECTIVE = 4.0
_SHARED = 3


@dataclass(frozen=True)
class Statistic:
    """One distance of one column, or of a pair of columns."""

    column: str
    name: Name
    other: str = ""


@dataclass(frozen=True)
class Fit:
    """How each distance spreads over ordinary windows, each array of shape (statistics,).

    Attributes:
        median: Its median.
        spread: Its root mean square above the median: only large distances alarm.
        effective: How many independent windows this rests on.
    """

    median: Floats
    spread: Floats
    effective: Floats

    def probabilities(self, distance: Floats, widen: float = 1.0) -> Floats:
        """Return how likely an ordinary window lies as far as ``distance``, of the same shape.

        By Student's t, as the prediction of one more value from few (Geisser 1993, "Predictive Inference").

        Args:
            distance: Of shape (windows, statistics).
            widen: By how much noise is larger than in the windows of the reference.
        """
        return np.asarray(stdtr(self.effective, -(distance / widen - self.median) / self._scale))

    def limits(self, probability: Floats, widen: float = 1.0) -> Floats:
        """Return the distance that ordinary windows exceed with ``probability``, of shape (statistics,)."""
        beyond = stdtrit(self.effective, 1 - np.clip(probability, 1e-12, 0.5))
        return np.asarray(widen * (self.median + beyond * self._scale))

    @property
    def _scale(self) -> Floats:
        return np.asarray(self.spread * np.sqrt(1 + 1 / self.effective))


@dataclass(frozen=True)
class Calibration:
    """What is ordinary for windows of one length.

    Attributes:
        days: Length of a window.
        rows: Rows of an ordinary one, the median.
        columns: Of the distances of single columns.
        pairs: Of the correlations of pairs.
        column_level: False discovery rate to ask of columns, so that quiet windows keep the alarm rate.
        pair_level: The same of pairs.
    """

    days: int
    rows: float
    columns: Fit
    pairs: Fit
    column_level: float
    pair_level: float


def statistics(grid: Grid, score: str) -> list[Statistic]:
    """Return the distances that are taken, column by column."""
    found = []
    for name in grid.numeric:
        names: tuple[Name, ...] = ("wasserstein", "kolmogorov_smirnov")
        found += [Statistic(name, one) for one in (*names, *(("psi",) if name == score else ()))]
    for name in grid.categorical:
        found += [Statistic(name, "jensen_shannon"), Statistic(name, "chi_squared")]
    return found


def measure(grid: Grid, taken: list[Statistic], window: Sketches, reference: Sketches) -> Floats:
    """Return the distances of windows from what each is compared with, of shape (windows, statistics).

    Wasserstein distances are in standard deviations of the reference. Of the stability index it is the square
    root: like the others that grows with a shift, where the index grows with its square, and the tail that
    ``Fit`` expects would be far too light for it. Values that are missing, and categories
    that the reference does not hold, are left out: findings tell of them.

    Args:
        grid: The grid of both.
        taken: As ``statistics`` returns it.
        window: A sketch a window.
        reference: A sketch a window, or one for all.
    """
    found = np.zeros((len(window.rows), len(taken)))
    for place, statistic in enumerate(taken):
        own = grid.cells[statistic.column]
        numeric = statistic.column in grid.numeric
        cells = slice(own.start, own.stop - (1 if numeric else 2))
        p, q = window.counts[:, cells], reference.counts[:, cells]
        if statistic.name == "wasserstein":
            column = grid.numeric.index(statistic.column)
            found[:, place] = distances.wasserstein(p, q, grid.points[column]) / grid.deviations[column]
        elif statistic.name == "kolmogorov_smirnov":
            found[:, place] = distances.kolmogorov_smirnov(p, q)
        elif statistic.name == "jensen_shannon":
            found[:, place] = distances.jensen_shannon(p, q)
        elif statistic.name == "chi_squared":
            found[:, place] = distances.chi_squared(p, q)
        else:
            found[:, place] = np.sqrt(distances.population_stability(p, q))
    return found


def in_its_unit(name: Name, value: float) -> float:
    """Return a distance of ``measure``, or a limit of one, as the statistic of that name is written."""
    return value**2 if name == "psi" else value


def measure_pairs(pairs: Positions, window: Sketches, reference: Sketches) -> tuple[Floats, Floats]:
    """Return how far correlations moved, on Fisher's scale, and by how much, each of shape (windows, pairs).

    Args:
        pairs: Positions of the numeric columns of each pair, of shape (pairs, 2).
        window: A sketch a window.
        reference: A sketch a window, or one for all.
    """
    now, before = (_correlations(pairs, sketches) for sketches in (window, reference))
    return np.abs(distances.fisher(now) - distances.fisher(before)), now - before


def strongest_pairs(reference: Sketches, most: int) -> Positions:
    """Return the pairs of numeric columns that hang together most closely, of shape (pairs, 2)."""
    columns = reference.sums.shape[1]
    pairs = np.array([(i, j) for i in range(columns) for j in range(i + 1, columns)], dtype=np.intp)
    if not pairs.size:
        return np.zeros((0, 2), dtype=np.intp)
    strength = np.abs(_correlations(pairs, reference.total())[0])
    return pairs[np.sort(np.argsort(-strength, kind="stable")[:most])]


def calibrate(
    grid: Grid,
    taken: list[Statistic],
    pairs: Positions,
    history: Sketches,
    ordinals: Positions,
    length: int,
    rate: float,
) -> Calibration:
    """Learn what is ordinary for windows of ``length`` days.

    Args:
        grid: The grid of ``history``.
        taken: As ``statistics`` returns it.
        pairs: As ``strongest_pairs`` returns it.
        history: A sketch a day, in order.
        ordinals: The number of each day; those of days that follow each other differ by one.
        length: Days of a window; ``history`` holds at least twice as many.
        rate: Share of quiet windows that may alarm.
    """
    days = len(history.rows)
    drawn = draw_windows(ordinals, length)
    daily = None if length == 1 else _distances_of(grid, taken, pairs, history, draw_windows(ordinals, 1))
    found = _distances_of(grid, taken, pairs, history, drawn)
    touched = np.zeros((len(drawn), days), dtype=bool)
    touched[np.arange(len(drawn))[:, None], drawn] = True
    fits, levels = [], []
    groups = _groups(taken), np.arange(len(pairs))
    for values, of_days, group in zip(found, daily or found, groups, strict=True):
        effective = _effective(of_days, days)
        if length > 1:
            # Windows of a block or more overlap, or share blocks: there are fewer that are independent.
            effective = np.maximum(_LEAST_EFFECTIVE, effective / _SHARED)
        fits.append(_fit(values, effective))
        levels.append(_level(values, touched, group, effective, rate / 2))
    rows = float(np.median(history.rows[drawn].sum(axis=1)))
    return Calibration(length, rows, fits[0], _at_least_noise(fits[1], rows), levels[0], levels[1])


def _distances_of(
    grid: Grid, taken: list[Statistic], pairs: Positions, history: Sketches, drawn: Positions
) -> tuple[Floats, Floats]:
    """Return how far drawn windows lie from the days that have nothing to do with them, and their pairs."""
    days = len(history.rows)
    weights = np.zeros((len(drawn), days))
    np.add.at(weights, (np.arange(len(drawn))[:, None], drawn), 1)
    near = _neighbourhood(weights > 0, _NEAR if days >= _NEIGHBOURS_FROM else 0)
    compared = (~near).astype(np.float64)
    # A window that touches nearly all days leaves nothing to compare with but its own.
    compared[compared.sum(axis=1) < days / 4] = 1.0
    window, others = combine(history, weights), combine(history, compared)
    return measure(grid, taken, window, others), measure_pairs(pairs, window, others)[0]


def draw_windows(ordinals: Positions, length: int) -> Positions:
    """Return windows of the reference as positions of days, of shape (windows, length).

    Windows no longer than a block are all there are; longer ones are blocks put together, each beginning on
    the weekday that the window has reached. Days of a block follow each other, where there are such.
    """
    days = len(ordinals)
    block = min(length, _WEEK if days >= _MANY_DAYS else _SHORT_BLOCK)
    starts = np.arange(days - block + 1)
    unbroken = starts[ordinals[starts + block - 1] - ordinals[starts] == block - 1]
    starts = unbroken if unbroken.size >= _WEEK else starts
    if length == block:
        return starts[:, None] + np.arange(length)
    random = np.random.default_rng(_SEED + length)
    of_weekday = [starts[ordinals[starts] % 7 == weekday] for weekday in range(7)]
    drawn = np.zeros((_DRAWS, length), dtype=np.intp)
    for window in drawn:
        first = int(random.integers(7))
        for begin in range(0, length, block):
            same = of_weekday[(first + begin) % 7]
            start = random.choice(same if same.size else starts)  # nosec B311  # numpy, seeded
            size = min(block, length - begin)
            window[begin : begin + size] = start + np.arange(size)
    return drawn


def combine(history: Sketches, weights: Floats) -> Sketches:
    """Return sums of days' sketches, one for each row of ``weights``, of shape (windows, days)."""
    columns = history.sums.shape[1]
    products = weights @ history.products.reshape(len(history.rows), -1)
    return Sketches(
        np.rint(weights @ history.rows).astype(np.int64),
        np.rint(weights @ history.counts.astype(np.float64)).astype(np.int64),
        weights @ history.sums,
        products.reshape(-1, columns, columns),
    )


def discoveries(probability: Floats, level: float) -> npt.NDArray[np.bool_]:
    """Return which of ``probability``, of shape (n,), the false discovery rate ``level`` lets pass.

    Benjamini and Hochberg 1995, "Controlling the False Discovery Rate".
    """
    order = np.argsort(probability, kind="stable")
    ranks = np.arange(1, probability.size + 1)
    passing = np.flatnonzero(probability[order] <= level * ranks / max(1, probability.size))
    found = np.zeros(probability.size, dtype=bool)
    if passing.size:
        found[order[: passing[-1] + 1]] = True
    return found


def of_groups(probability: Floats, group: Positions) -> Floats:
    """Return the probability of each group, by Bonferroni over its own statistics.

    Args:
        probability: Of shape (windows, statistics).
        group: The group of each statistic, from 0 on, in ascending order.
    """
    if not group.size:
        return probability
    edges = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(edges, group.size))
    return np.asarray(np.minimum(1.0, np.minimum.reduceat(probability, edges, axis=1) * sizes))


def _groups(taken: list[Statistic]) -> Positions:
    names = list(dict.fromkeys(statistic.column for statistic in taken))
    return np.array([names.index(statistic.column) for statistic in taken], dtype=np.intp)


def _correlations(pairs: Positions, sketches: Sketches) -> Floats:
    both = sketches.products[:, pairs[:, 0], pairs[:, 1]]
    squares = np.diagonal(sketches.products, axis1=1, axis2=2)
    return distances.correlations(
        sketches.rows.astype(np.float64), sketches.sums, np.concatenate([both, squares], axis=1), pairs
    )


def _neighbourhood(touched: npt.NDArray[np.bool_], near: int) -> npt.NDArray[np.bool_]:
    spread = touched.copy()
    for step in range(1, near + 1):
        spread[:, step:] |= touched[:, :-step]
        spread[:, :-step] |= touched[:, step:]
    return spread


def _fit(values: Floats, effective: Floats | float) -> Fit:
    if not values.size:
        nothing = np.zeros(values.shape[1])
        return Fit(nothing, nothing + 1, nothing + _LEAST_EFFECTIVE)
    median = np.median(values, axis=0)
    above = np.maximum(values - median, 0.0)
    counted = np.maximum(1, (values >= median).sum(axis=0))
    spread = np.sqrt((above**2).sum(axis=0) / counted)
    worth = np.broadcast_to(effective, median.shape).astype(np.float64)
    # Where tails are heavy, a storm that came once must not be a wonder when it comes again: the largest of
    # the reference's own windows is as likely as one of so many.
    expected = stdtrit(worth, 1 - 1 / (2 * len(values))) * np.sqrt(1 + 1 / worth)
    spread = np.maximum(spread, above.max(axis=0) / expected)
    return Fit(median, np.maximum(spread, np.maximum(_LEAST_SPREAD * median, _SMALLEST)), worth)


def _at_least_noise(fit: Fit, rows: float) -> Fit:
    """Return the fit of pairs, no narrower than chance alone: few days may agree more than rows can.

    On Fisher's scale a correlation of n independent rows has the standard deviation 1 / sqrt(n); the two
    constants are the median of a standard normal's absolute value, and its spread above that.
    """
    noise = 1 / np.sqrt(max(1.0, rows))
    return Fit(np.maximum(fit.median, 0.674 * noise), np.maximum(fit.spread, 0.773 * noise), fit.effective)


def _effective(values: Floats | None, days: int) -> Floats | float:
    """Return how many independent windows the upper half of those drawn is worth.

    By the correlation of each day with the next; ``values`` are the distances of single days.
    """
    least = days / _WEEK
    if values is None or days < _WEEK:
        return max(_LEAST_EFFECTIVE, least / 2)
    apart = values - values.mean(axis=0)
    variance = (apart**2).sum(axis=0)
    following = (apart[1:] * apart[:-1]).sum(axis=0)
    correlation = np.divide(following, variance, out=np.zeros_like(variance), where=variance > 0)
    # A distance forgets the sign of what moves it: where days hang together, their values do more closely.
    together = np.where(correlation > 2 / np.sqrt(days), np.sqrt(np.abs(correlation)), correlation)
    worth = days * (1 - together) / (1 + np.maximum(together, -0.5))
    return np.asarray(np.maximum(_LEAST_EFFECTIVE, np.clip(worth, least, days) / 2))


def _level(
    values: Floats,
    touched: npt.NDArray[np.bool_],
    group: Positions,
    effective: Floats | float,
    rate: float,
) -> float:
    """Return the false discovery rate that ``rate`` of quiet windows reach, by weeks that had no part in it.

    Distances of columns depend on each other and have tails of their own: what is promised is tried on
    windows from weeks that the fit has not seen. It is never more than ``rate``.
    """
    days = touched.shape[1]
    if days < _HELD_OUT_FROM or not group.size:
        return rate
    week = np.arange(days) // _WEEK % _FOLDS
    reached = []
    for fold in range(_FOLDS):
        inside = (touched & (week == fold)).any(axis=1)
        if np.count_nonzero(~inside) < _LEAST_OUTSIDE:
            return rate
        fit = _fit(values[~inside], effective)
        own = touched[:, week == fold].sum(axis=1) > touched.sum(axis=1) / 2
        probability = of_groups(fit.probabilities(values[own]), group)
        size = probability.shape[1]
        smallest = np.sort(probability, axis=1) * size / np.arange(1, size + 1)
        reached.append(smallest.min(axis=1))
    # Were all as promised, these would be exponential: minus the logarithm of an even chance.
    surprise = np.sort(-np.log(np.maximum(np.concatenate(reached), 1e-12)))
    if surprise.size < 2 * _WEEK:
        return rate
    beyond = max(_WEEK, int(surprise.size * _TAIL))
    start = surprise[-beyond - 1]
    # The fall of a tail is known from so few excesses, the fewer the more days hang together: the larger end
    # of its standard error is the one that keeps the promise.
    alone = float(np.mean(np.minimum(1.0, 2 * np.asarray(effective) / days)))
    fall = max(1.0, float((surprise[-beyond:] - start).mean())) * (1 + 1 / np.sqrt(beyond * alone))
    wanted = start + fall * np.log(beyond / surprise.size / rate)
    return float(min(rate, np.exp(-wanted)))
