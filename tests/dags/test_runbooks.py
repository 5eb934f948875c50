"""Whoever is woken by an alert finds its page, and can run what the page says."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import click
import pytest
import typer

from nightshift.cli.main import app
from nightshift.monitoring.alerting import KINDS
from nightshift.settings import settings

FOLDER = settings().project / "docs" / "runbooks"
PAGES = [*sorted(FOLDER.glob("*.md")), FOLDER.parent / "alerts.md"]
HEADINGS = ["What it means", "How to look", "What to do"]


def commands(text: str) -> list[list[str]]:
    """Return every ``nightshift`` command of a page, its placeholders filled in."""
    fenced = re.findall(r"^ *(nightshift .*)$", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)), re.M)
    inline = re.findall(r"(?<!`)`(nightshift [^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S))
    filled = {"DAY": "2013-07-03", "UC": "flight_delays"}
    lines = [re.sub(r"\b(DAY|UC)\b", lambda found: filled[found[0]], line) for line in (*fenced, *inline)]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_kind_of_alert_has_its_page_and_no_page_is_left_over() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == {*KINDS, "README"}
    index = (FOLDER / "README.md").read_text()
    for kind, known in KINDS.items():
        page = (FOLDER / f"{kind}.md").read_text()
        assert page.startswith(f"# {kind}\n")
        assert re.findall(r"^## (.*)$", page, re.M) == HEADINGS, kind
        assert f"| [{kind}]({kind}.md) | {known.severity} |" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_can_be_run_as_it_stands(page: Any, dagbag: Any) -> None:
    from airflow.cli.cli_parser import get_parser

    text = page.read_text()
    found = commands(text)
    assert found or page.stem == "README"
    for name, *arguments in found:
        if name == "airflow":
            parsed = get_parser().parse_args(arguments)
            dag_id = getattr(parsed, "dag_id", None)
            assert dag_id is None or dag_id in dagbag.dags, arguments
            if conf := getattr(parsed, "conf", None):
                assert json.loads(conf).keys() <= dagbag.dags[dag_id].params.keys(), arguments
            continue
        command: click.Command = typer.main.get_command(app)
        rest = [name, *arguments]
        while isinstance(command, click.Group):
            assert rest[0] in command.commands, rest
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(name, rest)
    named = set(re.findall(r"\bUC\.(\w+)", text))
    assert {f"flight_delays.{name}" for name in named} <= set(dagbag.dags)
