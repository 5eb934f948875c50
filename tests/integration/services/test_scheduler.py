"""The scheduler imports for its tasks what is dear, and nothing that people edit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nightshift.services.airflow import base_environment
from nightshift.services.preloaded import LIBRARIES

_TELL = """
import json, sys, threading
from nightshift.services.preloaded import preload
preload()
print(json.dumps({"modules": sorted(sys.modules), "threads": threading.active_count()}))
"""


@pytest.fixture(scope="module")
def preloaded() -> dict[str, list[str] | int]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _TELL],
        env=base_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, list[str] | int] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_every_library_is_there_for_tasks(preloaded: dict[str, list[str]]) -> None:
    assert set(LIBRARIES) <= set(preloaded["modules"])


def test_what_people_edit_is_imported_by_each_task_anew(preloaded: dict[str, list[str]]) -> None:
    ours = [name for name in preloaded["modules"] if name.partition(".")[0] in ("nightshift", "usecases")]
    assert ours == ["nightshift", "nightshift.services", "nightshift.services.preloaded"]


def test_a_fork_loses_no_python_thread(preloaded: dict[str, int]) -> None:
    assert preloaded["threads"] == 1
