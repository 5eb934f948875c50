"""The drift check: a day of 1,000 rows and 40 features, and a year of rows beside Evidently's preset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightshift.monitoring import baseline, comparison
from nightshift.monitoring.baseline import Baseline
from nightshift.usecase import Drift

from . import alarms
from .harness import Comparison, DifferentResultsError, Timed

_DAY_ROWS, _MOST_SECONDS = 1_000, 2.0
_WINDOW_ROWS = 336_776
_REFERENCE_DAYS = 60
_COLUMNS = len(alarms.NUMERIC) + len(alarms.CATEGORICAL)
_EFFECT = alarms.WORLDS["a shared effect"]


@contextmanager
def day(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Judge a day of 1,000 rows with its windows of 7 and 28 days, beside the preset on the day alone."""
    policy = Drift()
    rows = 100 if quick else _DAY_ROWS
    known = alarms.made(0, rows, _EFFECT, 0, _REFERENCE_DAYS)
    learnt = baseline.learn(known, alarms.NUMERIC, alarms.CATEGORICAL, policy)
    longest = max(policy.windows)
    recent = alarms.made(0, rows, _EFFECT, _REFERENCE_DAYS, longest)
    frames = [_frame(known.slice(0, alarms.PRESET_ROWS)), _frame(recent.slice(recent.num_rows - rows))]

    def ours(number: int) -> Timed:
        start = time.perf_counter()
        judged = sum(
            _judge(learnt, recent, length, longest, policy.min_effect)
            for length in policy.windows
            if length in learnt.strata[baseline.ALWAYS].calibrations
        )
        return Timed(time.perf_counter() - start, judged)

    def other(number: int) -> Timed:
        start = time.perf_counter()
        share = alarms.preset(*frames)
        return Timed(time.perf_counter() - start, share)

    yield Comparison(
        name="drift of a day",
        against="Evidently's DataDriftPreset on the day",
        measure="seconds",
        at_most=_MOST_SECONDS,
        ours=ours,
        other=other,
        check=_judged,
        note=f"A day of {_DAY_ROWS:,} rows and {_COLUMNS} features, and the "
        "windows of 7 and 28 days that end with it, are sketched anew and held against the baseline: own "
        f"compute, with rows in memory and imports done. The preset judges the day alone, against "
        f"{alarms.PRESET_ROWS:,} rows of the reference.",
    )


@contextmanager
def window(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Judge a window of 336,776 rows (20,000 when ``quick``) against a reference of as many."""
    days = 7
    rows = (20_000 if quick else _WINDOW_ROWS) // days
    known = alarms.made(0, rows, _EFFECT, 0, 2 * days)
    learnt = baseline.learn(known, alarms.NUMERIC, alarms.CATEGORICAL, Drift(windows=(days,)))
    current = alarms.made(0, rows, _EFFECT, 2 * days, days)
    half = known.slice(0, days * rows)
    frames = [_frame(half), _frame(current)]

    def ours(number: int) -> Timed:
        start = time.perf_counter()
        judged = _judge(learnt, current, days, days, Drift().min_effect)
        return Timed(time.perf_counter() - start, judged)

    def other(number: int) -> Timed:
        start = time.perf_counter()
        share = alarms.preset(*frames)
        return Timed(time.perf_counter() - start, share)

    yield Comparison(
        name="drift of a large window",
        against="Evidently's DataDriftPreset on the same rows",
        measure="ratio",
        at_most=1.0,
        ours=ours,
        other=other,
        check=_judged,
        note=f"{days * rows:,} rows of {_COLUMNS} features, in memory. Ours "
        "sketches them and holds them against the baseline, which was learned before; the preset reads a "
        "reference of as many rows each time. They answer the same question by other rules, so answers are "
        "not compared: python -m tests.benchmarks.alarms does that.",
    )


def _judge(learnt: Baseline, rows: pa.Table, length: int, longest: int, least: float) -> int:
    """Sketch the last ``length`` days of ``rows``, judge them, and return how many rows they were."""
    place = np.unique(rows["partition"].to_numpy(), return_inverse=True)[1] - (longest - length)
    own: Any = place >= 0
    sketches = learnt.grid.sketch(rows.filter(pa.array(own)), place[own], length)
    return comparison.judge(learnt, sketches, length, baseline.ALWAYS, min_effect=least).rows


def _frame(rows: pa.Table) -> Any:
    return rows.select([*alarms.NUMERIC, *alarms.CATEGORICAL]).to_pandas()


def _judged(ours: Any, other: Any) -> None:
    if not ours:
        raise DifferentResultsError("no row was judged")
