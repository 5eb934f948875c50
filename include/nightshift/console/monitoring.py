"""The monitoring page: quality before and after the truth, what drifted when, alerts, requests and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from nightshift.console.tonight import Alert, alert_of
from nightshift.console.views import Figure, View, require_range
from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.monitoring.drift import DriftResult, results
from nightshift.monitoring.pages import records as recorded
from nightshift.monitoring.pages.records import Records, Row
from nightshift.partition import days
from nightshift.registry import deployments, models
from nightshift.usecase import UseCase

MOST_DAYS = 92
"""Days that are shown at once."""

MOST_COLUMNS = 40
"""Columns of the heat map: those that moved furthest beyond their limits."""

_BINS = 24


class Judged(View):
    """The primary metric of one day: estimated before the truth, and observed after, with its interval."""

    day: date
    estimated: Figure
    observed: Figure
    low: Figure
    high: Figure


class Verdict(View):
    """What drift checks said about one day."""

    day: date
    verdict: str
    note: str


class Moved(View):
    """One column on the days of the range: its distance from the reference in units of its limit.

    Above 1 it is further than ordinary days are; None where it was not compared.
    """

    column: str
    ratios: tuple[Figure, ...]


class Request(View):
    """A request for a new model, and what became of it."""

    night: date
    by: str
    reasons: tuple[str, ...]
    state: str
    outcome: tuple[str, ...]
    version: str


class Cost(View):
    """What the nightly chain of one day cost."""

    day: date
    night: Figure
    per_thousand: Figure
    unit: str


class Monitoring(View):
    """What monitoring has recorded about a range of days."""

    start: date
    end: date
    metric: str
    quality: tuple[Judged, ...]
    verdicts: tuple[Verdict, ...]
    moved: tuple[Moved, ...]
    alerts: tuple[Alert, ...]
    requests: tuple[Request, ...]
    costs: tuple[Cost, ...]


class Bar(View):
    """A stretch of values, or a category: its share in the reference and on the day."""

    name: str
    reference: float
    day: float


class Distribution(View):
    """How a column lay in what the champion learned from, and how it lies on a day."""

    column: str
    day: date
    version: str
    missing_reference: float
    missing_day: float
    bars: tuple[Bar, ...]


def monitoring(uc: UseCase, start: date, end: date) -> Monitoring:
    """Return what is recorded about ``start`` to ``end``.

    Raises:
        DataError: The range is longer than ``MOST_DAYS``, or ends before it starts.
    """
    require_range(uc, "monitoring", start, end, MOST_DAYS)
    records = recorded.read(uc, start, end, layers=(recorded.OBSERVED, recorded.ESTIMATES, recorded.COSTS))
    checked = results(uc, start, end)
    return Monitoring(
        start=start,
        end=end,
        metric=uc.gate.primary,
        quality=tuple(_quality(records, start, end)),
        verdicts=tuple(
            Verdict(day=day, verdict=found.verdict, note=found.reason)
            for day, found in sorted(checked.items())
        ),
        moved=tuple(_moved(checked, list(days(start, end)))),
        alerts=tuple(_alerts(records, start, end)),
        requests=tuple(_requests(records.requests, start, end)),
        costs=tuple(_costs(records, start, end)),
    )


def distribution(uc: UseCase, column: str, day: date) -> Distribution:
    """Return how a feature, or ``score``, lies on a day beside the sample that its champion learned from.

    Raises:
        DataError: There is no such column, no champion is in force on the day, or nothing is published.
    """
    where = f"{uc.name}, {column}, {day}"
    if column != "score" and column not in uc.features.columns:
        raise DataError(
            f"there is no feature {column!r}",
            rule="features are those of usecase.yml, and score",
            where=where,
            cure="choose one from the page",
        )
    deployed = deployments.champion_at(uc, day)
    layer = "predictions" if column == "score" else "features"
    now = tables.read_partitions(uc, layer, day, day, columns=[column])
    if deployed is None or not now.num_rows:
        raise DataError(
            f"{column} of {day} cannot be compared",
            rule="a day is compared with what its champion learned from",
            where=where,
            cure="choose a day that was scored",
        )
    reference = models.load_model(uc, deployed.version, deployed.model_hash).reference
    there = reference[column].to_pylist() if column in reference.column_names else []
    here = now[column].to_pylist()
    bars = _categories if column in uc.features.categorical else _numbers
    return Distribution(
        column=column,
        day=day,
        version=deployed.version,
        missing_reference=_missing(there),
        missing_day=_missing(here),
        bars=tuple(bars(_present(there), _present(here))),
    )


def _quality(records: Records, start: date, end: date) -> list[Judged]:
    metric, found = records.uc.gate.primary, []
    for day in days(start, end):
        observed, estimated = records.row(recorded.OBSERVED, day), records.row(recorded.ESTIMATES, day)
        if observed or estimated:
            found.append(
                Judged(
                    day=day,
                    estimated=estimated.get(metric),
                    observed=observed.get(metric),
                    low=observed.get(f"{metric}_low"),
                    high=observed.get(f"{metric}_high"),
                )
            )
    return found


def _moved(checked: dict[date, DriftResult], wanted: Sequence[date]) -> list[Moved]:
    """Return the columns that moved furthest, by the shortest window of each day."""
    ratios: dict[str, dict[date, float]] = {}
    for day, result in checked.items():
        if result.windows:
            window = result.windows[0]
            for column, distance in window.distances.items():
                limit = window.limits.get(column)
                if limit:
                    ratios.setdefault(column, {})[day] = distance / limit
    furthest = sorted(ratios, key=lambda column: (-max(ratios[column].values()), column))
    return [
        Moved(column=column, ratios=tuple(ratios[column].get(day) for day in wanted))
        for column in furthest[:MOST_COLUMNS]
    ]


def _alerts(records: Records, start: date, end: date) -> list[Alert]:
    seen: dict[int, Row] = {}
    for day in days(start, end):
        seen |= {alert["number"]: alert for alert in records.alerts_of(day)}
    return [alert_of(seen[number]) for number in sorted(seen, reverse=True)]


def _requests(requests: Sequence[Row], start: date, end: date) -> list[Request]:
    found = []
    for entry in reversed(requests):
        night, outcome = date.fromisoformat(entry["night"]), entry["outcome"] or {}
        if start <= night <= end:
            found.append(
                Request(
                    night=night,
                    by=str(entry.get("by", "")),
                    reasons=tuple(item["message"] for item in entry.get("evidence", ())),
                    state=entry["state"],
                    outcome=tuple(outcome.get("reasons", ())),
                    version=outcome.get("version") or "",
                )
            )
    return found


def _costs(records: Records, start: date, end: date) -> list[Cost]:
    found = []
    for day in days(start, end):
        row = records.row(recorded.COSTS, day)
        if row:
            prices = row["prices"] if isinstance(row["prices"], dict) else {}
            found.append(
                Cost(
                    day=day,
                    night=row["night"],
                    per_thousand=row["per_thousand"],
                    unit=str(prices.get("unit", "")),
                )
            )
    return found


def _present(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None and value == value]


def _missing(values: Sequence[Any]) -> float:
    return 1 - len(_present(values)) / len(values) if values else 0.0


def _numbers(reference: Sequence[float], now: Sequence[float]) -> list[Bar]:
    both = np.concatenate([np.asarray(reference, dtype=float), np.asarray(now, dtype=float)])
    if not both.size:
        return []
    # A stray value must not press all others into one bar.
    low, high = (float(edge) for edge in np.quantile(both, (0.005, 0.995)))
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    shares = []
    for values in (reference, now):
        inside = np.clip(np.asarray(values, dtype=float), edges[0], edges[-1])
        shares.append(np.histogram(inside, bins=edges)[0] / max(len(values), 1))
    return [
        Bar(name=f"{edges[place]:.4g}", reference=float(shares[0][place]), day=float(shares[1][place]))
        for place in range(_BINS)
    ]


def _categories(reference: Sequence[str], now: Sequence[str]) -> list[Bar]:
    there, here = Counter(reference), Counter(now)
    bars = [
        Bar(
            name=str(name),
            reference=there[name] / max(len(reference), 1),
            day=here[name] / max(len(now), 1),
        )
        for name in {*there, *here}
    ]
    bars.sort(key=lambda bar: (-max(bar.reference, bar.day), bar.name))
    return bars[:_BINS]
