"""The data page: which day is there in which layer, in what state, and what is known of one day."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime

from nightshift.console.quarantine import count_kept, list_kept
from nightshift.console.views import View, require_range
from nightshift.ingestion.suites import raw_suites, table_of
from nightshift.lake import lineage, raw, tables
from nightshift.monitoring import staleness
from nightshift.partition import days
from nightshift.settings import settings
from nightshift.usecase import Table, UseCase

MOST_DAYS = 366
"""Days that are shown at once: more would cost more than a page may."""

Layer = Literal["raw", "features", "predictions"]
State = Literal["missing", "present", "quarantined"]


class Day(View):
    """One day of one layer.

    Attributes:
        day: The partition.
        state: Whether it is there, and whether rows of it were put aside.
        rows: Rows that are there.
        quarantined: Rows that were put aside.
        because: What is missing, in words.
    """

    day: date
    state: State
    rows: int
    quarantined: int
    because: str = ""


class Calendar(View):
    """The days of a range, by layer; ``first`` and ``last``: the days that raw has."""

    start: date
    end: date
    first: date | None
    last: date | None
    layers: dict[Layer, tuple[Day, ...]]


class StaleDay(View):
    """One day of a layer that rests on older versions than those that count now, and why.

    ``night``: the one that has to run again to mend it; a label of a day comes with a later night.
    """

    layer: str
    day: date
    because: str
    night: date


class RawVersion(View):
    """One version of a raw partition, with what was asked of the source and what became of the rows."""

    source: str
    table: str
    partition: date
    version: int
    current: bool
    as_of: AwareDatetime
    extracted_at: AwareDatetime
    rows_in: int
    accepted: int
    quarantined: int
    fixed: int
    content_hash: str
    query: str
    object_key: str


class Published(View):
    """One content that a published partition has had, the last of them the one that counts."""

    layer: str
    table_version: int
    published_at: AwareDatetime
    rows: int
    content_hash: str


class Rule(View):
    """What one rule said about the day."""

    rule: str
    severity: str
    verdict: str
    seen: str
    broken: int
    reason: str


class Validation(View):
    """What a suite said about the day; ``report``: the name of its page among the use case's reports."""

    suite: str
    verdict: str
    rows_in: int
    quarantined: int
    rules: tuple[Rule, ...]
    report: str


class QuarantinedSuite(View):
    """Rows of a suite in quarantine, by the first rule that they broke.

    ``night``: the one whose replay judges them again; None for rows that are made from others.
    """

    suite: str
    rows: int
    rules: dict[str, int]
    night: date | None


class LandedBy(View):
    """A night that makes this day of some tables known, so that ingesting it again asks for them again."""

    night: date
    tables: tuple[str, ...]


class Read(View):
    """What a build of the day read of one raw table: versions by partition, the oldest first."""

    table: str
    partitions: int
    first: date
    last: date
    versions: dict[str, int]


class DayDetail(View):
    """All that is known about one day.

    Attributes:
        landed_by: The nights that ask the sources for it: not every table of a day is known by its night.
        raw: Every version of its partition in each raw table.
        published: Every content of its features, labels and predictions that is kept.
        validations: What the suites said, as far as their pages are kept here.
        quarantine: What is put aside.
        features_read: The raw versions that the features were built from which its predictions rest on;
            where nothing is scored, those that are published.
        predictions_made: ``model_version``, ``feature_version`` and the like that its predictions name.
    """

    day: date
    landed_by: tuple[LandedBy, ...]
    raw: tuple[RawVersion, ...]
    published: tuple[Published, ...]
    validations: tuple[Validation, ...]
    quarantine: tuple[QuarantinedSuite, ...]
    features_read: tuple[Read, ...]
    predictions_made: dict[str, str]


