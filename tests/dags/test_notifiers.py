"""Alerts by e-mail, Slack and webhook, to real servers on this machine, through Airflow's own connections."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import socketserver
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.servers import Hook, serving

from nightshift.monitoring import alerting
from nightshift.monitoring.alerting import deliver, raise_alert, read_alerts
from nightshift.usecase import AlertRules, UseCase

MESSAGE = "{{ 7 * 7 }} rows & <b>too many</b>"


class Mailbox(socketserver.ThreadingTCPServer):
    """As much of an SMTP server as a client needs; keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.received: list[tuple[list[str], str]] = []
        self.refusals = 0


class _Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 here")
        to: list[str] = []
        while line := self.rfile.readline().decode().strip():
            match line.split(":")[0].split(" ")[0].upper():
                case "RCPT":
                    to.append(line.split(":", 1)[1].strip("<> "))
                    self._say("250 ok")
                case "DATA" if self.server.refusals:
                    self.server.refusals -= 1
                    self._say("451 later")
                case "DATA":
                    self._say("354 go on")
                    lines = []
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text)
                    self.server.received.append((to, "\n".join(lines)))
                    self._say("250 ok")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, words: str) -> None:
        self.wfile.write(f"{words}\r\n".encode())


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with serving(Mailbox()) as server:
        yield server


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving(Hook()) as server:
        yield server


