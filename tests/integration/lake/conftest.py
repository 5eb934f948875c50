"""The lake on each kind of storage, and a small use case to fill it with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import boto3
import lake_writer
import pytest
from tests.forked import PROCESSES, preload
from tests.lakes import on_both_storages
from tests.servers import S3_CREDENTIALS, s3_emulator

from nightshift.lake.store import Store, open_store
from nightshift.usecase import UseCase

storage = on_both_storages


@pytest.fixture
def store(home: Path) -> Store:
    """An empty lake: every test runs on a folder and on an S3 server."""
    return open_store()


@pytest.fixture
def uc() -> UseCase:
    return lake_writer.toy()


preload(*(f"nightshift.lake.{room}" for room in ("raw", "s3", "staging", "tables")))


class Writer:
    """One process that does one of the actions of ``lake_writer``."""

    def __init__(
        self, action: str, day: date, content: int, point: str = "", start: Barrier | None = None
    ) -> None:
        self._results, sending = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(
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
        start = PROCESSES.Barrier(len(calls))
        racers = [writer(*call, "", start) for call in calls]
        results = [racer.finish() for racer in racers]
        assert [racer.process.exitcode for racer in racers] == [0] * len(calls)
        return results

    return run


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """The URL of an emulator of S3."""
    with s3_emulator() as url:
        yield url


@pytest.fixture
def emulated_bucket(emulator: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket of it, with the environment pointing every S3 client there."""
    for name, value in {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": emulator}.items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{abs(hash(tmp_path)):x}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket
