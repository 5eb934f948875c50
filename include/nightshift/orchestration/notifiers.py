"""Airflow notifiers for alerts: the log, e-mail, Slack, and any other webhook.

Each finds the alert as ``alert`` in its context (the values of ``Alert.as_json``, and its ``title``), and
all of it in words as ``text``. Where servers are, and how they let one in, is in Airflow connections:

- e-mail: an ``smtp`` connection, as Airflow's own SMTP provider reads it;
- Slack: a connection whose password is the webhook's whole URL, for that URL is the secret;
- webhook: the same; or the URL as host, and a token as password, sent as ``Authorization: Bearer``.
"""

from __future__ import annotations

import html
import logging
import threading
from contextvars import copy_context
from functools import cached_property
from typing import Any

import httpx
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseHook, BaseNotifier

from nightshift.monitoring.alerting import Alert
from nightshift.usecase import Notifier, Severity

_SECONDS = 20
"""No notifier may take longer; servers that hang do so between bytes, where no timeout of a socket counts."""

_LEVELS: dict[Severity, int] = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


class NotDeliveredError(Exception):
    """The message did not arrive, as far as is known."""


def send(notifier: Notifier, alert: Alert) -> None:
    """Send one alert by one notifier, within ``_SECONDS``; raises whatever goes wrong."""
    built = _build(notifier)
    details = {**alert.as_json(), "title": alert.title}
    values = {"alert": details, "text": text(details)}
    context = copy_context()
    errors: list[Exception] = []

    def work() -> None:
        try:
            context.run(built, values)
        except Exception as error:
            errors.append(error)

    # A thread that still waits for its server must not keep the process from ending.
    worker = threading.Thread(target=work, daemon=True, name="notifier")
    worker.start()
    worker.join(_SECONDS)
    if worker.is_alive():
        raise NotDeliveredError(f"no answer within {_SECONDS} seconds")
    if errors:
        raise errors[0]


def text(alert: dict[str, Any]) -> str:
    """Return an alert as lines of text."""
    lines = [alert["title"], alert["message"]]
    if alert["count"] > 1:
        lines.append(f"raised {alert['count']} times since {alert['at']}")
    lines.append(f"cure: {alert['cure']}")
    lines += [f"{name}: {alert[name]}" for name in ("link", "runbook", "owner") if alert[name]]
    return "\n".join(lines)


class LogNotifier(BaseNotifier):
    """Writes an alert to the log of the process that sends."""

    def notify(self, context: Any) -> None:
        """Write it, as loud as it is severe."""
        logging.getLogger(__name__).log(_LEVELS[context["alert"]["severity"]], "%s", context["text"])


class WebhookNotifier(BaseNotifier):
    """Posts an alert as JSON."""

    template_fields = ("connection",)

    def __init__(self, connection: str) -> None:
        super().__init__()
        self.connection = connection

    def notify(self, context: Any) -> None:
        """Post it; anything but an answer of success is an error, in words that do not hold the URL."""
        connection = BaseHook.get_connection(self.connection)
        password = connection.password or ""
        secret = password.startswith(("http://", "https://"))
        url = password if secret else connection.host or ""
        headers = {"Authorization": f"Bearer {password}"} if password and not secret else {}
        try:
            answer = httpx.post(url, json=self.payload(context), headers=headers, timeout=10)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{type(error).__name__} {error}".replace(url, "its URL") if url else "it has no URL"
            raise NotDeliveredError(f"connection {self.connection}: {reason}") from None
        if not answer.is_success:
            raise NotDeliveredError(f"connection {self.connection} answered {answer.status_code}")

    def payload(self, context: Any) -> dict[str, Any]:
        """Return what is posted."""
        return {**context["alert"], "text": context["text"]}


class SlackNotifier(WebhookNotifier):
    """Posts an alert to an incoming webhook of Slack, or of anything that speaks like it."""

    def payload(self, context: Any) -> dict[str, Any]:
        """Return what Slack takes, where three characters have a meaning of their own."""
        return {"text": html.escape(context["text"], quote=False)}


class EmailNotifier(SmtpNotifier):
    """Airflow's own notifier, but with one try: by itself it sends again up to five times at once."""

    @cached_property
    def hook(self) -> SmtpHook:
        """The provider's hook."""
        return _OneTry(smtp_conn_id=self.smtp_conn_id, auth_type=self.auth_type)


class _OneTry(SmtpHook):
    smtp_retry_limit = 0


def _build(notifier: Notifier) -> BaseNotifier:
    match notifier.kind:
        case "log":
            return LogNotifier()
        case "slack":
            return SlackNotifier(notifier.connection)
        case "webhook":
            return WebhookNotifier(notifier.connection)
        case "email":
            # What an alert says is filled in by the template, and is none itself.
            return EmailNotifier(
                smtp_conn_id=notifier.connection,
                to=list(notifier.to),
                subject="{{ alert.title }}",
                html_content="<pre>{{ text | e }}</pre>",
            )
