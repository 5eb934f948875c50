"""The first page: how the last night of each use case went, in a line, and what asks for somebody."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from pydantic import AwareDatetime

from nightshift.console.views import Figure, View
from nightshift.lake import raw, tables
from nightshift.lake.raw import RawManifest
from nightshift.monitoring.pages import records as recorded
from nightshift.monitoring.pages.records import Records
from nightshift.monitoring.pages.signals import Level, level_of_alert, signals
from nightshift.monitoring.pages.write import nightly_path
from nightshift.registry import states
from nightshift.registry.records import Deployment
from nightshift.settings import settings
from nightshift.stages import first_scored
from nightshift.usecase import UseCase

TREND_DAYS = 14
"""Days of the line of observed quality."""

GRACE = timedelta(minutes=90)
"""A night that landed less than this long ago, and has no predictions, is on its way."""


class Signal(View):
    """One thing that the night says. ``about``: input, predictions, quality, request, freshness or models."""

    level: Level
    text: str
    about: str


class Alert(View):
    """An alert about the night; ``link``: what it points at, a path or an address, or nothing."""

    kind: str
    severity: str
    subject: str
    message: str
    cure: str
    at: AwareDatetime
    count: int
    silenced: bool
    link: str


class Rows(View):
    """What became of the rows that the night's sources gave: rows in = accepted + quarantined.

    ``aside``: the partitions of which rows are in quarantine.
    """

    rows_in: int
    accepted: int
    quarantined: int
    aside: tuple[date, ...]


class Freshness(View):
    """Whether the newest predictions are there in time.

    Attributes:
        live: Whether the schedule runs by itself; if not, nothing is due.
        newest: The newest day that has predictions.
        expected: The day whose predictions are due, or will be next.
        due_at: When they are due by the schedule and its SLA.
        late: Whether they are not there although they are due.
    """

    live: bool
    newest: date | None
    expected: date | None
    due_at: AwareDatetime | None
    late: bool


class Champion(View):
    """The model in production on the night."""

    version: str
    trainer: str
    trained_through: date
    effective_from: date


class Point(View):
    """One day of a line; ``low`` and ``high``: its interval."""

    day: date
    value: Figure
    low: Figure
    high: Figure


class Quality(View):
    """The use case's primary metric as observed on the last days; those without truth are left out."""

    metric: str
    trend: tuple[Point, ...]


class Drift(View):
    """The verdict on the night's data. ``columns``: what moved; ``note``: why nothing was compared."""

    verdict: str
    columns: tuple[str, ...]
    note: str


class Tonight(View):
    """The last night of one use case; ``night`` is None before the first has been scored.

    Attributes:
        newest: The newest day of which anything is there, scored or not.
        on_its_way: A newer night that has landed and is not scored yet; ``night`` is the one before it.
        error: Why its files or its lake cannot be read; everything else is then empty.
        sentence: What the night says, in a sentence.
        signals: All that it says, the most urgent first; ``alerts`` beside it.
        awaiting: Versions about which nobody has decided yet.
        report: Whether the night has a page.
    """

    name: str
    title: str
    newest: date | None = None
    night: date | None = None
    on_its_way: date | None = None
    level: Level = "quiet"
    sentence: str = ""
    signals: tuple[Signal, ...] = ()
    alerts: tuple[Alert, ...] = ()
    freshness: Freshness | None = None
    rows: Rows | None = None
    predictions: int = 0
    champion: Champion | None = None
    quality: Quality | None = None
    drift: Drift | None = None
    awaiting: tuple[str, ...] = ()
    report: bool = False
    error: str = ""


def last_night(uc: UseCase, now: datetime | None = None) -> Tonight:
    """Return how the last night went: the newest for which anything landed, but not one that still runs.

    Args:
        uc: The use case.
        now: The moment (with a time zone) to judge lateness by.
    """
    now = now or datetime.now(UTC)
    newest = {layer: _newest(uc, layer) for layer in ("features", "predictions")}
    night = max((day for day in (*newest.values(), _newest_landed(uc)) if day), default=None)
    scored, on_its_way = newest["predictions"], None
    fresh = _freshness(uc, scored, now)
    first = first_scored(uc)
    before_first = scored is None and (night is None or first is None or night < first)
    if night and not before_first and (scored or date.min) < night and now - _landed_at(uc, night) < GRACE:
        night, on_its_way = scored, night
    if night is None or before_first:
        return Tonight(
            name=uc.name,
            title=uc.title,
            newest=night or on_its_way,
            on_its_way=on_its_way,
            sentence=_beginning(night or on_its_way, first),
            freshness=fresh,
        )
    lag = timedelta(days=uc.label.lag_days)
    records = recorded.read(
        uc,
        night - lag - timedelta(days=TREND_DAYS - 1),
        night,
        layers=(recorded.DRIFT, recorded.OBSERVED, recorded.SLICES),
    )
    said = signals(records, night)
    alerts = records.alerts_since(night, _landed_at(uc, night))
    own = [Signal(level=one.level, text=one.text, about=one.block) for one in said if one.block != "alerts"]
    own += _late(fresh)
    awaiting = _awaiting(uc)
    asked = ", ".join(awaiting)
    if awaiting:
        own.append(
            Signal(level="watch", text=f"a decision about version {asked} is asked for", about="models")
        )
    urgent: list[tuple[Level, str]] = [(one.level, one.text) for one in own if one.level != "quiet"]
    urgent += [
        (level, str(alert["message"])) for alert in alerts if (level := level_of_alert(alert)) != "quiet"
    ]
    urgent.sort(key=lambda one: one[0] != "act")
    deployed = records.champion(night)
    return Tonight(
        name=uc.name,
        title=uc.title,
        newest=night,
        night=night,
        on_its_way=on_its_way,
        level=urgent[0][0] if urgent else "quiet",
        sentence=urgent[0][1] if urgent else "nothing needs you",
        signals=tuple(own),
        alerts=tuple(alert_of(alert) for alert in alerts),
        freshness=fresh,
        rows=_rows(uc, night),
        predictions=records.predicted.get(night, 0),
        champion=_champion(deployed),
        quality=_quality(records, night - lag),
        drift=_drift(records, night),
        awaiting=awaiting,
        report=nightly_path(uc, night).exists(),
    )


