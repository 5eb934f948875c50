"""What the pages rest on, read once for a range of days: tables, alerts, requests, deployments.

Nothing is required: a layer nobody has published to has no rows, a log that does not exist no entries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from nightshift.lake import append_log, tables
from nightshift.monitoring.alerting import read_alerts
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

Row = Mapping[str, Any]

_DAY = re.compile(r"(?<![\w-])[0-9]{4}-[0-9]{2}-[0-9]{2}(?![\w-])")
_NEVER = datetime.max.replace(tzinfo=UTC)

DRIFT = "monitoring"
PREDICTIONS = "monitoring_predictions"
PERFORMANCE = "monitoring_performance"
OBSERVED = "monitoring_observed"
RESTATED = "monitoring_restated"
SLICES = "monitoring_slices"
WINDOWS = "monitoring_windows"
ESTIMATES = "monitoring_estimates"
SHADOW = "monitoring_shadow"
RESOURCES = "monitoring_resources"
COSTS = "monitoring_costs"
LAYERS = (
    DRIFT,
    PREDICTIONS,
    PERFORMANCE,
    OBSERVED,
    RESTATED,
    SLICES,
    WINDOWS,
    ESTIMATES,
    SHADOW,
    RESOURCES,
    COSTS,
)


@dataclass(frozen=True)
class Records:
    """Everything recorded about some days.

    Attributes:
        uc: The use case.
        layers: By layer and day, the rows of its partition; days without any are left out.
        predicted: Rows of the predictions of each day that has some.
        alerts: The alerts raised since the first of the days began, oldest first, as ``Alert.as_json``.
        requests: Every request for a new model, oldest first: its record, and ``state`` and ``outcome``.
        deployed: ``deployments.history``.
    """

    uc: UseCase
    layers: Mapping[str, Mapping[date, Sequence[Row]]]
    predicted: Mapping[date, int]
    alerts: Sequence[Row]
    requests: Sequence[Row]
    deployed: Sequence[Deployment]

    def rows(self, layer: str, day: date) -> Sequence[Row]:
        """Return the rows of a layer on one day."""
        return self.layers.get(layer, {}).get(day, ())

    def row(self, layer: str, day: date) -> Row:
        """Return the one row that a layer has a day; an empty one where there is none."""
        return next(iter(self.rows(layer, day)), {})

    def champion(self, day: date) -> Deployment | None:
        """Return the deployment in force on ``day``."""
        return deployments.champion_at(self.uc, day, self.deployed)

    def alerts_of(self, day: date) -> list[Row]:
        """Return the alerts that name ``day``, and those that were raised while its night was the newest."""
        start, end = self.uc.as_of(day), self.uc.as_of(day + timedelta(days=1))
        return [alert for alert in self.alerts if _names(alert, day) or _raised(alert, start, end)]

    def alerts_since(self, day: date, landed_at: datetime) -> list[Row]:
        """Return the alerts that ask for somebody now: about ``day``, a later one, or none in particular.

        Args:
            day: The newest night.
            landed_at: When its data landed: what was raised before about no day is of an earlier night.
        """
        return [
            alert
            for alert in self.alerts
            if ((newest := _newest_named(alert)) and newest >= day.isoformat())
            or (not newest and _raised(alert, landed_at, _NEVER))
        ]

    def request_of(self, day: date) -> Row | None:
        """Return the request of the night of ``day``, the newest where people asked again."""
        of_night = (entry for entry in reversed(self.requests) if entry.get("night") == day.isoformat())
        return next(of_night, None)


def read(uc: UseCase, start: date, end: date, layers: Sequence[str] = LAYERS) -> Records:
    """Read what is recorded about ``start`` to ``end``; costs what these days hold, whatever the history.

    Args:
        uc: The use case.
        start: First day.
        end: Last day, included.
        layers: Of ``LAYERS``, those that are needed; the others appear empty.
    """
    there = set(tables.layers(uc))
    return Records(
        uc=uc,
        layers={layer: _by_day(uc, layer, start, end) for layer in layers if layer in there},
        predicted={
            day: version.rows
            for day, version in tables.partition_versions(uc, "predictions").items()
            if start <= day <= end
        },
        # An alert is about a day that has begun.
        alerts=[alert.as_json() for alert in reversed(read_alerts(uc.name, uc.as_of(start)))],
        requests=requests_of(uc),
        deployed=deployments.history(uc),
    )


def past(day: date, number: int) -> list[date]:
    """Return ``number`` days up to and including ``day``, oldest first."""
    return list(days(day - timedelta(days=number - 1), day))


def parsed(value: Any) -> Any:
    """Return what a column that holds JSON text says; any other value as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _by_day(uc: UseCase, layer: str, start: date, end: date) -> dict[date, list[Row]]:
    found: dict[date, list[Row]] = {}
    for row in tables.read_partitions(uc, layer, start, end).to_pylist():
        day = row.pop("partition")
        found.setdefault(day, []).append({name: parsed(value) for name, value in row.items()})
    return found


def requests_of(uc: UseCase) -> list[Row]:
    """Return the log's requests, each with what became of it so far, oldest first."""
    began = {record["request"] for record in append_log.read_log(f"retrain_trainings/{uc.name}")}
    outcomes: dict[str, Row] = {}
    for record in append_log.read_log(f"retrain_outcomes/{uc.name}"):
        outcomes.setdefault(record["request"], record)
    found: dict[str, Row] = {}
    for record in append_log.read_log(f"retrain_requests/{uc.name}"):
        name = str(record.get("id", record["night"]))
        outcome = outcomes.get(name)
        state = outcome["kind"] if outcome else "training" if name in began else "requested"
        found.setdefault(name, {**record, "state": state, "outcome": outcome})
    return list(found.values())


def _names(alert: Row, day: date) -> bool:
    return day.isoformat() in _words(alert)


def _newest_named(alert: Row) -> str:
    """Return the newest day that an alert names, ``YYYY-MM-DD``; "" for none. Ids of runs hold other days."""
    return max(_DAY.findall(_words(alert)), default="")


def _words(alert: Row) -> str:
    return f"{alert.get('subject', '')} {alert.get('message', '')}"


def _raised(alert: Row, start: datetime, end: datetime) -> bool:
    at = alert.get("at")
    return isinstance(at, str) and start <= datetime.fromisoformat(at) < end