def calendar(uc: UseCase, start: date, end: date) -> Calendar:
    """Return the days of ``start`` to ``end`` by layer.

    Raises:
        DataError: The range is longer than ``MOST_DAYS``, or ends before it starts.
    """
    require_range(uc, "a calendar", start, end, MOST_DAYS)
    there = _days_of_raw(uc)
    landed = {day.day: day for day in _landed(uc, start, end, _newest_night(uc, there))}
    layers: dict[Layer, tuple[Day, ...]] = {"raw": tuple(landed.values())}
    published: tuple[Layer, ...] = ("features", "predictions")
    for layer in published:
        versions = tables.partition_versions(uc, layer)
        aside = count_kept(uc, layer, start, end)
        layers[layer] = tuple(
            _day(
                day,
                rows=versions[day].rows if day in versions else None,
                quarantined=aside[day],
            )
            for day in days(start, end)
        )
    return Calendar(
        start=start,
        end=end,
        first=min((of_table[0] for of_table in there.values() if of_table), default=None),
        last=max((of_table[-1] for of_table in there.values() if of_table), default=None),
        layers=layers,
    )


def detail(uc: UseCase, day: date) -> DayDetail:
    """Return all that is known about one day; a day that nobody has heard of is empty."""
    scored = _predictions_made(uc, day)
    published = tables.partition_version(uc, "features", day)
    features = scored.get("feature_version") or (published.content_hash if published else None)
    return DayDetail(
        day=day,
        landed_by=tuple(_landed_by(uc, day)),
        raw=tuple(_raw_versions(uc, day)),
        published=tuple(
            Published(
                layer=layer,
                table_version=version.table_version,
                published_at=version.published_at,
                rows=version.rows,
                content_hash=version.content_hash,
            )
            for layer in ("features", "labels", "predictions")
            for version in tables.history(uc, layer, day)
        ),
        validations=tuple(_validations(uc, day)),
        quarantine=tuple(
            QuarantinedSuite(
                suite=kept.suite, rows=kept.rows, rules=kept.rules, night=_night_of_suite(uc, kept.suite, day)
            )
            for kept in list_kept(uc, None, day, day)
        ),
        features_read=tuple(features_read(uc, day, features)),
        predictions_made=scored,
    )


def stale(uc: UseCase, start: date, end: date) -> list[StaleDay]:
    """Return what is stale from ``start`` to ``end``. Asks dbt what reads what, which takes its time.

    Raises:
        DataError: The range is longer than ``MOST_DAYS``, or ends before it starts.
    """
    require_range(uc, "a calendar", start, end, MOST_DAYS)
    found = staleness.find_stale(uc, start, end)
    return [
        StaleDay(
            layer=item.layer,
            day=item.partition,
            because=item.because,
            night=staleness.night_of(uc, item),
        )
        for item in found
    ]


def _day(day: date, *, rows: int | None, quarantined: int) -> Day:
    state: State = "missing" if rows is None else "quarantined" if quarantined else "present"
    return Day(day=day, state=state, rows=rows or 0, quarantined=quarantined)


def _landed(uc: UseCase, start: date, end: date, newest: date) -> list[Day]:
    """Return the days of raw: one is there when every daily table has it.

    What a night later than ``newest`` brings is not missing yet.
    """
    daily = _daily(uc)
    current = {
        title: raw.current_many(uc, source, title.removeprefix(f"{source}."), start, end)
        for title, (source, _) in daily.items()
    }
    found = []
    for day in days(start, end):
        landed = {title: of_table[day] for title, of_table in current.items() if day in of_table}
        due = {title for title, (_, table) in daily.items() if day + timedelta(days=table.lag_days) <= newest}
        absent = sorted(due - set(landed)) if landed or day <= newest else sorted(daily)
        quarantined = sum(manifest.rows_quarantined for manifest in landed.values())
        rows = sum(manifest.rows_accepted for manifest in landed.values())
        state: State = "missing" if absent else "quarantined" if quarantined else "present"
        because = f"not landed: {', '.join(absent)}" if absent else ""
        found.append(Day(day=day, state=state, rows=rows, quarantined=quarantined, because=because))
    return found


def _daily(uc: UseCase) -> dict[str, tuple[str, Table]]:
    """Return source and table of each daily one, by ``<source>.<name>``."""
    return {
        f"{source}.{name}": (source, table) for source, name, table in uc.tables() if table.refresh == "daily"
    }


