"""Whole checkouts of their own, for tests of what people do to one: write files into it, and run programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from nightshift.settings import settings
from tests.stacks import COPIED, NOT_COPIED


def copy_checkout(copy: Path) -> Path:
    """Copy all that runs, and the tests."""
    here = settings().project
    for name in (*COPIED, "tests"):
        shutil.copytree(here / name, copy / name, ignore=NOT_COPIED)
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(here / name, copy / name)
    return copy


def run_in(checkout: Path, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in a checkout as its people would, with a state of its own beside it."""
    home = checkout.parent / "home"
    environment = {
        **os.environ,
        "NIGHTSHIFT_PROJECT": str(checkout),
        "NIGHTSHIFT_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "PYTHONPATH": os.pathsep.join((str(checkout / "include"), str(checkout))),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment,
        input=answers,
        capture_output=True,
        text=True,
        check=False,
    )
