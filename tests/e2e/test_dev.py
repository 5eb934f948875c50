"""`make dev`: what is saved is checked, and Airflow has it within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from nightshift.services import developing
from nightshift.settings import settings
from tests.stacks import Stack


@pytest.fixture
def said(running: Stack) -> Iterator[list[str]]:
    """What is said about files while somebody edits them."""
    lines: list[str] = []
    stop = Event()
    watching = Thread(target=developing.watch_files, args=(lines.append, stop))
    watching.start()
    yield lines
    stop.set()
    watching.join(60)
    assert not watching.is_alive()


@pytest.fixture
def usecase() -> Iterator[Path]:
    """The use case of the tests' own copy, as it was afterwards."""
    file = settings().project / "include" / "usecases" / "flight_delays" / "usecase.yml"
    before = file.read_text()
    yield file
    file.write_text(before)


def test_what_is_saved_is_in_airflow_at_once(running: Stack, said: list[str], usecase: Path) -> None:
    before = usecase.read_text()
    running.wait(lambda: _saved(usecase, before, said), "the watch to begin", seconds=60)
    usecase.write_text(before.replace("owner: data-platform", "owner: night-watch", 1))
    # By itself Airflow would look after two minutes.
    running.wait(lambda: running.api.owners(running.dag("score")) == ["night-watch"], "the owner", seconds=60)
    running.wait(lambda: "checked: nothing is broken" in said, "the check", seconds=60)
    usecase.write_text(before.replace("lookback_days", "look_back_days"))
    running.wait(lambda: _mistake(said), "the mistake", seconds=60)


def _mistake(said: list[str]) -> bool:
    return any(line.startswith("FAIL flight_delays: use case") and "look_back_days" in line for line in said)


def _saved(file: Path, text: str, said: list[str]) -> bool:
    """Save the file as it is until that is noticed: the watch takes a moment to begin."""
    file.write_text(text)
    return bool(said)
