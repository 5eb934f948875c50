"""Nights in processes of their own, of which one has no room on its disk and another a clock that jumps."""

from __future__ import annotations

import json
import os
import resource
import select
import sys
import time
from datetime import UTC, date, datetime, timedelta
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from disturbed import quiet, run_nights, stages_of_a_night

from nightshift import stages
from nightshift.lake import retention
from nightshift.lake.store import open_store

# What a stage may write into one file while there is no room. Files that are there already stay as they are.
ROOM = 2048


def without_room(wanted: list[date], result: Connection) -> None:
    """Run nights each stage of which first finds its disk full, and then, once there is room, runs again.

    Sends what the stages raised (stage, class, message), and what half-written objects were left.
    """
    # The test's own output is a file, too.
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    raised: list[tuple[str, str, str]] = []

    def twice(name: str, stage: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
            try:
                return stage(*arguments, **options)
            except Exception as error:
                raised.append((name, type(error).__name__, str(error)))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            return stage(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, stage in stages_of_a_night().items():
            patch.setattr(stages, name, twice(name, stage))
        run_nights(quiet(), wanted)
    result.send((raised, [key for key in open_store().list("") if "/.writing/" in key]))


def by_a_jumping_clock(wanted: list[date], clock: Path) -> list[str]:
    """Run nights each stage of which sees another time of day, and sweep by each; return the times seen."""
    jumps = cycle([0, 5, -7, 26, -3, 49, -25])
    seen: list[str] = []

    def jumping(stage: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            _jump(clock, next(jumps))
            seen.append(datetime.now(UTC).isoformat())
            return stage(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, stage in stages_of_a_night().items():
            patch.setattr(stages, name, jumping(stage))
        for night in wanted:
            run_nights(quiet(), [night])
            for hours in (49, -25):
                _jump(clock, hours)
                retention.sweep(quiet(), datetime.now(UTC).date() if hours > 0 else night)
    return seen


def _jump(clock: Path, hours: int) -> None:
    """Set the clock, and return once this process has seen that: it looks at the file once a second."""
    before, offset = time.time(), timedelta(hours=hours).total_seconds()
    by = offset - float(clock.read_text())
    part = clock.with_suffix(".part")
    part.write_text(f"{offset:+.0f}")
    part.replace(clock)
    while abs(time.time() - before - by) > 600:
        # Not time.sleep, which sleeps until a moment: of the clock before the jump, or after it.
        select.select([], [], [], 0.01)


if __name__ == "__main__":
    # Started with faketime's library, which only the start of a process can load.
    nights = [date.fromisoformat(day) for day in sys.argv[2:]]
    sys.stdout.write(f"\n{json.dumps(by_a_jumping_clock(nights, Path(sys.argv[1])))}\n")