def _beginning(newest: date | None, first: date | None) -> str:
    """Return how far a use case has come that has scored nothing yet, and what comes next."""
    if newest is None:
        return "no night has run yet: trigger the DAG bootstrap"
    if first is None:
        return f"days up to {newest} are there, and no model is in production yet: see the run of bootstrap"
    if newest < first:
        return f"days up to {newest} are there: ingest {first}, the first day that the model scores"
    return f"the first night, {newest}, has landed and is on its way"


def _newest(uc: UseCase, layer: str) -> date | None:
    return max(tables.partition_versions(uc, layer), default=None)


def _newest_landed(uc: UseCase) -> date | None:
    """Return the newest night of which every daily table has landed."""
    nights = []
    for source, name, table in uc.tables():
        if table.refresh == "daily":
            newest = raw.newest_partition(uc, source, name)
            if newest is None:
                return None
            nights.append(newest + timedelta(days=table.lag_days))
    return min(nights, default=None)


def _freshness(uc: UseCase, newest: date | None, now: datetime) -> Freshness:
    first = settings().live_from
    today = now.astimezone(uc.zone).date()
    if today < first:
        return Freshness(live=False, newest=newest, expected=None, due_at=None, late=False)
    sla = timedelta(minutes=uc.schedule.sla_minutes)
    since = max(first, newest + timedelta(days=1) if newest else first)
    due_at = uc.as_of(since) + sla
    return Freshness(live=True, newest=newest, expected=since, due_at=due_at, late=now > due_at)


def _late(fresh: Freshness) -> list[Signal]:
    if not fresh.late:
        return []
    return [Signal(level="act", text=f"the predictions of {fresh.expected} are late", about="freshness")]


def _landed(uc: UseCase, night: date) -> list[RawManifest]:
    manifests = [
        raw.current(uc, source, name, night - timedelta(days=table.lag_days))
        for source, name, table in uc.tables()
    ]
    return [manifest for manifest in manifests if manifest is not None]


def _landed_at(uc: UseCase, night: date) -> datetime:
    """Return when the last of a night's tables landed; long ago when none did."""
    never = datetime.min.replace(tzinfo=UTC)
    return max((manifest.extracted_at for manifest in _landed(uc, night)), default=never)


def _rows(uc: UseCase, night: date) -> Rows:
    landed = _landed(uc, night)
    return Rows(
        rows_in=sum(manifest.rows_in for manifest in landed),
        accepted=sum(manifest.rows_accepted for manifest in landed),
        quarantined=sum(manifest.rows_quarantined for manifest in landed),
        aside=tuple(sorted({manifest.partition for manifest in landed if manifest.rows_quarantined})),
    )


def _champion(deployed: Deployment | None) -> Champion | None:
    if deployed is None:
        return None
    return Champion(
        version=deployed.version,
        trainer=deployed.trainer,
        trained_through=deployed.trained_through,
        effective_from=deployed.effective_from,
    )


def _quality(records: Records, newest: date) -> Quality:
    metric = records.uc.gate.primary
    observed = {day: records.row(recorded.OBSERVED, day) for day in recorded.past(newest, TREND_DAYS)}
    return Quality(
        metric=metric,
        trend=tuple(
            Point(
                day=day, value=row.get(metric), low=row.get(f"{metric}_low"), high=row.get(f"{metric}_high")
            )
            for day, row in observed.items()
            if row
        ),
    )


def _drift(records: Records, night: date) -> Drift | None:
    row = records.row(recorded.DRIFT, night)
    if not row:
        return None
    return Drift(verdict=row["verdict"], columns=tuple(row["columns"] or ()), note=row["note"] or "")


def _awaiting(uc: UseCase) -> tuple[str, ...]:
    standings = states.standings(states.read(uc)).values()
    return tuple(one.version for one in standings if one.state == "challenger" and one.approval is None)


def alert_of(alert: recorded.Row) -> Alert:
    """Return an alert of the records as pages show it."""
    return Alert(
        kind=alert["kind"],
        severity=alert["severity"],
        subject=alert["subject"],
        message=alert["message"],
        cure=alert["cure"],
        at=datetime.fromisoformat(alert["at"]),
        count=alert["count"],
        silenced=bool(alert["silenced"]),
        link=alert["link"],
    )
