"""How two ways to the same result are compared.

Both sides do the same work in alternating rounds (A B A B ...), after one round that warms both up and is
not counted. Results are compared in every round, and a comparison whose results differ has no times at
all. Figures are medians with their ranges; a ratio is time of ours by time of the other.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest

from tests import lakes

ROUNDS = 5


Measure = Literal["ratio", "overhead", "seconds"]


class DifferentResultsError(AssertionError):
    """The two sides did not come to the same result, so their times mean nothing."""


@dataclass(frozen=True)
class Timed:
    """One execution: seconds of the work, and what is needed to check its result."""

    seconds: float
    result: Any


@dataclass(frozen=True)
class Comparison:
    """Two sides and the target that the first one is to reach.

    Attributes:
        name: Key of the row.
        against: What the other side is, in words.
        measure: ``ratio``; ``overhead``: seconds of ours minus seconds of the other; ``seconds``: of ours.
        at_most: The target for that measure.
        ours: Runs our side of a round, given its number (0 is the warm-up).
        other: Runs the other side.
        check: Raises ``DifferentResultsError`` unless both results are the same, in its sense.
        note: How it is measured, for the page.
        memory: Measures the peak memory of our side and of the other, in MB; None: not measured.
    """

    name: str
    against: str
    measure: Measure
    at_most: float
    ours: Callable[[int], Timed]
    other: Callable[[int], Timed]
    check: Callable[[Any, Any], None]
    note: str
    memory: Callable[[], tuple[float, float]] | None = None


def compare(comparison: Comparison, rounds: int) -> dict[str, Any]:
    """Run ``rounds`` counted rounds and return the row for ``benchmarks.json``.

    Raises:
        DifferentResultsError: The results differ in some round.
    """
    load = os.getloadavg()[0]
    pairs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        ours, other = comparison.ours(number), comparison.other(number)
        comparison.check(ours.result, other.result)
        if number:
            pairs.append((ours.seconds, other.seconds))
    taken: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(), "machine": machine(load)}
    if comparison.memory is not None:
        taken["peak_mb"] = dict(zip(("ours", "other"), comparison.memory(), strict=True))
    return row(comparison, pairs) | taken


def row(comparison: Comparison, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the figures of ``pairs`` (seconds of ours, seconds of the other, one pair a round)."""
    ours, other = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio, overhead = median(ours) / median(other), median(ours) - median(other)
    measured = {"ratio": ratio, "overhead": overhead, "seconds": median(ours)}[comparison.measure]
    targets = {"ratio": "at most {:g} times", "overhead": "at most {:g} s more", "seconds": "at most {:g} s"}
    return {
        "name": comparison.name,
        "against": comparison.against,
        "ratio": round(ratio, 3),
        "target": targets[comparison.measure].format(comparison.at_most),
        "verdict": "met" if measured <= comparison.at_most else "missed",
        "measure": comparison.measure,
        "at_most": comparison.at_most,
        "overhead_s": round(overhead, 3),
        "ratio_range": _range([a / b for a, b in pairs]),
        "overhead_s_range": _range([a - b for a, b in pairs]),
        "ours_s": {"median": round(median(ours), 4), "range": _range(ours)},
        "other_s": {"median": round(median(other), 4), "range": _range(other)},
        "rounds": len(pairs),
        "note": comparison.note,
    }


def machine(load: float) -> dict[str, Any]:
    """Return what a figure depends on; ``load`` is the load average before the comparison began."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": round(load, 1),
    }


def start_of_peak() -> None:
    """Let Linux keep the peak memory of this process anew, from here on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """Return the most memory that this process held since the peak was last kept anew, in MB."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(line) * 1024 / 1e6


@contextmanager
def environment(home: Path, **more: str) -> Iterator[None]:
    """Use the state folder ``home`` and the variables ``more`` in this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        # Bytecode that is never kept makes each fresh process compile its imports anew.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        with lakes.environment(home, **more):
            yield


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 4), round(max(values), 4)]
