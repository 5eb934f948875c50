"""Alerts as the lake keeps them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from nightshift.lake.append_log import append, read_log

log = logging.getLogger(__name__)


def raise_alert(
    usecase: str, kind: str, subject: str, message: str, *, link: str = "", once: str = ""
) -> None:
    """Record one alert; ``once`` names what is alerted about a single time."""
    name = f"alerts/{usecase}"
    if once and any(record.get("once") == once for record in read_log(name)):
        return
    log.error("ALERT %s %s %s: %s", usecase, kind, subject, message)
    record = {"kind": kind, "subject": subject, "message": message, "at": datetime.now(UTC).isoformat()}
    append(name, record | ({"link": link} if link else {}) | ({"once": once} if once else {}))
