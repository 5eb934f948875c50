"""Keeps alerts in the lake's append-only alert log; ``nightshift alerts`` reads them from there."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from nightshift.lake.append_log import append, read_log

log = logging.getLogger(__name__)


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
