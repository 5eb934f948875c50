"""A state folder and ports of the test's own, and whatever was started in it stopped again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightshift.services import processes, stack
from nightshift.settings import settings

_PORTS = ("AIRFLOW", "MLFLOW", "POSTGRES")


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty state folder with free ports.

    Not under pytest's own folder: as root, PostgreSQL runs as another user, and every pytest session that
    starts closes that folder to other users again.
    """
    with tempfile.TemporaryDirectory(prefix="nightshift-services-") as folder:
        monkeypatch.setenv("NIGHTSHIFT_HOME", folder)
        for name in _PORTS:
            monkeypatch.setenv(f"NIGHTSHIFT_{name}_PORT", str(processes.free_port()))
        # What runs in this state is this test's: nothing is inherited from the developer's own settings.
        for name in ("HOST", "LAKE", "POSTGRES_URL", "MLFLOW_URL"):
            monkeypatch.delenv(f"NIGHTSHIFT_{name}", raising=False)
        settings.cache_clear()
        yield Path(folder)
        stack.down()
        settings.cache_clear()


@pytest.fixture
def environment() -> dict[str, str]:
    """The least a small process needs."""
    return {"PATH": os.environ["PATH"]}


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody has asked about yet does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