@pytest.fixture
def connect(airflow_home: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Add an Airflow connection, from where Airflow looks first."""

    def add(name: str, **values: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(values))

    return add


def connect_mail(connect: Any, mailbox: Mailbox) -> None:
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "nightshift@example.com"}
    connect("mail", conn_type="smtp", host="127.0.0.1", port=mailbox.server_address[1], extra=extra)


def tell(uc: UseCase, **notifier: Any) -> UseCase:
    rules = {"notifiers": {"it": notifier}, "routes": [{"to": ["it"]}]}
    return uc.model_copy(update={"alerts": AlertRules.model_validate(rules)})


def send_all(uc: UseCase) -> dict[str, int]:
    from nightshift.orchestration.notifiers import send

    return deliver(uc, send)


@pytest.fixture
def raised(home: Path, flight_delays: UseCase) -> UseCase:
    raise_alert(flight_delays.name, "quality", "2013-07-02", MESSAGE)
    return flight_delays


def test_an_email_says_what_happened_and_runs_nothing_of_it(
    raised: UseCase, mailbox: Mailbox, connect: Any
) -> None:
    connect_mail(connect, mailbox)
    uc = tell(raised, kind="email", connection="mail", to=["ann@example.com", "bob@example.com"])
    assert send_all(uc) == {"sent": 1, "failed": 0, "waiting": 0}
    ((to, whole),) = mailbox.received
    assert to == ["ann@example.com", "bob@example.com"]
    mail = message_from_string(whole)
    assert mail["Subject"] == "[critical] flight_delays: quality 2013-07-02"
    assert mail["From"] == "nightshift@example.com"
    (part,) = mail.get_payload()
    text = part.get_payload(decode=True).decode()
    assert "{{ 7 * 7 }} rows &amp; &lt;b&gt;too many&lt;/b&gt;" in text
    assert "docs/runbooks/quality.md" in text
    assert "nightly/2013-07-02.html" in text


def test_a_mail_server_that_says_later_is_asked_again_later_and_only_then(
    raised: UseCase, mailbox: Mailbox, connect: Any
) -> None:
    connect_mail(connect, mailbox)
    mailbox.refusals = 1
    uc = tell(raised, kind="email", connection="mail", to=["ann@example.com"])
    assert send_all(uc)["failed"] == 1
    assert mailbox.received == [], "the provider's own tries would have sent it at once"
    assert send_all(uc)["sent"] == 1
    assert send_all(uc) == {"sent": 0, "failed": 0, "waiting": 0}
    assert len(mailbox.received) == 1


def test_slack_gets_its_payload_at_the_secret_address(raised: UseCase, hook: Hook, connect: Any) -> None:
    connect("pager", conn_type="http", password=f"{hook.url}/services/T0/B0/secret")
    assert send_all(tell(raised, kind="slack", connection="pager"))["sent"] == 1
    ((path, _, body),) = hook.received
    assert path == "/services/T0/B0/secret"
    assert list(body) == ["text"]
    title, message, *_ = body["text"].splitlines()
    assert title == "[critical] flight_delays: quality 2013-07-02"
    assert message == "{{ 7 * 7 }} rows &amp; &lt;b&gt;too many&lt;/b&gt;"


def test_a_webhook_gets_the_whole_alert_and_a_token(raised: UseCase, hook: Hook, connect: Any) -> None:
    address = f"{hook.url}/alerts"
    # pragma: allowlist nextline secret
    connect("hook", conn_type="http", host=address, password="letmein")  # nosec B106  # of this test
    assert send_all(tell(raised, kind="webhook", connection="hook"))["sent"] == 1
    ((path, authorization, body),) = hook.received
    assert (path, authorization) == ("/alerts", "Bearer letmein")
    assert (body["kind"], body["message"], body["severity"]) == ("quality", MESSAGE, "critical")


def test_an_answer_of_failure_is_tried_again_and_its_address_stays_secret(
    raised: UseCase, hook: Hook, connect: Any
) -> None:
    connect("pager", conn_type="http", password=f"{hook.url}/services/secret")
    uc, number = tell(raised, kind="slack", connection="pager"), read_alerts(raised.name)[0].number
    hook.status = 500
    assert send_all(uc)["failed"] == 1
    (stands,) = alerting.deliveries(uc.name, number)
    assert stands.error == "NotDeliveredError: connection pager answered 500"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/services/secret"
    connect("pager", conn_type="http", password=nowhere)
    assert send_all(uc)["failed"] == 1
    (stands,) = alerting.deliveries(uc.name, number)
    assert "ConnectError" in stands.error
    assert "secret" not in stands.error
    connect("pager", conn_type="http", password=f"{hook.url}/services/secret")
    hook.status = 200
    assert send_all(uc)["sent"] == 1


@pytest.mark.parametrize("kind", ["slack", "email"])
def test_a_connection_that_is_missing_fails_the_message_and_nothing_else(
    raised: UseCase, airflow_home: None, kind: str
) -> None:
    to = {"to": ["ann@example.com"]} if kind == "email" else {}
    assert send_all(tell(raised, kind=kind, connection="nowhere", **to))["failed"] == 1


def test_a_server_that_never_answers_costs_its_time_and_no_more(
    raised: UseCase, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift.orchestration import notifiers

    monkeypatch.setattr(notifiers, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "nightshift@example.com"}
        connect("mail", conn_type="smtp", host="127.0.0.1", port=silent.getsockname()[1], extra=extra)
        uc = tell(raised, kind="email", connection="mail", to=["ann@example.com"])
        assert send_all(uc) == {"sent": 0, "failed": 1, "waiting": 0}
    (stands,) = alerting.deliveries(uc.name, 1)
    assert "no answer within 0.2 seconds" in stands.error
    assert stands.state == "due"


def test_the_log_is_a_notifier_too(
    raised: UseCase, airflow_home: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="nightshift.orchestration.notifiers"):
        assert send_all(raised)["sent"] == 1
    (line,) = [record for record in caplog.records if record.name == "nightshift.orchestration.notifiers"]
    assert line.levelname == "ERROR"
    assert line.message.startswith("[critical] flight_delays: quality 2013-07-02\n")


def test_callbacks_record_link_and_send_at_once_whatever_the_notifier_does(
    home: Path, flight_delays: UseCase, connect: Any, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift import usecase
    from nightshift.orchestration.alerts import deadline_missed, run_failed

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/")
    uc = tell(flight_delays, kind="webhook", connection="hook")
    monkeypatch.setattr(usecase, "load_usecase", lambda name: uc)
    # By hand, the night is a parameter.
    run = SimpleNamespace(
        dag_id=f"{uc.name}.score", partition_key=None, conf={"partition": "2013-07-01"}, run_id="manual__1+2"
    )
    run_failed({"dag_run": run})
    assert hook.received == []
    (failed,) = read_alerts(uc.name)
    assert (failed.kind, failed.subject) == ("run_failed", "score 2013-07-01")
    assert failed.link == f"https://airflow.example/dags/{uc.name}.score/runs/manual__1%2B2"

    connect("hook", conn_type="http", host=hook.url)
    late = {"dag_id": f"{uc.name}.score", "dag_run_id": "r2", "partition_key": "2013-07-02"}
    for _ in range(2):
        asyncio.run(deadline_missed(uc.name, {"dag_run": late}))
    assert [body["subject"] for _, _, body in hook.received] == ["score 2013-07-02", "score 2013-07-01"]
    assert read_alerts(uc.name)[0].count == 2


@pytest.fixture
def hooked(
    home: Path, flight_delays: UseCase, connect: Any, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> Hook:
    """A webhook to which every alert of the use case goes."""
    from nightshift import usecase
    from nightshift.orchestration import tasks

    uc = tell(flight_delays, kind="webhook", connection="hook")
    for module in (usecase, tasks):
        monkeypatch.setattr(module, "load_usecase", lambda name: uc)
    connect("hook", conn_type="http", host=hook.url)
    return hook


def test_a_dag_without_partitions_that_fails_every_hour_is_one_alert(
    hooked: Hook, flight_delays: UseCase
) -> None:
    from nightshift.orchestration.alerts import run_failed

    for hour in range(3):
        run = SimpleNamespace(
            dag_id=f"{flight_delays.name}.watch", partition_key=None, conf={}, run_id=f"scheduled__{hour}"
        )
        run_failed({"dag_run": run})
    (failed,) = read_alerts(flight_delays.name)
    assert (failed.subject, failed.count) == ("watch", 3)
    assert [body["subject"] for _, _, body in hooked.received] == ["watch"]


def test_a_page_that_was_not_written_is_told_though_its_run_ends_well(
    hooked: Hook, flight_delays: UseCase, dagbag: Any
) -> None:
    dag = dagbag.dags[f"{flight_delays.name}.monitor"]
    run = SimpleNamespace(dag_id=dag.dag_id, partition_key="2013-07-01", run_id="r1")
    for callback in dag.get_task("write_report").on_failure_callback:
        callback({"dag_run": run, "params": {}, "exception": OSError("the disk is full")})
    ((_, _, body),) = hooked.received
    assert (body["kind"], body["subject"]) == ("run_failed", "report 2013-07-01")
    assert "the disk is full" in body["message"]


@pytest.mark.parametrize(
    ("task", "stage", "kind"),
    [("account", "account", "cost"), ("request_retrain", "decide_retrain", "retrain")],
)
def test_what_is_raised_beside_send_alerts_waits_for_no_hour(
    hooked: Hook,
    flight_delays: UseCase,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    stage: str,
    kind: Any,
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from nightshift import stages
    from nightshift.orchestration import tasks

    monkeypatch.setattr(tasks, "night", lambda: date(2013, 7, 1))
    monkeypatch.setattr(stages, stage, lambda uc, night: raise_alert(uc.name, kind, str(night), MESSAGE))
    with suppress(AirflowSkipException):
        getattr(tasks, task).function(flight_delays.name)
    assert [(body["kind"], body["subject"]) for _, _, body in hooked.received] == [(kind, "2013-07-01")]


def test_alerts_are_sent_also_after_a_task_that_failed_and_hide_no_failure(dagbag: Any) -> None:
    found = 0
    for name in ("monitor", "watch"):
        dag = dagbag.dags[f"flight_delays.{name}"]
        task = dag.get_task("send_alerts")
        assert task.trigger_rule == "all_done"
        assert task.upstream_task_ids
        assert not task.downstream_task_ids
        for before in task.upstream_task_ids:
            others = {dag.get_task(after) for after in dag.get_task(before).downstream_task_ids} - {task}
            assert others, f"{dag.dag_id}: a run whose {before} failed would end well"
            # One of them is skipped, and with it the run is not well, where what is before it fails.
            assert any(other.trigger_rule == "all_success" and not other.is_teardown for other in others)
            found += 1
    assert found == 3
