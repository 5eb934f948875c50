"""What a night says in a sentence: the signals in its records, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from nightshift.monitoring.pages.records import (
    DRIFT,
    OBSERVED,
    SLICES,
    Records,
    Row,
)

Level = Literal["quiet", "watch", "act"]

SIGNS: dict[Level, str] = {"quiet": "&#10003;", "watch": "&#9650;", "act": "&#9632;"}
"""A shape for each level, so that colour is never the only sign."""

_ORDER: tuple[Level, ...] = ("quiet", "watch", "act")
_OF_SEVERITY: dict[str, Level] = {"info": "quiet", "warning": "watch", "critical": "act"}
_NAMED = 3


@dataclass(frozen=True)
class Signal:
    """One thing that a night says, and how much it asks for; ``block``: the id of its block on the page."""

    level: Level
    text: str
    block: str


def signals(records: Records, day: date) -> list[Signal]:
    """Return what the night of ``day`` says, the most urgent first."""
    found = [
        *_drift(records, day),
        *_predictions(records, day),
        *_quality(records, day),
        *_alerts(records, day),
        *_request(records, day),
    ]
    return sorted(found, key=lambda signal: -_ORDER.index(signal.level))


def level_of(found: Sequence[Signal], block: str | None = None) -> Level:
    """Return the most urgent level among signals, or among those of one block."""
    levels = [signal.level for signal in found if block in (None, signal.block)]
    return max(levels, key=_ORDER.index, default="quiet")


def level_of_alert(alert: Row) -> Level:
    """Return how much an alert asks for: nothing while it is silenced."""
    return "quiet" if alert.get("silenced") else _OF_SEVERITY.get(severity_of(alert), "watch")


def severity_of(alert: Row) -> str:
    """Return the severity of an alert."""
    return str(alert["severity"])


def reasons_of(request: Row) -> list[str]:
    """Return why a request was made, in sentences."""
    evidence = request.get("evidence")
    if isinstance(evidence, list):
        return [str(item.get("message", "")) for item in evidence]
    return [str(reason) for reason in request.get("reasons") or ()]


def findings_of(drift: Row) -> list[dict[str, Any]]:
    """Return what was found beside drift: outages, missing values, new categories, volume, lateness."""
    findings = drift.get("findings")
    return [item for item in findings if isinstance(item, dict)] if isinstance(findings, list) else []


def named(columns: Sequence[str]) -> str:
    """Return the first of some columns in words, and how many more there are."""
    more = len(columns) - _NAMED
    return ", ".join(columns[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _drift(records: Records, day: date) -> Iterator[Signal]:
    drift = records.row(DRIFT, day)
    verdict, columns = drift.get("verdict"), drift.get("columns") or []
    findings = findings_of(drift)
    if verdict == "drift":
        yield Signal("act", f"the input has drifted: {named(columns) or 'see below'}", "input")
    elif drift.get("note"):
        yield Signal("watch", str(drift["note"]), "input")
    elif verdict == "watch":
        about = named(columns) or named(
            [str(item.get("column", "")) for item in findings if item.get("column")]
        )
        if about or not findings:  # else the findings themselves follow
            yield Signal("watch", f"look at {about or 'the input'}", "input")
    elif not drift and day in records.predicted:
        yield Signal("watch", "the input was not checked for drift", "input")
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        yield Signal("watch", f"{findings[0].get('message', 'a finding')}{more}", "input")


def _predictions(records: Records, day: date) -> Iterator[Signal]:
    if day not in records.predicted:
        yield Signal("act", "there are no predictions", "predictions")


def _quality(records: Records, day: date) -> Iterator[Signal]:
    due = day - timedelta(days=records.uc.label.lag_days)
    if due in records.predicted and not records.row(OBSERVED, due):
        yield Signal("watch", f"the truth about {due} has not arrived", "quality")
    worse = [row for row in records.rows(SLICES, due) if row.get("verdict") == "worse"]
    if worse:
        names = list(dict.fromkeys(f"{row['slice']} {row['value']}" for row in worse))
        yield Signal("watch", f"worse than on the holdout: {named(names)}", "quality")


def _alerts(records: Records, day: date) -> Iterator[Signal]:
    for alert in records.alerts_of(day):
        yield Signal(level_of_alert(alert), str(alert.get("message", alert.get("kind", ""))), "alerts")


def _request(records: Records, day: date) -> Iterator[Signal]:
    request = records.request_of(day)
    if request is not None:
        level: Level = "watch" if request["state"] == "failed" else "quiet"
        yield Signal(level, f"a new model was asked for, {request['state']}", "request")
