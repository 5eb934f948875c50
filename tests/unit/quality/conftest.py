"""A folder of suites that a test writes itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightshift.settings import settings

WriteSuite = Callable[..., Path]


@pytest.fixture
def write_suite(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteSuite:
    """Return a function that writes ``trial.json`` where suites are looked for, and nothing else is there."""
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()

    def write(*rules: dict[str, Any], name: str = "trial", at_most: float = 1.0, **derived: Any) -> Path:
        file = settings().expectations / "flight_delays" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        meta = {"quarantine_at_most": at_most, "derived": derived}
        file.write_text(json.dumps({"name": name, "expectations": rules, "meta": meta}), encoding="utf-8")
        return file

    return write
