from __future__ import annotations

import os
import re
import subprocess

import pytest

from nightshift.settings import settings


def _make(*arguments: str, **environment: str) -> str:
    whole = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_", "MAKE"))}
    done = subprocess.run(  # nosec B607  # the PATH's make
        ["make", "--no-print-directory", *arguments],
        cwd=settings().project,
        env=whole | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_help_is_the_default_and_lists_every_target() -> None:
    rules = (settings().project / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", rules, re.MULTILINE)
    targets = set(phony.split())
    listed = {line.split()[0] for line in _make().splitlines()}
    assert listed == targets
    assert {"demo", "up", "down", "test", "lint", "bench"} <= targets


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"PIP_FIND_LINKS": "wheels"}, "wheels"),
        ({"PIP_FIND_LINKS": "wheels", "UV_FIND_LINKS": "others"}, "others"),
        ({}, ""),
    ],
)
def test_a_folder_of_wheels_given_to_pip_is_given_to_uv(given: dict[str, str], expected: str) -> None:
    shown = _make('--eval=show: ; @echo "[$$UV_FIND_LINKS]"', "show", **given)
    assert shown.strip() == f"[{expected}]"


def test_commands_run_with_bytecode() -> None:
    rule = '--eval=show: ; @echo "[$$PYTHONDONTWRITEBYTECODE]"'
    assert _make(rule, "show", PYTHONDONTWRITEBYTECODE="1").strip() == "[]"


def test_ci_calls_make_test() -> None:
    script = settings().project / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
