"""Alerts are recorded once, told to the right people once, and lost by no failure on the way."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests import forked

from nightshift import stages
from nightshift.errors import DataError
from nightshift.lake.append_log import append, read_log
from nightshift.monitoring import alerting
from nightshift.monitoring.alerting import deliver, raise_alert, read_alerts, silence, silences
from nightshift.settings import settings
from nightshift.usecase import AlertRules, Notifier, UseCase

forked.preload("nightshift.monitoring.alerting")

NOW = datetime(2013, 7, 3, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
MAIL = {"kind": "email", "connection": "mail", "to": ["team@example.com"]}
PAGER = {"kind": "slack", "connection": "pager"}

Sent = list[tuple[str, str]]


def routed(usecase: UseCase, *routes: dict[str, Any]) -> UseCase:
    rules = {"notifiers": {"mail": MAIL, "pager": PAGER}, "routes": routes}
    return usecase.model_copy(update={"alerts": AlertRules.model_validate(rules)})


@pytest.fixture
def uc(home: Path, flight_delays: UseCase) -> UseCase:
    return routed(flight_delays, {"to": ["mail"]})


def into(sent: Sent) -> Callable[[Notifier, alerting.Alert], None]:
    return lambda notifier, alert: sent.append((notifier.connection or notifier.kind, alert.subject))


def refuse(notifier: Notifier, alert: alerting.Alert) -> None:
    raise ConnectionRefusedError("nobody listens")


def test_the_same_alert_counts_up_and_is_told_once_until_its_window_is_over(uc: UseCase) -> None:
    sent: Sent = []
    for hour in range(25):
        raise_alert(uc.name, "night_late", "2013-07-02", f"late for {hour} hours", now=NOW + hour * HOUR)
        deliver(uc, into(sent), NOW + hour * HOUR)
    raise_alert(uc.name, "night_late", "2013-07-03", "another night", now=NOW + 25 * HOUR)
    raise_alert(uc.name, "night_stuck", "2013-07-03", "another kind", now=NOW + 25 * HOUR)
    deliver(uc, into(sent), NOW + 25 * HOUR)

    assert [subject for _, subject in sent] == ["2013-07-02"] * 2 + ["2013-07-03"] * 2
    *_, again, first = read_alerts(uc.name)
    assert (first.count, first.at, first.last_at) == (24, NOW, NOW + 23 * HOUR)
    assert first.message == "late for 23 hours"
    assert (again.count, again.at) == (1, NOW + 24 * HOUR), "a day later people are reminded"


def test_what_is_raised_once_ever_stays_the_only_one(uc: UseCase) -> None:
    for day in range(3):
        raise_alert(uc.name, "quality", "version 3", "worse", once="abc", now=NOW + timedelta(days=10 * day))
    raise_alert(uc.name, "quality", "version 4", "worse", once="def", now=NOW)
    raise_alert(uc.name, "retrain", "version 3", "of another kind", once="abc", now=NOW)
    assert [(found.kind, found.subject, found.count) for found in read_alerts(uc.name)] == [
        ("retrain", "version 3", 1),
        ("quality", "version 4", 1),
        ("quality", "version 3", 1),
    ]


def test_what_is_raised_once_ever_is_told_after_a_silence(uc: UseCase) -> None:
    silence(uc.name, "quality", NOW + 5 * HOUR, reason="new gates", by="ann", now=NOW)
    sent: Sent = []
    for hour in (1, 2, 6, 7, 40):
        raise_alert(uc.name, "quality", "version 3", "worse", once="abc", now=NOW + hour * HOUR)
        deliver(uc, into(sent), NOW + hour * HOUR)
    assert sent == [("mail", "version 3")]
    assert [(found.at, found.count) for found in read_alerts(uc.name)] == [
        (NOW + 6 * HOUR, 1),
        (NOW + HOUR, 2),
    ]


def test_many_at_once_make_one_alert_and_one_message(uc: UseCase) -> None:
    sent: Sent = []
    with ThreadPoolExecutor(8) as several:
        raised = [
            several.submit(raise_alert, uc.name, "drift", "2013-07-02", "moved", now=NOW) for _ in range(16)
        ]
        assert [future.result() for future in raised] == [None] * 16
        delivered = [several.submit(deliver, uc, into(sent), NOW) for _ in range(8)]
        counts = [future.result()["sent"] for future in delivered]
    assert [found.count for found in read_alerts(uc.name)] == [16]
    assert (sent, sum(counts)) == ([("mail", "2013-07-02")], 1)


def test_routes_choose_by_severity_kind_and_owner(home: Path, flight_delays: UseCase) -> None:
    uc = routed(
        flight_delays,
        {"severity": "critical", "to": ["pager"]},
        {"severity": "warning", "kinds": ["drift", "quality"], "to": ["mail", "pager"]},
        {"owners": ["somebody-else"], "to": ["mail"]},
        {"to": ["log"]},
    )
    for kind in ("drift", "quality", "cost"):
        raise_alert(uc.name, kind, kind, "happened", now=NOW)
    sent: Sent = []
    assert deliver(uc, into(sent), NOW) == {"sent": 7, "failed": 0, "waiting": 0}
    assert sent == [
        *[("mail", "drift"), ("pager", "drift"), ("log", "drift")],
        *[("pager", "quality"), ("mail", "quality"), ("log", "quality")],
        ("log", "cost"),
    ]
    assert {found.owner for found in read_alerts(uc.name)} == {uc.owner}


def test_a_use_case_may_rate_alerts_and_name_owners_itself(
    home: Path, flight_delays: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, project = flight_delays.name, settings().project
    folder = tmp_path / "include" / "usecases" / name
    folder.mkdir(parents=True)
    for file in ("usecase.yml", "sources.yml"):
        (folder / file).write_text((project / "include" / "usecases" / name / file).read_text())
    own = "severities: {drift: critical}\n  owners: {drift: analysts}\n  window_hours: 1"
    declared = (folder / "usecase.yml").read_text()
    (folder / "usecase.yml").write_text(declared.replace("window_hours: 24", own))
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    for hours in (0, 2):
        raise_alert(name, "drift", "2013-07-02", "moved", now=NOW + hours * HOUR)
    assert [(found.severity, found.owner) for found in read_alerts(name)] == [("critical", "analysts")] * 2

    (folder / "usecase.yml").write_text("not: [readable")
    raise_alert(name, "run_failed", "check", "its files are broken", now=NOW + 3 * HOUR)
    assert read_alerts(name)[0].message == "its files are broken"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"routes": [{"to": ["nobody"]}]}, "nobody are not declared under notifiers"),
        ({"notifiers": {"mail": {"kind": "email", "connection": "mail"}}}, "the addresses of an e-mail"),
        ({"notifiers": {"pager": {"kind": "slack"}}}, "the id of an Airflow connection"),
        ({"severities": {"fire": "critical"}}, "severities.fire"),
    ],
)
def test_rules_that_would_reach_nobody_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AlertRules.model_validate(wrong)


def test_what_fails_is_recorded_and_tried_again_until_it_is_sent(uc: UseCase) -> None:
    for day in ("2013-07-01", "2013-07-02"):
        raise_alert(uc.name, "drift", day, "moved", now=NOW)
    assert deliver(uc, refuse, NOW) == {"sent": 0, "failed": 1, "waiting": 1}, "one try shows it is down"
    assert deliver(uc, refuse, NOW + HOUR) == {"sent": 0, "failed": 1, "waiting": 1}
    first = read_alerts(uc.name)[-1]
    assert alerting.deliveries(uc.name, first.number, NOW + HOUR) == [
        alerting.Delivery("mail", "due", 1, "ConnectionRefusedError: nobody listens")
    ]
    sent: Sent = []
    assert deliver(uc, into(sent), NOW + 2 * HOUR)["sent"] == 2
    assert deliver(uc, into(sent), NOW + 3 * HOUR) == {"sent": 0, "failed": 0, "waiting": 0}
    assert sent == [("mail", "2013-07-01"), ("mail", "2013-07-02")]
    assert alerting.deliveries(uc.name, first.number)[0].state == "sent"


def test_an_alert_that_is_always_refused_keeps_back_no_other(uc: UseCase) -> None:
    for day in ("2013-07-01", "2013-07-02", "2013-07-03"):
        raise_alert(uc.name, "drift", day, "moved", now=NOW)
    sent: Sent = []

    def send(notifier: Notifier, alert: alerting.Alert) -> None:
        if alert.subject == "2013-07-01":
            raise ValueError("400")
        into(sent)(notifier, alert)

    assert deliver(uc, send, NOW) == {"sent": 0, "failed": 1, "waiting": 2}
    assert deliver(uc, send, NOW + HOUR) == {"sent": 2, "failed": 1, "waiting": 0}
    raise_alert(uc.name, "drift", "2013-07-04", "moved", now=NOW + 2 * HOUR)
    assert deliver(uc, send, NOW + 2 * HOUR) == {"sent": 1, "failed": 1, "waiting": 0}
    assert [day for _, day in sent] == ["2013-07-02", "2013-07-03", "2013-07-04"]


def test_a_notifier_that_is_down_keeps_nothing_from_the_others(home: Path, flight_delays: UseCase) -> None:
    uc = routed(flight_delays, {"to": ["mail", "pager"]})
    for day in ("2013-07-01", "2013-07-02"):
        raise_alert(uc.name, "drift", day, "moved", now=NOW)
    sent: Sent = []

    def send(notifier: Notifier, alert: alerting.Alert) -> None:
        if notifier.kind == "email":
            raise TimeoutError
        into(sent)(notifier, alert)

    assert deliver(uc, send, NOW) == {"sent": 2, "failed": 1, "waiting": 1}
    assert sent == [("pager", "2013-07-01"), ("pager", "2013-07-02")]


def test_after_days_of_failures_an_alert_is_left_to_the_log(uc: UseCase) -> None:
    raise_alert(uc.name, "drift", "2013-07-01", "moved", now=NOW)
    sent: Sent = []
    assert deliver(uc, into(sent), NOW + timedelta(days=4)) == {"sent": 0, "failed": 0, "waiting": 0}
    assert sent == []
    assert len(read_alerts(uc.name)) == 1


def _send_and_die(uc: UseCase, sent: Path, at: datetime) -> None:
    def send(notifier: Notifier, alert: alerting.Alert) -> None:
        with sent.open("a") as file:
            file.write(f"{alert.subject}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    deliver(uc, send, at)


def test_a_kill_while_sending_loses_nothing_and_repeats_little(uc: UseCase, tmp_path: Path) -> None:
    raise_alert(uc.name, "drift", "2013-07-01", "moved", now=NOW)
    file, sent = tmp_path / "sent", []
    for hour in range(6):
        if hour == 0:
            process = forked.start(_send_and_die, uc, file, NOW)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert deliver(uc, into(sent), NOW + timedelta(seconds=10))["sent"] == 0, "it may still be at it"
        deliver(uc, into(sent), NOW + (hour + 1) * HOUR)
    assert file.read_text().splitlines() == ["2013-07-01"]
    assert sent == [("mail", "2013-07-01")], "tried again once, and never after"


def test_a_message_that_kills_its_sender_is_not_sent_for_ever(uc: UseCase, tmp_path: Path) -> None:
    raise_alert(uc.name, "drift", "2013-07-01", "moved", now=NOW)
    for hour in range(5):
        forked.start(_send_and_die, uc, tmp_path / "sent", NOW + hour * HOUR).join()
    assert len((tmp_path / "sent").read_text().splitlines()) == 3
    assert alerting.deliveries(uc.name, 1, NOW + 5 * HOUR)[0].state == "given up"


def test_silenced_alerts_are_recorded_and_not_sent_until_the_silence_ends_by_itself(
    uc: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    silence(uc.name, "drift", NOW + 5 * HOUR, subject="2013-07-*", reason="new gates", by="ann", now=NOW)
    sent: Sent = []
    for hour in (1, 2, 5, 6):
        now = NOW + hour * HOUR
        raise_alert(uc.name, "drift", "2013-07-02", f"moved {hour}", now=now)
        with caplog.at_level(logging.WARNING):
            deliver(uc, into(sent), now)
    raise_alert(uc.name, "data", "2013-07-02", "another kind", now=NOW + HOUR)
    raise_alert(uc.name, "drift", "2013-08-02", "another subject", now=NOW + HOUR)
    deliver(uc, into(sent), NOW + 6 * HOUR)

    assert sent == [("mail", "2013-07-02"), ("mail", "2013-07-02"), ("mail", "2013-08-02")]
    *_, told, quiet = read_alerts(uc.name)
    assert (quiet.count, quiet.silenced) == (2, "until 2013-07-03 14:00 UTC by ann: new gates")
    assert (told.count, told.silenced, told.message) == (2, "", "moved 6")
    ended = [record.message for record in caplog.records if "is over since" in record.message]
    assert len(ended) == 1, "the end of a silence is logged once"
    assert "drift (2013-07-*) by ann" in ended[0]


def test_a_silence_also_holds_back_what_was_not_sent_yet(uc: UseCase) -> None:
    raise_alert(uc.name, "drift", "2013-07-02", "moved", now=NOW)
    deliver(uc, refuse, NOW)
    silence(uc.name, "*", NOW + 3 * HOUR, reason="server moves", by="ann", now=NOW)
    sent: Sent = []
    assert deliver(uc, into(sent), NOW + HOUR) == {"sent": 0, "failed": 0, "waiting": 1}
    assert deliver(uc, into(sent), NOW + 3 * HOUR)["sent"] == 1


def test_a_later_silence_takes_the_place_of_the_same_one(uc: UseCase) -> None:
    silence(uc.name, "drift", NOW + 50 * HOUR, reason="too long", by="ann", now=NOW)
    silence(uc.name, "drift", NOW + HOUR, reason="that was a slip", by="ann", now=NOW + HOUR)
    assert [found.in_force for found in silences(uc.name, NOW + 2 * HOUR)] == [False, False]
    with pytest.raises(DataError, match="no alerts of kind 'drfit'"):
        silence(uc.name, "drfit", NOW, reason="", by="")


def test_alerts_of_before_there_were_routes_are_read_and_not_sent(uc: UseCase) -> None:
    append(f"alerts/{uc.name}", {"kind": "run_failed", "message": "as it was", "at": NOW.isoformat()})
    sent: Sent = []
    deliver(uc, into(sent), NOW)
    (found,) = read_alerts(uc.name)
    assert (found.message, found.severity, found.count, sent) == ("as it was", "critical", 1, [])


def test_every_alert_leads_to_the_days_page_and_to_its_runbook(
    uc: UseCase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_alert(uc.name, "drift", "2013-07-02", "moved", now=NOW)
    (found,) = read_alerts(uc.name)
    assert found.link == str(home / "reports" / uc.name / "nightly" / "2013-07-02.html")
    assert (settings().project / found.runbook).is_file()
    monkeypatch.setenv("NIGHTSHIFT_REPORTS_URL", "https://reports.example/")
    monkeypatch.setenv("NIGHTSHIFT_DOCS_URL", "https://docs.example/")
    settings.cache_clear()
    raise_alert(uc.name, "quality", "score 2013-07-03", "worse", now=NOW)
    raise_alert(uc.name, "quality", "version 3", "worse", link="elsewhere", now=NOW)
    other, found, _ = read_alerts(uc.name)
    assert found.link == f"https://reports.example/{uc.name}/nightly/2013-07-03.html"
    assert found.runbook == "https://docs.example/runbooks/quality.md"
    assert other.link == "elsewhere"


def test_a_repetition_is_a_line_in_the_log_and_no_rewriting(uc: UseCase) -> None:
    for hour in range(40):
        raise_alert(uc.name, "night_late", "2013-07-02", "late", now=NOW + timedelta(minutes=hour))
    records = read_log(f"alerts/{uc.name}")
    assert [record.get("repeats") for record in records] == [None, *[1] * 39]
    assert read_alerts(uc.name)[0].count == 40, "also when it is further back than one reading fetches"


def test_a_night_that_is_late_or_stuck_is_alerted_about_hour_after_hour_as_one(
    usecase: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``LIVE_FROM`` a week ago, and nothing landed: the nights since are late."""
    today = datetime.now(UTC).astimezone(usecase.zone).date()
    monkeypatch.setenv("NIGHTSHIFT_LIVE_FROM", str(today - timedelta(days=2)))
    settings.cache_clear()
    for _ in range(2):
        late = stages.find_gaps(usecase, grace_minutes=90)["late"]
    found = read_alerts(usecase.name)
    assert len(late) >= 2
    assert sorted((one.kind, one.subject, one.count) for one in found) == [
        ("night_late", day, 2) for day in late
    ]