def _days_of_raw(uc: UseCase) -> dict[str, list[date]]:
    """Return the days that each daily table has landed, oldest first."""
    return {
        title: raw.partitions(uc, source, title.removeprefix(f"{source}."))
        for title, (source, _) in _daily(uc).items()
    }


def _newest_night(uc: UseCase, there: Mapping[str, list[date]]) -> date:
    """Return the newest night of which something has landed."""
    lags = {title: timedelta(days=table.lag_days) for title, (_, table) in _daily(uc).items()}
    return max((there[title][-1] + lags[title] for title in there if there[title]), default=date.min)


def _landed_by(uc: UseCase, day: date) -> list[LandedBy]:
    by_night: dict[date, list[str]] = {}
    for source, name, table in uc.tables():
        if table.refresh == "daily":
            by_night.setdefault(day + timedelta(days=table.lag_days), []).append(f"{source}.{name}")
    return [LandedBy(night=night, tables=tuple(names)) for night, names in sorted(by_night.items())]


def _night_of_suite(uc: UseCase, suite: str, day: date) -> date | None:
    if suite not in raw_suites(uc):
        return None
    source, name = table_of(uc, suite)
    return day + timedelta(days=uc.sources[source].tables[name].lag_days)


def _raw_versions(uc: UseCase, day: date) -> list[RawVersion]:
    found = []
    for source, name, _ in uc.tables():
        versions = raw.versions(uc, source, name, day)
        standing = raw.newest(versions)
        found += [
            RawVersion(
                source=source,
                table=name,
                partition=day,
                version=manifest.version,
                current=manifest == standing,
                as_of=manifest.as_of,
                extracted_at=manifest.extracted_at,
                rows_in=manifest.rows_in,
                accepted=manifest.rows_accepted,
                quarantined=manifest.rows_quarantined,
                fixed=len(manifest.fixed),
                content_hash=manifest.content_hash,
                query=manifest.query,
                object_key=manifest.object_key,
            )
            for manifest in versions
        ]
    return found


def _validations(uc: UseCase, day: date) -> list[Validation]:
    folder = settings().home / "reports" / uc.name
    found = []
    for file in sorted(folder.glob(f"*/{day}.json")):
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "outcomes" not in said:
            continue  # a report of something else
        found.append(
            Validation(
                suite=said["suite"],
                verdict=said["verdict"],
                rows_in=said["rows_in"],
                quarantined=said["quarantined"],
                rules=tuple(_rule(outcome) for outcome in said["outcomes"]),
                report=f"{file.parent.name}/{day}.html",
            )
        )
    return found


def _rule(outcome: dict[str, Any]) -> Rule:
    from nightshift.quality.reports import Outcome

    judged = Outcome(**{**outcome, "sample": tuple(outcome["sample"])})
    return Rule(
        rule=judged.rule,
        severity=judged.severity,
        verdict=judged.verdict,
        seen=judged.seen,
        broken=judged.broken,
        reason=judged.reason,
    )


def features_read(uc: UseCase, day: date, content_hash: str | None) -> list[Read]:
    """Return the raw versions that features of a day were built from; none where that is not known.

    Args:
        uc: The use case.
        day: Their partition.
        content_hash: Which features: those that were scored need not be those that are published now.
    """
    builds = lineage.builds_of(uc, "features", {day: content_hash}).get(day, []) if content_hash else []
    if not builds:
        return []
    # Several builds may give one content.
    newest = max(builds, key=lambda build: build.rank)
    return [
        Read(
            table=table,
            partitions=len(partitions),
            first=min(partitions),
            last=max(partitions),
            versions={one.isoformat(): read.version for one, read in sorted(partitions.items())},
        )
        for table, partitions in newest.raw.items()
        if partitions
    ]


def _predictions_made(uc: UseCase, day: date) -> dict[str, str]:
    columns = ("model_version", "model_hash", "feature_version")
    named = tables.constants(uc, "predictions", day, day, columns).get(day, {})
    return {name: str(value) for name, value in named.items()}
