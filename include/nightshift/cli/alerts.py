"""Alerts and silences on the command line; no service is needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import typer

from nightshift.cli.output import console, print_alerts
from nightshift.errors import DataError
from nightshift.monitoring import alerting
from nightshift.usecase import UseCase

# Where an alert stands with its notifiers is looked up for this many: each is a log of its own.
_NEWEST = 50


def print_all(uc: UseCase, *, as_json: bool) -> None:
    """Print every alert of a use case, newest first; of the newest, where each was sent."""
    found = [alert.as_json() for alert in alerting.read_alerts(uc.name)]
    for alert in found[:_NEWEST]:
        alert["deliveries"] = [asdict(one) for one in alerting.deliveries(uc.name, alert["number"])]
    if as_json:
        for alert in found:
            typer.echo(json.dumps(alert))
    elif found:
        print_alerts(found)
    else:
        console.print(f"{uc.name}: no alerts")


def begin_silence(
    uc: UseCase, kind: str, subject: str, until: str | None, days: float | None, reason: str, by: str
) -> None:
    """Begin a silence and say until when it holds.

    Raises:
        DataError: There is no such kind, or the moment cannot be read.
    """
    end = _moment(until) if until else datetime.now(UTC) + timedelta(days=days or 0)
    alerting.silence(uc.name, kind, end, reason=reason, by=by, subject=subject)
    what = f"{uc.name}: alerts of kind {kind}, about {subject},"
    if end > datetime.now(UTC):
        console.print(f"{what} are recorded and not sent until {end:%Y-%m-%d %H:%M} UTC", markup=False)
    else:
        console.print(f"{what} are sent again", markup=False)


def print_silences(uc: UseCase, *, as_json: bool) -> None:
    """Print every silence of a use case, oldest first."""
    found = alerting.silences(uc.name)
    for silence in found:
        if as_json:
            typer.echo(json.dumps({"usecase": uc.name, **silence.as_json()}))
            continue
        state = "in force" if silence.in_force else "over"
        console.print(
            f"{silence.since:%Y-%m-%d %H:%M} to {silence.until:%Y-%m-%d %H:%M} UTC  {state:<8}  "
            f"{silence.kind} ({silence.subject}) by {silence.by}: {silence.reason}",
            markup=False,
        )
    if not found and not as_json:
        console.print(f"{uc.name}: no silences")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"{text!r} is no moment",
            rule="a silence ends at a day or a time of ISO 8601, in UTC",
            where="--until",
            cure="write it as 2013-07-03 or 2013-07-03T12:00",
        ) from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
