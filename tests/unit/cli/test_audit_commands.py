"""The audit log as it is read and checked by command."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from tests.deployed import SECOND, deploy
from typer.testing import CliRunner

from nightshift.cli.audit import record_airflow
from nightshift.cli.main import app
from nightshift.lake import audit
from nightshift.lake.store import open_store
from nightshift.settings import settings
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
    assert "1 entry, none edited" in command("audit", "verify")
    assert "removed: entry 2 was removed" in command("audit", "verify", "--head", head, code=1)


def test_an_edited_entry_is_named_with_exit_code_1(acted: str) -> None:
    key = "logs/audit/000000001.json"
    open_store().put(key, open_store().get(key).replace(b"ann", b"eve"))
    assert "edited: entry 1 was edited" in command("audit", "verify", code=1)


def test_a_broken_chain_is_listed_as_broken_and_has_no_head_to_remember(acted: str) -> None:
    key = "logs/audit/000000001.json"
    whole = open_store().get(key)
    open_store().put(key, whole.replace(b"ann", b"eve"))
    for options in ([], ["--json"], ["--usecase", acted]):
        result = CliRunner().invoke(app, ["audit", *options])
        assert result.exit_code == 1
        assert "the chain is broken at entry 1: entry 1 was edited" in result.stderr
        assert "a second one" in result.stdout
        assert "head:" not in result.stdout
    open_store().put(key, b"\x00garbage")
    listed = command("audit", code=1)
    assert "cannot be read" in listed
    assert "a second one" in listed
    rows = [json.loads(line) for line in command("audit", "--json", code=1).splitlines()]
    assert rows[0]["why"] == "a second one"
    assert rows[1] == {"number": 1, "unreadable": True}


def test_a_key_that_came_into_use_later_proves_what_follows(
    acted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_AUDIT_KEY", base64.urlsafe_b64encode(b"k" * 32).decode())
    settings.cache_clear()
    assert "No entry was made with the key yet" in command("audit", "verify", code=1)
    command("silence", "drift", "--reason", "with the key", "--days", "2")
    said = command("audit", "verify", code=1)
    assert "unproven: entries 1 to 2 were made without the key" in said
    assert "Those after entry 2 are proven by the key" in said
    assert "proves nothing" not in said
    result = CliRunner().invoke(app, ["audit"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "note: entries 1 to 2" in result.stderr
    assert f"head: {audit.head()}" in result.stdout
    monkeypatch.delenv("NIGHTSHIFT_AUDIT_KEY")
    settings.cache_clear()
    result = CliRunner().invoke(app, ["audit"], catch_exceptions=False)
    assert result.exit_code == 0, "whoever only reads need not have the key"
    assert "note: entry 3 was made with the key" in result.stderr
    assert "head:" not in result.stdout, "what is not proven is not remembered"
    said = command("audit", "verify", code=1)
    assert "From entry 3 on, nothing is proven here. Verify where the key is." in said


def test_an_empty_log_of_a_lake_with_champions_is_noted(home: Path, flight_delays: UseCase) -> None:
    assert "note:" not in command("audit", "verify") + command("audit")
    deploy(flight_delays, {}, SECOND)
    for words in (["audit", "verify"], ["audit"]):
        assert "note: flight_delays has 2 deployments in its log, and the audit log has none" in command(
            *words
        )


def test_a_silence_that_is_ended_is_told_from_one_that_begins(acted: str) -> None:
    command("silence", "drift", "--reason", "all quiet", "--days", "0")
    ended, begun, _ = audit.read()
    assert ended.subject == "drift *, ended"
    assert ended.details["ended"] is True
    assert begun.subject.startswith("drift *, until 20")
    assert begun.details["ended"] is False


def test_a_long_reason_is_whole_in_json_alone(acted: str) -> None:
    reason = "because " * 100 + "of that"
    command("silence", "drift", "--reason", reason, "--days", "2")
    listed = command("audit")
    assert "because ..." in listed
    assert listed.count("because") < 10
    assert json.loads(command("audit", "--json").splitlines()[0])["why"] == reason


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
