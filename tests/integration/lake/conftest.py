"""The lake on each kind of storage, and a small use case to fill it with."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import boto3
import lake_writer
import pytest

from nightshift.lake.store import Store, open_store
from nightshift.settings import settings
from nightshift.usecase import UseCase

# Serves on a port the system chose and says which, so that no two runs collide. It looks whether an object
# exists and writes it in two steps, where S3 has one: without the lock, two writers could both create it.
_SERVE = """
from threading import Lock
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
answer, one_at_a_time = DomainDispatcherApplication(create_backend_app), Lock()
def serve(environment, start_response):
    with one_at_a_time:
        return list(answer(environment, start_response))
server = make_server("127.0.0.1", 0, serve, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3-compatible server, a process of its own, that runs for the whole session."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Name of a new bucket, with the environment pointing every S3 client at the server."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{abs(hash(tmp_path)):x}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty lake: every test runs on a folder and on an S3 server."""
    if request.param == "s3":
        monkeypatch.setenv("NIGHTSHIFT_LAKE", f"s3://{request.getfixturevalue('s3_bucket')}/lake")
        settings.cache_clear()
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
