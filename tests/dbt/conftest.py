"""Six weeks of the real data in a lake, and the features that one build of them gives on each engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from nights import FIRST, LAST, PASSWORD, History, land
from tests.lakes import environment

from nightshift import stages
from nightshift.databases import MAINTENANCE_DATABASE, url
from nightshift.lake import raw
from nightshift.monitoring.staleness import find_stale
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase
from nightshift.warehouse.postgres_engine import DATABASE


@pytest.fixture(scope="session", params=["duckdb", "postgres"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """Every test of this folder runs on each engine."""
    return str(request.param)


@pytest.fixture(scope="session")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with a lake and nothing else."""
    home = tmp_path_factory.mktemp("landed")
    with environment(home):
        land(load_usecase("flight_delays"), FIRST, LAST)
    return home


@pytest.fixture(scope="session")
def use_engine(request: pytest.FixtureRequest) -> Callable[[pytest.MonkeyPatch, str], None]:
    """Let the settings name an engine whose warehouse is empty."""

    def use(patch: pytest.MonkeyPatch, engine_name: str) -> None:
        patch.setenv("NIGHTSHIFT_WAREHOUSE", engine_name)
        if engine_name == "postgres":
            server = urlsplit(request.getfixturevalue("postgres"))
            patch.setenv("NIGHTSHIFT_POSTGRES_URL", server._replace(netloc=f"postgres:{PASSWORD}@").geturl())
        settings.cache_clear()
        if engine_name == "postgres":
            _on_server(f"drop database if exists {DATABASE} with (force)")

    return use


@pytest.fixture(scope="session")
def history_on(
    landed: Path,
    use_engine: Callable[[pytest.MonkeyPatch, str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], History]:
    """The full build on an engine, made once."""

    @cache
    def history(engine_name: str) -> History:
        home = tmp_path_factory.mktemp(f"history-{engine_name}")
        shutil.copytree(landed, home, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NIGHTSHIFT_HOME", str(home))
            use_engine(patch, engine_name)
            staged = stages.build_features(load_usecase("flight_delays"), FIRST, LAST)
            if engine_name == "postgres":
                _on_server("drop database if exists history with (force)")
                _on_server(f"alter database {DATABASE} rename to history")
        settings.cache_clear()
        return History(home, staged)

    return history


@pytest.fixture(scope="session")
def history(engine_name: str, history_on: Callable[[str], History]) -> History:
    return history_on(engine_name)


@pytest.fixture(scope="session")
def published_lake(history: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake after the full build was published: nothing is stale."""
    home = tmp_path_factory.mktemp("published")
    shutil.copytree(history.home, home, dirs_exist_ok=True)
    uc = load_usecase("flight_delays")
    with environment(home):
        stages.publish_features(uc, history.staged)
        assert find_stale(uc) == []
    return home / "lake"


@pytest.fixture
def home(
    home: Path,
    engine_name: str,
    use_engine: Callable[[pytest.MonkeyPatch, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Point all state at an empty folder, and the warehouse at an empty one of the engine."""
    use_engine(monkeypatch, engine_name)
    return home


@pytest.fixture
def lake_only(landed: Path, home: Path) -> Path:
    """A state folder with the same lake and no warehouse."""
    shutil.copytree(landed / "lake", home / "lake")
    return home


@pytest.fixture
def built(history: History, home: Path, engine_name: str) -> Path:
    """A state folder with the same lake and the warehouse as the full build left it."""
    shutil.copytree(history.home, home, dirs_exist_ok=True)
    if engine_name == "postgres":
        _on_server(f"create database {DATABASE} template history strategy file_copy")
    return home


def _on_server(statement: str) -> None:
    with psycopg.connect(url(MAINTENANCE_DATABASE), autocommit=True) as server:
        server.execute(statement)


@pytest.fixture
def replace_raw() -> Callable[..., None]:
    """Land another version of a partition, as a correction seen by a later night."""

    def replace(uc: UseCase, table: str, partition: date, change: Callable[..., object]) -> None:
        (source,) = uc.sources
        current = raw.current(uc, source, table, partition)
        assert current is not None
        changed = change(raw.read(current))
        raw.land(
            uc,
            source,
            table,
            partition,
            changed,
            rows_in=changed.num_rows,
            rows_quarantined=0,
            as_of=uc.as_of(LAST),
            query="planted by a test",
        )

    return replace
