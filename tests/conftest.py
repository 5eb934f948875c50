"""Fixtures every kind of test shares: a state folder of its own, and the use case of this repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase


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
