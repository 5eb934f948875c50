"""The lake on each kind of storage, and a small use case to fill it with."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import lake_writer
import pytest

from nightshift.lake.store import Store, open_store
from nightshift.usecase import UseCase


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(home: Path) -> Store:
    """An empty lake: every test runs on a folder and on an S3 server."""
    return open_store()


@pytest.fixture
def uc() -> UseCase:
    return lake_writer.toy()


# Writers are forked from a process that has imported everything, so that starting one takes milliseconds.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([f"nightshift.lake.{room}" for room in ("raw", "s3", "staging", "tables")])


class Writer:
    """One process that does one of the actions of ``lake_writer``."""

    def __init__(
        self, action: str, day: date, content: int, point: str = "", start: Barrier | None = None
    ) -> None:
        self._results, sending = _PROCESSES.Pipe(duplex=False)
        self.process = _PROCESSES.Process(
            target=lake_writer.act, args=(action, day, content, point, dict(os.environ), start, sending)
        )
        self.process.start()
        sending.close()

    def finish(self) -> Any:
        """Wait for the end and return what the action returned, None if the process was killed."""
        try:
            return self._results.recv()
        except EOFError:
            return None
        finally:
            self.process.join()


@pytest.fixture
def writer() -> Iterator[Callable[..., Writer]]:
    """Start writers with ``writer(action, day, content, point)``; none outlives the test."""
    started: list[Writer] = []

    def start(*args: Any) -> Writer:
        started.append(Writer(*args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.join()


@pytest.fixture
def race(writer: Callable[..., Writer]) -> Callable[..., list[Any]]:
    """Run several (action, day, content) at the same moment and return what each returned."""

    def run(*calls: tuple[str, date, int]) -> list[Any]:
        start = _PROCESSES.Barrier(len(calls))
        racers = [writer(*call, "", start) for call in calls]
        results = [racer.finish() for racer in racers]
        assert [racer.process.exitcode for racer in racers] == [0] * len(calls)
        return results

    return run
