"""Fixtures every kind of test shares: a state folder of its own, and the use case of this repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase
from tests.faults import recording_fault
from tests.servers import S3_CREDENTIALS, object_store, postgres_server

record_fault = recording_fault

# What fails fast comes first; a folder that is not named here comes after these.
_ORDER = ("unit", "dags", "benchmarks", "dbt", "integration", "e2e", "production")

# Groups that take minutes, the longest first.
_LONG = (
    "services",
    "tests/production",
    "tests/integration/orchestration/test_fan_out.py",
    "tests/dbt on postgres",
    "tests/dbt",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run folder by folder, the fast ones first, and at last what starts whole stacks.

    Workers that share them begin with the longest groups: begun last, one would run while the others idle.
    """
    shared = hasattr(config, "workerinput")

    def rank(item: pytest.Item) -> tuple[int, int]:
        folder, group = item.path.relative_to(Path(__file__).parent).parts[0], _group(item.nodeid)
        place = _ORDER.index(folder) if folder in _ORDER else len(_ORDER)
        if shared:
            return _LONG.index(group) if group in _LONG else len(_LONG), place
        return int(group == "services"), place

    items.sort(key=rank)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let each worker run whole groups of tests, so that what takes long to make or start is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    # It would begin with the groups of most tests, which are the quickest.
    config.option.loadscopereorder = False
    return ByGroup(config, log)


def _group(nodeid: str) -> str:
    file, _, test = nodeid.partition("::")
    if file.startswith("tests/dbt/"):
        return "tests/dbt on postgres" if "[postgres" in test else "tests/dbt"
    if file.startswith("tests/integration/faults/"):
        return "tests/integration/faults"
    if file.startswith(("tests/e2e/", "tests/integration/services/")):
        return "services"
    if file.startswith("tests/production/"):
        return "tests/production"
    return file


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an object store that runs for the whole session, with a bucket ``tests``."""
    with object_store() as url:
        # Set for this alone: stores of other tests have other keys.
        with pytest.MonkeyPatch.context() as patch:
            for name, value in S3_CREDENTIALS.items():
                patch.setenv(name, value)
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket="tests")
        yield url


@pytest.fixture(scope="session")
def s3_environment(s3_endpoint: str) -> dict[str, str]:
    """What points every S3 client at the server."""
    return {"AWS_ENDPOINT_URL": s3_endpoint, **S3_CREDENTIALS}


@pytest.fixture
def s3_folder(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A bucket and an empty folder in it, with the environment pointing every S3 client at the server."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    # Not a bucket for each: it takes a second to make.
    return f"tests/{abs(hash(tmp_path)):x}"


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
        monkeypatch.setenv("NIGHTSHIFT_LAKE", f"s3://{request.getfixturevalue('s3_folder')}/lake")
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
    with postgres_server() as url:
        yield url
