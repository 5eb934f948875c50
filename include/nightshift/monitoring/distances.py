"""How far windows of days lie from a reference, by what Evidently measures, from counts in cells.

Every function takes counts of windows and of what each is compared with, both of shape (windows, cells)
without missing values, and returns distances of shape (windows,). Without rows on either side it is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]

# Evidently's floor of a share, without which the index of an empty bin would be infinite.
_PSI_FLOOR = 1e-4
# Categories rarer than this count as if they were not: one row more would outweigh all others.
_CHI_FLOOR = 0.005
_BINS = 10


def wasserstein(window: Counts, reference: Counts, points: Floats) -> Floats:
    """Return the area between two cumulative distributions, in the unit of ``points``.

    Args:
        window: Counts in the cells that end at ``points``, and above them.
        reference: As ``window``.
        points: Ends of the cells, of shape (cells - 1,).
    """
    gaps = _gaps(window, reference)[:, :-1]
    return np.asarray((gaps * np.diff(points)).sum(axis=1))


def kolmogorov_smirnov(window: Counts, reference: Counts) -> Floats:
    """Return the largest gap between two cumulative distributions, 0 to 1."""
    return np.asarray(_gaps(window, reference).max(axis=1, initial=0.0))


def jensen_shannon(window: Counts, reference: Counts) -> Floats:
    """Return the Jensen-Shannon distance with natural logarithms, as ``scipy.spatial.distance`` does."""
    p, q = _shares(window), _shares(reference)
    middle = (p + q) / 2

    def divergence(shares: Floats) -> Floats:
        ratio = np.divide(shares, middle, out=np.ones_like(middle), where=(shares > 0) & (middle > 0))
        return np.asarray((shares * np.log(ratio)).sum(axis=1))

    distance = np.sqrt(np.maximum(0.0, (divergence(p) + divergence(q)) / 2))
    return np.where(_empty(window, reference), 0.0, distance)


def chi_squared(window: Counts, reference: Counts) -> Floats:
    """Return the root of Pearson's chi-squared statistic over the rows: Cohen's (1988) effect size w.

    Categories with less than 0.5% of the reference count as if they had so much.
    """
    p, q = _shares(window), _shares(reference)
    found = np.sqrt(((p - q) ** 2 / np.maximum(q, _CHI_FLOOR)).sum(axis=1))
    return np.where(_empty(window, reference), 0.0, found)


def population_stability(window: Counts, reference: Counts) -> Floats:
    """Return the population stability index over about ten cells of equal mass of the reference.

    Siddiqi 2006, "Credit Risk Scorecards"; empty cells count as a share of 0.0001, as Evidently has it.
    """
    whole = reference.sum(axis=0)
    below = np.cumsum(whole) / max(1.0, float(whole.sum()))
    bin_of = np.minimum((below * _BINS - 1e-9).astype(np.intp), _BINS - 1)
    edges = np.flatnonzero(np.diff(bin_of, prepend=-1))
    p = np.maximum(np.add.reduceat(_shares(window), edges, axis=1), _PSI_FLOOR)
    q = np.maximum(np.add.reduceat(_shares(reference), edges, axis=1), _PSI_FLOOR)
    found = ((p - q) * np.log(p / q)).sum(axis=1)
    return np.where(_empty(window, reference), 0.0, found)


def correlations(rows: Floats, sums: Floats, products: Floats, pairs: npt.NDArray[np.intp]) -> Floats:
    """Return the correlation of pairs of columns in each window, of shape (windows, pairs).

    Args:
        rows: Rows of each window, of shape (windows,).
        sums: Sums of each column, of shape (windows, columns).
        products: Sums of the pairs' products, of shape (windows, pairs), and of each column's squares, of
            shape (windows, columns), one after the other.
        pairs: Positions of the columns of each pair, of shape (pairs, 2).
    """
    both, squares = products[:, : len(pairs)], products[:, len(pairs) :]
    n = np.maximum(rows, 1)[:, None]
    spread = np.sqrt(np.maximum(n * squares - sums**2, 0.0))
    first, second = pairs[:, 0], pairs[:, 1]
    over = n * both - sums[:, first] * sums[:, second]
    under = spread[:, first] * spread[:, second]
    return np.asarray(np.divide(over, under, out=np.zeros_like(over), where=under > 0))


def fisher(correlation: Floats) -> Floats:
    """Return Fisher's z, on which the noise of a correlation does not depend on the correlation."""
    return np.asarray(np.arctanh(np.clip(correlation, -0.999, 0.999)))


def _shares(counts: Counts) -> Floats:
    return np.asarray(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))


def _gaps(window: Counts, reference: Counts) -> Floats:
    gaps = np.abs(np.cumsum(_shares(window), axis=1) - np.cumsum(_shares(reference), axis=1))[:, :-1]
    return np.where(_empty(window, reference)[:, None], 0.0, gaps)


def _empty(window: Counts, reference: Counts) -> npt.NDArray[np.bool_]:
    return np.asarray((window.sum(axis=1) == 0) | (reference.sum(axis=1) == 0))
