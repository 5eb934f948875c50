"""Small pictures as SVG, in the page's colours: a line of days, and how a distribution moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

_BINS = 24
_CATEGORIES = 8
# Beyond these shares of the values there are single outliers, which would squeeze all others into one bar.
_EDGES = (0.005, 0.995)


@dataclass(frozen=True)
class Point:
    """One day of a line: a value with its interval, each None where there is none; ``marked`` gets a ring."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    marked: bool = False


def line(points: Sequence[Point], label: str, decimals: int = 3, width: int = 250) -> str:
    """Draw values over days, the interval of each as a bar; days without a value leave a gap."""
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    if not ends:
        return ""
    low, high = min(ends), max(ends)
    # A line that does not move lies in the middle.
    span, middle = (high - low) or 1.0, high == low
    left, top, height = 8, 18, 56
    step = (width - 2 * left) / max(len(points) - 1, 1)

    def x(place: int) -> float:
        return left + step * place if len(points) > 1 else width / 2

    def y(value: float) -> float:
        return top + height * (0.5 if middle else (high - value) / span)

    drawn = [f"<path d='M{left} {top + height + 6}H{width - left}' fill='none' stroke='var(--line)'/>"]
    for place, point in enumerate(points):
        if point.low is not None and point.high is not None:
            drawn.append(
                f"<path d='M{x(place):.1f} {y(point.high):.1f}V{y(point.low):.1f}' "
                "stroke='var(--s0)' stroke-width='5' stroke-opacity='.25'/>"
            )
    for run in _runs(points):
        path = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in run)
        drawn.append(f"<polyline points='{path}' fill='none' stroke='var(--s0)' stroke-width='1.8'/>")
    for place, point in enumerate(points):
        if point.value is None:
            continue
        said = f"<title>{escape(point.name)}: {point.value:.{decimals}f}</title>"
        drawn.append(
            f"<circle cx='{x(place):.1f}' cy='{y(point.value):.1f}' r='2.6' fill='var(--s0)'>{said}</circle>"
        )
        if point.marked:
            drawn.append(
                f"<circle cx='{x(place):.1f}' cy='{y(point.value):.1f}' r='6' fill='none' "
                "stroke='var(--s1)' stroke-width='1.6'/>"
            )
    drawn.append(f"<text x='{left}' y='11'>{escape(label)}</text>")
    drawn.append(
        f"<text x='{width - left}' y='11' text-anchor='end'>{low:.{decimals}f} to {high:.{decimals}f}</text>"
    )
    drawn.append(f"<text x='{left}' y='{top + height + 20}'>{escape(points[0].name)}</text>")
    if len(points) > 1:
        drawn.append(
            f"<text x='{width - left}' y='{top + height + 20}' text-anchor='end'>"
            f"{escape(points[-1].name)}</text>"
        )
    total = top + height + 26
    return (
        f"<svg viewBox='0 0 {width} {total}' width='{width}' role='img' aria-label='{escape(label)}'>"
        f"{''.join(drawn)}</svg>"
    )


def moved_numbers(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64], name: str) -> str:
    """Draw the shares of both samples over the same bins: filled what the model learned from, as a line now.

    Args:
        before: Values of the reference, NaN where missing, of shape (rows,).
        now: Values of the day, as ``before``.
        name: The column.
    """
    there, here = before[np.isfinite(before)], now[np.isfinite(now)]
    both = [values for values in (there, here) if values.size]
    if not both:
        return ""
    low = min(float(np.quantile(values, _EDGES[0])) for values in both)
    high = max(float(np.quantile(values, _EDGES[1])) for values in both)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    shares = [
        np.histogram(np.clip(values, low, high), bins=edges)[0] / max(values.size, 1)
        for values in (there, here)
    ]
    top = max(float(share.max(initial=0.0)) for share in shares) or 1.0
    left, width, height = 6, 250, 78
    step = (width - 2 * left) / _BINS

    def outline(share: npt.NDArray[np.float64]) -> str:
        steps = [
            f"{left + step * (place + side):.1f},{height * (1 - value / top) + 4:.1f}"
            for place, value in enumerate(share.tolist())
            for side in (0, 1)
        ]
        return " ".join(steps)

    floor = height + 4
    drawn = [
        f"<polygon points='{left},{floor} {outline(shares[0])} {width - left},{floor}' fill='var(--soft)' "
        "fill-opacity='.35'/>",
        f"<polyline points='{outline(shares[1])}' fill='none' stroke='var(--s1)' stroke-width='1.8'/>",
        f"<text x='{left}' y='{floor + 14}'>{low:.4g}</text>",
        f"<text x='{width - left}' y='{floor + 14}' text-anchor='end'>{high:.4g}</text>",
    ]
    return (
        f"<svg viewBox='0 0 {width} {floor + 20}' width='{width}' role='img' "
        f"aria-label='how {escape(name, quote=True)} moved'>{''.join(drawn)}</svg>"
    )


def moved_categories(before: Sequence[str], now: Sequence[str], name: str) -> str:
    """Draw the share of each category before and now, those that moved most."""
    counts = [Counter(before), Counter(now)]
    shares = [
        {value: number / max(sum(count.values()), 1) for value, number in count.items()} for count in counts
    ]
    moves = {value: abs(shares[1].get(value, 0.0) - shares[0].get(value, 0.0)) for value in {*before, *now}}
    shown = sorted(moves, key=lambda value: (-moves[value], value))[:_CATEGORIES]
    top = max((share.get(value, 0.0) for share in shares for value in shown), default=0.0) or 1.0
    left, width, row = 84, 250, 18
    drawn = []
    for place, value in enumerate(shown):
        y = 4 + row * place
        old, new = ((width - left - 46) * share.get(value, 0.0) / top for share in shares)
        word = value if len(value) <= 12 else f"{value[:11]}…"
        drawn.append(
            f"<text x='{left - 6}' y='{y + 10}' text-anchor='end'>{escape(word)}</text>"
            f"<rect x='{left}' y='{y}' width='{old:.1f}' height='6' fill='var(--soft)' fill-opacity='.45'/>"
            f"<rect x='{left}' y='{y + 7}' width='{new:.1f}' height='6' fill='var(--s1)'/>"
            f"<text x='{left + max(old, new) + 4:.1f}' y='{y + 10}'>{shares[1].get(value, 0.0):.1%}</text>"
        )
    return (
        f"<svg viewBox='0 0 {width} {row * len(shown) + 8}' width='{width}' role='img' "
        f"aria-label='how {escape(name, quote=True)} moved'>{''.join(drawn)}</svg>"
    )


def _runs(points: Sequence[Point]) -> list[list[tuple[int, float]]]:
    """Return the stretches of consecutive days that have a value, as (place, value)."""
    runs: list[list[tuple[int, float]]] = [[]]
    for place, point in enumerate(points):
        if point.value is None:
            runs.append([])
        else:
            runs[-1].append((place, point.value))
    return [run for run in runs if len(run) > 1]
