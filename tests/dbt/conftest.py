"""Six weeks of the real data in a lake, and the features that one build of all of them gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from nights import FIRST, LAST, History, land

from nightshift.features.build import build
from nightshift.lake import raw
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    home = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_HOME", str(home))
        settings.cache_clear()
        uc = load_usecase("flight_delays")
        land(uc, FIRST, LAST)
        staged = build(uc, FIRST, LAST)
    settings.cache_clear()
    return History(
        home,
        {item.partition: item.content_hash for item in staged["features"]},
        {item.partition: item.content_hash for item in staged["labels"]},
    )


@pytest.fixture
def lake_only(history: History, home: Path) -> Path:
    """A state folder with the same lake and no warehouse."""
    shutil.copytree(history.home / "lake", home / "lake")
    return home


@pytest.fixture
def built(history: History, home: Path) -> Path:
    """A state folder with the same lake and the warehouse as the full build left it."""
    shutil.copytree(history.home, home, dirs_exist_ok=True)
    return home


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
