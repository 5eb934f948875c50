"""Every command has a role that it needs, and asks for it before anything happens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from nightshift.cli import access
from nightshift.cli.main import app
from nightshift.cli.reference import _walk
from nightshift.lake import audit
from nightshift.settings import Role, settings

# What commands are given here: enough that nothing but the role can refuse them.
ARGUMENTS: dict[str, Sequence[str]] = {
    "airflow": ["db", "reset"],
    "dbt": ["build"],
    "label import": ["labels.csv", "--by", "eve"],
    "new-usecase": [
        *("--name", "mine", "--title", "Mine", "--entity", "id", "--event-time", "at", "--label", "y"),
        *("--numeric", "a", "--categorical", "b"),
        *("--label-days", "1", "--timezone", "UTC", "--history-start", "2024-01-01", "--owner", "eve"),
    ],
    "quarantine fix": ["raw_weather", "2013-07-01", "--reason", "x", "--row", "1", "--set", "a=1"],
    "quarantine replay": ["raw_weather", "2013-07-01"],
    "restore": ["features", "2013-07-01", "--version", "1"],
    "retrain": ["--reason", "x"],
    "rollback": ["1", "--yes", "--reason", "x"],
    "silence": ["drift", "--reason", "x", "--days", "1"],
    "stack prepare-storage": ["nightshift"],
    "stack run": ["true"],
    "stale --rebuild": [],
}


def commands() -> Iterator[str]:
    """Every command that can be typed, without ``nightshift``; and what an option makes of one."""
    root: Any = typer.main.get_command(app)
    for name, _ in _walk("", root):
        yield name.strip()
    yield from (
        name for name, command in root.commands.items() if getattr(command, "invoke_without_command", False)
    )
    yield "stale --rebuild"


ALL = sorted(set(commands()))
WRITING = [name for name in ALL if access.NEEDS.get(name, "admin") != "reader"]


def test_every_command_has_declared_its_role_and_none_is_declared_that_is_not_there() -> None:
    assert sorted(access.NEEDS) == ALL
    assert len(ALL) > 40
    assert set(access.NEEDS.values()) == set(get_args(Role))


@pytest.fixture
def act_as(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def act(role: str) -> None:
        monkeypatch.setenv("NIGHTSHIFT_ROLE", role)
        settings.cache_clear()

    return act


def below(role: Role) -> list[str]:
    ladder = get_args(Role)
    return list(ladder[: ladder.index(role)])


@pytest.mark.parametrize("command", WRITING)
def test_whoever_has_less_is_refused_before_anything_happens(
    act_as: Any, home: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("a command was run"))
    before = sorted(tmp_path.rglob("*"))
    needed = access.NEEDS[command]
    for role in below(needed):
        act_as(role)
        result = CliRunner().invoke(app, [*command.split(), *ARGUMENTS.get(command, [])])
        assert result.exit_code == 1, result.output
        assert f"error: the role {role} may not use `nightshift {command}`" in result.stderr
        assert f"needs the role {needed}" in result.stderr
        assert "cure:" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["status", "audit", "audit verify", "stale", "registry list", "alerts"])
def test_a_reader_looks_at_everything(act_as: Any, command: str) -> None:
    act_as("reader")
    result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_help_is_for_everybody(act_as: Any) -> None:
    act_as("reader")
    assert CliRunner().invoke(app, ["rollback", "--help"]).exit_code == 0


def test_what_declares_no_role_is_for_admins(act_as: Any) -> None:
    act_as("approver")
    with pytest.raises(Exception, match="needs the role admin"):
        access.require("something new")
    act_as("admin")
    access.require("something new")


@pytest.mark.parametrize("role", ["root", " "])
def test_a_role_that_is_none_is_refused(act_as: Any, role: str) -> None:
    act_as(role)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 1
    assert "cannot use NIGHTSHIFT_ROLE" in result.stderr
    for known in get_args(Role):
        assert known in result.stderr


def test_an_empty_role_is_the_default(act_as: Any) -> None:
    act_as("")
    assert settings().role == "admin"


@pytest.mark.parametrize("command", ["quarantine fix", "restore", "retrain", "rollback", "silence"])
@pytest.mark.parametrize("reason", ["", "  "])
def test_a_reason_that_says_nothing_is_refused(act_as: Any, command: str, reason: str) -> None:
    act_as("admin")
    given = [argument for argument in ARGUMENTS[command] if argument not in ("--reason", "x")]
    result = CliRunner().invoke(app, [*command.split(), *given, "--reason", reason])
    assert result.exit_code == 2
    assert "say why" in result.stderr
    assert audit.read() == []
