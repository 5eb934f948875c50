"""Builds at once: one waits for the other, whichever engine, and nothing a killed one held stays held."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import date, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from nights import LAST, History
from tests.forked import PROCESSES, preload, start

from nightshift.errors import TransientError
from nightshift.features.build import build
from nightshift.usecase import UseCase, load_usecase
from nightshift.warehouse.engine import engine
from nightshift.warehouse.read import read

preload("nightshift.features.build", "dbt.cli.main")


def _build(night: date, begin: Barrier, result: Connection) -> None:
    uc = load_usecase("flight_delays")
    begin.wait()
    (item,) = build(uc, night, night)["features"]
    result.send(item.content_hash)


def _hold(result: Connection) -> None:
    with engine().exclusive("flight_delays"):
        result.send("held")
        signal.pause()


def test_overlapping_nights_built_at_once_equal_one_after_the_other(
    lake_only: Path, history: History, flight_delays: UseCase
) -> None:
    nights = [LAST - timedelta(days=1), LAST]
    # Both have imported everything and start within a moment of each other, on an empty warehouse.
    begin, pipes = PROCESSES.Barrier(2), [PROCESSES.Pipe(duplex=False) for _ in nights]
    builds = [start(_build, night, begin, ours) for night, (_, ours) in zip(nights, pipes, strict=True)]
    for process in builds:
        process.join()
    assert [process.exitcode for process in builds] == [0, 0]
    assert [theirs.recv() for theirs, _ in pipes] == [history.features[night] for night in nights]
    for relation in (flight_delays.features.relation, flight_delays.label.relation, "int_performance_daily"):
        rows = read(flight_delays, relation, nights[0] - timedelta(days=28), nights[1])
        assert rows.num_rows == rows.group_by(rows.column_names).aggregate([]).num_rows > 1000, relation


@pytest.fixture
def holder(home: Path) -> Iterator[BaseProcess]:
    """Another process that is in the middle of a build."""
    theirs, ours = PROCESSES.Pipe(duplex=False)
    process = start(_hold, ours)
    ours.close()
    assert theirs.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_a_build_waits_so_long_and_no_longer(holder: BaseProcess, flight_delays: UseCase) -> None:
    with (
        pytest.raises(TransientError, match="another build"),
        engine().exclusive(flight_delays.name, patience=0.2),
    ):
        pytest.fail("two builds at once")


def test_a_killed_build_holds_nothing(holder: BaseProcess, flight_delays: UseCase) -> None:
    holder.kill()
    holder.join()
    with engine().exclusive(flight_delays.name, patience=30):
        pass
