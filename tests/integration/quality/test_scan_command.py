"""`nightshift scan` says what it looked at, so that nobody takes nothing looked at for nothing found."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.passengers import Passengers, passengers, source, table
from tests.synthetic import use_case, write_use_case
from typer.testing import CliRunner, Result

from nightshift.cli.main import app
from nightshift.ingestion import land_partitions
from nightshift.usecase import UseCase

DAY = date(2020, 1, 5)
CLEAR: dict[str, Any] = {"pii": "none", "protect": "none", "domain": None}


@pytest.fixture
def uc(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """Passengers of whom phone and card are called nobody's, in a checkout of their own."""
    unprotected = {"protect": "none", "domain": None}
    changes = dict.fromkeys(("email", "seat_ref", "full_name"), unprotected)
    declared = table(**changes, phone=CLEAR, card=CLEAR)
    made = use_case(sources={"air": source(passengers=declared, crew=declared)})
    project = tmp_path / "project"
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
    write_use_case(project, made)
    rule = {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": "seat"},
        "meta": {"rule": "seat", "severity": "stop", "reason": "Everybody sits."},
    }
    suite = {"name": "raw_passengers", "expectations": [rule], "meta": {"quarantine_at_most": 0.0}}
    folder = project / "expectations" / made.name
    folder.mkdir(parents=True)
    (folder / "raw_passengers.json").write_text(json.dumps(suite), encoding="utf-8")
    monkeypatch.setattr(Passengers, "tables", {DAY: passengers(60, 1, DAY)})
    return made


def scanned(*options: str) -> Result:
    return CliRunner().invoke(app, ["scan", *options])


def test_where_nothing_has_landed_it_says_so(uc: UseCase) -> None:
    done = scanned()
    assert done.exit_code == 0
    assert done.stdout == "synthetic: nothing has landed yet\n"
    lines = [json.loads(line) for line in scanned("--json").stdout.splitlines()]
    assert [(one["table"], one["partition"], one["rows"]) for one in lines] == [
        ("passengers", None, 0),
        ("crew", None, 0),
    ]


def test_it_says_how_much_it_looked_at(uc: UseCase) -> None:
    land_partitions(uc, "air", "passengers", {DAY: uc.as_of(DAY)})
    done = scanned()
    assert done.exit_code == 1
    first, *found, last = done.stdout.splitlines()
    assert last == "synthetic, air.crew: nothing has landed yet"
    assert first == (
        "synthetic, air.passengers, partition 2020-01-05: looked at 60 rows; unclassed columns: phone, card, "
        "seat, booking"
    )
    assert [line.split(":")[0] for line in found] == ["  phone", "  card"]
    seen, other = (json.loads(line) for line in scanned("--json").stdout.splitlines())
    assert (seen["partition"], seen["rows"], seen["columns"]) == (
        "2020-01-05",
        60,
        ["phone", "card", "seat", "booking"],
    )
    assert {one["column"]: one["kind"] for one in seen["suspicions"]} == {
        "phone": "phone number",
        "card": "payment card",
    }
    assert other["partition"] is None
    assert Passengers.tables[DAY]["card"][0].as_py() not in done.stdout
