"""The audit log as it is read and checked by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightshift.cli.audit import record_airflow
from nightshift.cli.main import app
from nightshift.lake import audit
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def acted(home: Path, flight_delays: UseCase) -> str:
    """Two silences; the use case's name."""
    for reason in ("a [bold]holiday[/bold]", "a second one"):
        command("silence", "drift", "--reason", reason, "--days", "2", "--by", "ann")
    return flight_delays.name


def test_entries_are_listed_newest_first_with_the_head(acted: str) -> None:
    listed = command("audit")
    assert listed.index("a second one") < listed.index("a [bold]holiday[/bold]")
    assert "ann (admin)" in listed
    assert f"{acted} drift *" in listed
    assert f"head: {audit.head()}" in listed
    rows = [json.loads(line) for line in command("audit", "--json").splitlines()]
    assert [row["number"] for row in rows] == [2, 1]
    assert (rows[0]["what"], rows[0]["who"], rows[0]["usecase"]) == ("silence", "ann", acted)
    assert command("audit", "--usecase", "another", "--json") == ""
    assert command("audit", "--usecase", acted, "--json").count("\n") == 2


def test_a_whole_log_is_said_to_be_whole_and_what_that_does_not_prove(acted: str) -> None:
    head = str(audit.head())
    said = command("audit", "verify")
    assert "2 entries, none edited" in said
    assert "only a head of an earlier day can tell" in said
    assert "entry 2 is the one that was remembered" in command("audit", "verify", "--head", head)
    open_store().delete("logs/audit/000000002.json")
    assert "1 entries, none edited" in command("audit", "verify")
    assert "removed: entry 2 was removed" in command("audit", "verify", "--head", head, code=1)


def test_an_edited_entry_is_named_with_exit_code_1(acted: str) -> None:
    key = "logs/audit/000000001.json"
    open_store().put(key, open_store().get(key).replace(b"ann", b"eve"))
    assert "edited: entry 1 was edited" in command("audit", "verify", code=1)


def test_a_head_that_is_none_is_explained(acted: str) -> None:
    result = CliRunner().invoke(app, ["audit", "verify", "--head", "2:abc"])
    assert result.exit_code == 1
    assert "cure:" in result.stderr


def test_commands_of_airflow_that_change_something_are_recorded_without_their_options(home: Path) -> None:
    for looks in (["dags", "list"], ["tasks", "state", "a", "b"], ["--help"], ["db", "reset", "--help"], []):
        record_airflow(looks)
    assert audit.read() == []
    for _ in range(2):
        record_airflow(["users", "create", "--username", "eve", "--password", "hunter2"])
    assert [(entry.what, entry.subject) for entry in audit.read()] == [("airflow", "users create")] * 2
    assert "hunter2" not in command("audit", "--json")
