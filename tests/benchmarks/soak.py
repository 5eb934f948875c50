"""``python -m tests.benchmarks.soak``: nights in a row in one process, and what grows with their number.

A month is bootstrapped, and the nights after it run one after the other, without training. Memory (what the
process holds of the machine's), open files and work are noted after each night. Work is seconds of CPU by
those of a fixed calculation beside it: two processes that share a core take more of them, so that seconds
alone would tell of what else the machine does. A line through the nights, the first ones left out, tells how
much of each a night adds, and what a year of nights would.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from statistics import linear_regression, median

import psutil
from rich.console import Console

from nightshift import nights
from nightshift.usecase import UseCase

from .one_process import bootstrapped

THROUGH = date(2013, 2, 11)

# Imports, pools of threads and caches fill up in the first nights, windows of predictions in four weeks.
_WARM = 30
_YEAR = 365


@dataclass(frozen=True)
class Measured:
    """What a process holds after a night, and the seconds of CPU of the night and a fixed calculation."""

    memory_mb: float
    files: int
    seconds: float
    yardstick: float


@dataclass(frozen=True)
class Growth:
    """How one figure grows.

    Attributes:
        name: What it is, with its unit.
        typical: Median of the nights that count.
        a_night: Slope of the line through them.
        error: Standard error of the slope.
        at_most: The slope from which on it is a leak.
    """

    name: str
    typical: float
    a_night: float
    error: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Tell whether the figure may well grow no faster than it should: few nights prove little."""
        return self.a_night - 2 * self.error <= self.at_most

    def __str__(self) -> str:
        """Return a line about it."""
        return (
            f"{self.name}: {self.typical:.4g} in the median, {self.a_night:+.3g} ± {2 * self.error:.2g} a "
            f"night; {'holds' if self.holds else 'LEAKS'} (at most {self.at_most:.2g} a night)"
        )


def judge(measured: list[Measured]) -> list[Growth]:
    """Return how memory, open files and work grow, the first nights left out."""
    counted = measured[_WARM:]
    numbers = range(len(counted))

    def growth(name: str, values: list[float], at_most: float) -> Growth:
        slope, start = linear_regression(numbers, values)
        squares = sum((value - start - slope * number) ** 2 for number, value in enumerate(values))
        spread = len(values) ** 3 / 12  # of the numbers about their mean
        error = sqrt(squares / (len(values) - 2) / spread)
        return Growth(name, median(values), slope, error, at_most)

    memory = [one.memory_mb for one in counted]
    work = [one.seconds / one.yardstick for one in counted]
    return [
        # A process that lives for a year of nights stays under 1 GB more.
        growth("memory, MB", memory, 1000 / _YEAR),
        growth("open files", [float(one.files) for one in counted], 10 / _YEAR),
        # A night may take a quarter more work after a year of them.
        growth("work, in yardsticks", work, 0.25 * median(work) / _YEAR),
    ]


def run(uc: UseCase, number: int, console: Console) -> list[Measured]:
    """Run ``number`` nights after the bootstrap, and measure after each."""
    process = psutil.Process(os.getpid())
    measured, yardstick = [], _yardstick()
    for night in (THROUGH + timedelta(days=offset) for offset in range(1, number + 1)):
        began = time.process_time()
        nights.run(uc, night)
        seconds = time.process_time() - began
        gc.collect()
        before, yardstick = yardstick, _yardstick()
        used = process.memory_info().rss / 1e6
        found = Measured(used, process.num_fds(), seconds, (before + yardstick) / 2)
        measured.append(found)
        console.print(
            f"{night}: {found.memory_mb:.0f} MB, {found.files} files, {found.seconds:.1f} s, "
            f"{found.seconds / found.yardstick:.2f} yardsticks",
            markup=False,
        )
    return measured


def _yardstick() -> float:
    """Return the seconds of CPU that a fixed calculation takes now, about as long as a tenth of a night."""
    began = time.process_time()
    rows = [f"{number * 7919 % 100_003:06d}" for number in range(200_000)]
    for _ in range(4):
        counted: dict[str, int] = {}
        for row in sorted(rows, key=lambda row: row[::-1]):
            counted[row[:3]] = counted.get(row[:3], 0) + len(row)
    return time.process_time() - began


def main() -> None:
    """Run the nights that the command line asks for; exit with 1 if something leaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--nights", type=int, default=200, help="nights in a row")
    arguments = parser.parse_args()
    if arguments.nights < 2 * _WARM:
        parser.error(f"fewer than {2 * _WARM} nights say nothing about growth")
    console = Console(width=110, highlight=False)
    with bootstrapped(THROUGH) as uc:
        growths = judge(run(uc, arguments.nights, console))
    for growth in growths:
        console.print(str(growth), markup=False)
    sys.exit(0 if all(growth.holds for growth in growths) else 1)


if __name__ == "__main__":
    main()
