"""Logs of JSON lines in a folder and in a bucket, and a use case that reads them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests import synthetic

from nightshift.settings import settings
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

DAY = date(2024, 3, 1)
NEXT = DAY + timedelta(days=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
_TYPES = {"event": "string", "at": "timestamp", "page": "string", "count": "int64", "seconds": "float64"}

_THERE = {
    "type": "expect_column_values_to_not_be_null",
    "kwargs": {"column": "partition"},
    "meta": {"rule": "on_a_day", "severity": "quarantine", "reason": "Because the test says so."},
}


def line(event: str, at: str | None = "2024-03-01T10:00:00Z", **fields: Any) -> bytes:
    """Return a line of the log."""
    return json.dumps({"event": event, "at": at, **fields}).encode() + b"\n"


def site(prefix: str, batch_rows: int = 5, zone: str = "UTC", **table: Any) -> UseCase:
    """Return a use case whose source ``site`` has the table ``clicks`` in a log."""
    columns = {name: {"type": kind, "description": f"The event's {name}."} for name, kind in _TYPES.items()}
    clicks = {
        "description": "Clicks.",
        "key": ["event"],
        "refresh": "daily",
        "columns": columns,
        "allow_empty": True,
    }
    source = {
        "kind": "events",
        "description": "A site.",
        "owner": "test",
        "access": "files",
        "sla": "none",
        "options": {
            "prefix": prefix,
            "tables": {"clicks": {"files": "clicks/*.jsonl", "time": "at"} | table},
            "batch_rows": batch_rows,
        },
        "tables": {"clicks": clicks},
    }
    return synthetic.use_case(name="toy", timezone=zone, sources={"site": source})


def write_suite(folder: Path, patch: pytest.MonkeyPatch, name: str, *rules: dict[str, Any]) -> None:
    """Use a project whose only suite is ``name``, with these expectations."""
    suites = folder / "project" / "expectations" / "toy"
    suites.mkdir(parents=True)
    suite = {"name": name, "expectations": rules or [_THERE], "meta": {"quarantine_at_most": 0.9}}
    (suites / f"{name}.json").write_text(json.dumps(suite), encoding="utf-8")
    patch.setenv("NIGHTSHIFT_PROJECT", str(folder / "project"))
    settings.cache_clear()


def capture(uc: UseCase) -> int:
    """Capture the clicks; return how many lines there were."""
    return open_connector(uc, "site").capture("clicks")


def read(uc: UseCase, day: date = DAY, as_of: datetime = LATER) -> list[str]:
    """Return the events of a day that were captured, sorted, as often as they are there."""
    rows = open_connector(uc, "site").read("clicks", day, as_of).table
    return sorted(rows["event"].to_pylist())
