"""Finds nights that stopped halfway, from what is in the lake alone.

An asset event that was sent while its consumer was paused is lost, and a run that failed leaves
nothing downstream; either way a partition is there upstream and missing downstream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from nightshift.lake import append_log, raw, tables
from nightshift.monitoring import requests
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.settings import settings
from nightshift.usecase import UseCase

# Older nights are left alone: a search must cost the same in the tenth year as in the first.
_HORIZON = timedelta(days=60)
_SENT_A_DAY = 3


@dataclass(frozen=True)
class Gaps:
    """What is missing.

    Attributes:
        again: By asset (``raw``, ``features``): days whose key is to be sent again. A night that lacks only
            its monitoring is scored again too: that changes nothing but what applications may have missed.
            ``retrain_request``: nights of requests that no training has taken up.
        late: Live nights past their SLA that have no predictions.
    """

    again: dict[str, list[date]]
    late: list[date]


def find_gaps(uc: UseCase, *, grace: timedelta, now: datetime | None = None) -> Gaps:
    """Find the gaps of the nights since the first champion, at most 60 days back.

    Args:
        grace: A night that was landed less than this long ago may still be on its way.
        now: The moment (UTC) to judge by.
    """
    now = now or datetime.now(UTC)
    again: dict[str, list[date]] = {"raw": [], "features": []}
    again["retrain_request"] = requests.unsent(uc, grace=grace, now=now)
    in_force = [deployment.effective_from for deployment in deployments.history(uc)]
    if not in_force:
        return Gaps(again, [])
    landed = _landed(uc, min(in_force))
    present = {
        layer: tables.partition_versions(uc, layer) for layer in ("features", "predictions", "monitoring")
    }
    for night, at in sorted(landed.items()):
        if now - at < grace:
            continue
        if night not in present["features"]:
            again["raw"].append(night)
        elif night not in present["predictions"] or night not in present["monitoring"]:
            again["features"].append(night)
    return Gaps(again, _late(uc, now, set(present["predictions"])))


def claim(uc: UseCase, asset: str, nights: Sequence[date], *, now: datetime | None = None) -> list[date]:
    """Return those of ``nights`` that may be sent again, and count that they were.

    A night that still stops after three times in a day needs a person first, and not a fourth time; what is
    sent to a paused DAG is lost, so the next day is tried again.
    """
    now = now or datetime.now(UTC)
    log = f"sent_again/{uc.name}/{asset}/{now.date()}"
    sent = Counter(night for record in append_log.read_log(log) for night in record["nights"])
    claimed = [night for night in nights if sent[night.isoformat()] < _SENT_A_DAY]
    if claimed:
        append_log.append(log, {"nights": [night.isoformat() for night in claimed]})
    return claimed


def _landed(uc: UseCase, since: date) -> dict[date, datetime]:
    """Return each night whose every daily table has landed, with the time the last one did."""
    landed: dict[date, datetime] = {}
    nights: set[date] | None = None
    for source, name, table in uc.tables():
        if table.refresh != "daily":
            continue
        lag = timedelta(days=table.lag_days)
        manifests = raw.current_many(uc, source, name, start=since - lag)
        arrived = {
            day + lag: manifest.extracted_at
            for day, manifest in manifests.items()
            if manifest.as_of >= uc.as_of(day + lag)
        }
        nights = set(arrived) if nights is None else nights & set(arrived)
        for night, at in arrived.items():
            landed[night] = max(at, landed.get(night, at))
    newest = max(nights, default=since) if nights else since
    return {
        night: at for night, at in landed.items() if night in (nights or ()) and newest - night <= _HORIZON
    }


def _late(uc: UseCase, now: datetime, predicted: set[date]) -> list[date]:
    """Return the live nights of the last week that should have been predicted by ``now`` and are not."""
    today = now.astimezone(uc.zone).date()
    sla = timedelta(minutes=uc.schedule.sla_minutes)
    first = max(settings().live_from, today - timedelta(days=7))
    return [day for day in days(first, today) if now > uc.as_of(day) + sla and day not in predicted]
