"""Keeps alerts in the lake's append-only alert log ``alerts/<use case>``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from nightshift.lake.append_log import append, read_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """One alert."""

    at: datetime
    kind: str
    message: str


def raise_alert(
    usecase: str, kind: str, subject: str, message: str, *, link: str = "", once: str = ""
) -> None:
    """Record one alert; one with the same ``once`` is recorded a single time."""
    name = f"alerts/{usecase}"
    if once and any(record.get("once") == once for record in read_log(name)):
        return
    log.error("ALERT %s %s %s: %s", usecase, kind, subject, message)
    at = datetime.now(UTC).isoformat()
    append(name, {"kind": kind, "message": message, "at": at, "subject": subject, "link": link, "once": once})


def read_alerts(usecase: str, since: datetime | None = None) -> list[Alert]:
    """Return every alert of a use case, newest first, or those after ``since``."""
    found = [
        Alert(at=datetime.fromisoformat(record["at"]), kind=record["kind"], message=record["message"])
        for record in reversed(read_log(f"alerts/{usecase}"))
    ]
    return [alert for alert in found if since is None or alert.at >= since]
