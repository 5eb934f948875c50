"""The catalogue in the terminal: each table and column, readable at a hundred columns, and as JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nightshift.cli.catalog import print_catalog
from nightshift.cli.main import app
from nightshift.cli.output import console
from nightshift.usecase import UseCase


def test_everything_that_the_catalogue_says_is_in_its_json(flight_delays: UseCase) -> None:
    done = CliRunner().invoke(app, ["catalog", "--usecase", flight_delays.name, "--json"])
    assert done.exit_code == 0
    tables = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["table"] for one in tables] == [*(name for _, name, _ in flight_delays.tables()), "feedback"]
    planes = next(one for one in tables if one["table"] == "planes")
    assert planes["owner"] == flight_delays.sources[planes["source"]].owner
    assert planes["key"] == ["tail_number"]
    assert planes["deadline"] == "04:00"
    assert planes["retention"]["raw_days"] == flight_delays.retention.raw_days
    registration = planes["columns"]["tail_number"]
    assert registration["pii"] == "indirect"
    assert registration["purpose"]
    assert "sla" in planes
    assert "access" in planes


def test_it_is_readable_at_a_hundred_columns(
    flight_delays: UseCase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", 100)
    print_catalog(flight_delays)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    said = "\n".join(lines)
    for _, name, table in flight_delays.tables():
        assert f".{name}" in said
        assert all(f"│ {column} " in said for column in table.columns)
