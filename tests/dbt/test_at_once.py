"""Builds at once: one waits for the other, whichever engine, and nothing a killed one held stays held."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from nights import LAST, History

from nightshift.errors import TransientError
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine
from nightshift.warehouse.read import read

_BUILD = """
import json, sys
from datetime import date
from nightshift.features.build import build
from nightshift.usecase import load_usecase
import dbt.cli.main
print("ready", flush=True)
sys.stdin.readline()
night = date.fromisoformat(sys.argv[1])
(item,) = build(load_usecase("flight_delays"), night, night)["features"]
print(item.content_hash)
"""

_HOLD = """
import sys
from nightshift.warehouse.engine import engine
with engine().exclusive("flight_delays"):
    print("held", flush=True)
    sys.stdin.read()
"""


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=dict(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate()[1]
    return process


def test_overlapping_nights_built_at_once_equal_one_after_the_other(
    lake_only: Path, history: History, flight_delays: UseCase
) -> None:
    nights = [LAST - timedelta(days=1), LAST]
    # Both have imported everything and start within a moment of each other, on an empty warehouse.
    builds = [_start(_BUILD, str(night)) for night in nights]
    for build in builds:
        assert build.stdin is not None
        build.stdin.write("\n")
        build.stdin.flush()
    ends = [build.communicate() for build in builds]
    assert [build.returncode for build in builds] == [0, 0], "\n".join(error[-1500:] for _, error in ends)
    assert [output.strip() for output, _ in ends] == [history.features[night] for night in nights]
    for relation in (flight_delays.features.relation, flight_delays.label.relation, "int_performance_daily"):
        rows = read(flight_delays, relation, nights[0] - timedelta(days=28), nights[1])
        assert rows.num_rows == rows.group_by(rows.column_names).aggregate([]).num_rows > 1000, relation


@pytest.fixture
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the middle of a build."""
    with _start(_HOLD) as process:
        yield process
        process.kill()


def test_a_build_waits_so_long_and_no_longer(holder: subprocess.Popen[str], flight_delays: UseCase) -> None:
    with (
        pytest.raises(TransientError, match="another build"),
        engine().exclusive(flight_delays.name, patience=0.2),
    ):
        pytest.fail("two builds at once")


def test_a_killed_build_holds_nothing(holder: subprocess.Popen[str], flight_delays: UseCase) -> None:
    holder.kill()
    holder.wait()
    with engine().exclusive(flight_delays.name, patience=30):
        pass
