"""Alerts: recorded first, told to people after, and each of them once.

``raise_alert`` writes one record to the lake's append-only log ``alerts/<use case>`` and returns: whoever
raises an alert never waits for a mail server, and fails on none. ``deliver`` tells people, by routes and
notifiers of the use case; what cannot be delivered stays due and is tried again by the next ``deliver``.

- The same alert (kind and subject) again within the use case's window counts up on the first one. Whether a
  record is an alert or a repetition is decided when it is written, so two writers at once make one alert.
- An alert raised while a silence holds is recorded and never sent. A silence ends by itself.
- Every try to deliver is recorded before it is made, and its outcome after. A process killed in between loses
  nothing: the try counts as failed once its time is over. So a message may arrive twice, but not many times.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, get_args

from nightshift.errors import DataError
from nightshift.lake import append_log, audit
from nightshift.settings import settings
from nightshift.usecase import AlertKind, AlertRules, Notifier, Severity, UseCase, load_usecase

log = logging.getLogger(__name__)

# What nobody could be told for so long is in `nightshift alerts`; as a message it would only confuse.
_GIVE_UP = timedelta(days=3)
# A try without an outcome is of a process that was killed, or of one that is still at it.
_TRY_SECONDS = 300
# So many tries without an outcome may all have arrived: it is sent no more.
_UNFINISHED_TRIES = 3

_LEVELS: dict[Severity, int] = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
_SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Kind:
    """What is known of every alert of a kind."""

    severity: Severity
    cure: str


KINDS: dict[str, Kind] = {
    "run_failed": Kind(
        "critical", "read the log of its failed task in Airflow's UI: the error there names its own cure"
    ),
    "deadline_missed": Kind(
        "warning", "open the run in Airflow's UI: the log of a task up for retry says what it waits for"
    ),
    "night_late": Kind(
        "critical",
        "find the night's newest run in Airflow's UI; if there is none, trigger `ingest` for it",
    ),
    "night_stuck": Kind(
        "critical", "mend what its failed run says, then trigger the DAG that failed, with that partition"
    ),
    "drift": Kind(
        "warning", "open the day's report: it names the features that moved; find out whether the world did"
    ),
    "data": Kind("warning", "ask the owner of the source in sources.yml; rebuild the day once it is mended"),
    "quality": Kind(
        "critical", "look at what moved in the day's report; roll back, or train anew, if nothing explains it"
    ),
    "cost": Kind("warning", "see in the day's report which task took more than before"),
    "retrain": Kind(
        "warning", "look why earlier requests did not help; a training by hand is always possible"
    ),
}
assert set(KINDS) == set(get_args(AlertKind))  # nosec B101  # of constants, at import


@dataclass(frozen=True)
class Alert:
    """One alert, with its repetitions.

    Attributes:
        number: Of its record in the log.
        at: When it was raised first (UTC).
        kind: One of ``KINDS``.
        subject: What it is about, such as a day.
        message: What happened, in a sentence.
        severity: ``info``, ``warning`` or ``critical``.
        owner: Who looks after it.
        cure: What to do first.
        link: Path or address of what to look at; empty when there is nothing.
        runbook: Path or address of the page about alerts of this kind.
        count: How often it was raised.
        last_at: When it was raised last (UTC).
        silenced: By which silence, empty when by none.
    """

    usecase: str
    number: int
    at: datetime
    kind: str
    subject: str
    message: str
    severity: Severity
    owner: str
    cure: str
    link: str
    runbook: str
    count: int
    last_at: datetime
    silenced: str

    @property
    def title(self) -> str:
        """The alert in a line, without its message."""
        return f"[{self.severity}] {self.usecase}: {self.kind.replace('_', ' ')} {self.subject}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """Return JSON-able values by name."""
        return {**asdict(self), "at": self.at.isoformat(), "last_at": self.last_at.isoformat()}


@dataclass(frozen=True)
class Silence:
    """A time in which alerts of a kind are recorded and not sent.

    Attributes:
        number: Of its record in the log.
        kind: A kind of alerts, or ``*``.
        subject: Of which subjects, with the wildcards of a shell.
        since: First moment (UTC).
        until: It is over at this moment (UTC).
        reason: Why.
        by: Who decided.
        in_force: Whether it holds now.
    """

    number: int
    kind: str
    subject: str
    since: datetime
    until: datetime
    reason: str
    by: str
    in_force: bool

    def covers(self, kind: str, subject: str) -> bool:
        """Tell whether alerts about ``subject`` are meant."""
        return self.kind in ("*", kind) and fnmatchcase(subject, self.subject)

    def as_json(self) -> dict[str, Any]:
        """Return JSON-able values by name."""
        return {**asdict(self), "since": self.since.isoformat(), "until": self.until.isoformat()}


@dataclass(frozen=True)
class Delivery:
    """Where one alert stands with one notifier.

    Attributes:
        to: Name of the notifier.
        state: ``sent``; ``trying`` right now; ``due``; ``given up``.
        tries: How often it was tried.
        error: Of the last try that failed.
    """

    to: str
    state: str
    tries: int
    error: str


def raise_alert(
    usecase: str,
    kind: AlertKind,
    subject: str,
    message: str,
    *,
    link: str = "",
    once: str = "",
    now: datetime | None = None,
) -> None:
    """Record an alert, or that it happened again; people are told by the next ``deliver``.

    Args:
        usecase: Name of the use case; one whose files are broken is alerted about too.
        kind: One of ``KINDS``.
        subject: What it is about, such as ``2013-07-03`` or ``score 2013-07-03``. Together with the kind it
            says which alerts are the same.
        message: What happened, in a sentence.
        link: Path or address of what to look at; by default the page of the day that the subject names.
        once: A key under which this is raised only once ever: later calls change nothing. Silenced, it does
            not count.
        now: The moment (UTC) it happened.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there are no alerts of kind {kind!r}; there are {', '.join(KINDS)}")
    now = now or datetime.now(UTC)
    marker = f"alerts_once/{usecase}/{kind}/{hashlib.sha256(once.encode()).hexdigest()}"
    if once and append_log.read_log(marker):
        return
    rules, owner = _rules(usecase)
    window = timedelta(hours=rules.window_hours)
    alert = {
        "at": now.isoformat(),
        "kind": kind,
        "subject": subject,
        "message": message,
        "severity": rules.severities.get(kind, KINDS[kind].severity),
        "owner": rules.owners.get(kind, owner),
        "link": link or _page_of_day(usecase, subject),
    }
    held = next((s for s in silences(usecase, now) if s.in_force and s.covers(kind, subject)), None)
    if held:
        alert["silenced"] = f"until {held.until:%Y-%m-%d %H:%M} UTC by {held.by}: {held.reason}"
    while True:
        last, first = _newest_alike(usecase, kind, subject, now - window)
        repeated = first is not None and (held is not None or not first[1].get("silenced"))
        record = {"at": alert["at"], "repeats": first[0], "message": message} if repeated and first else alert
        if append_log.append_next(f"alerts/{usecase}", last, record):
            break
    # What was silenced was told to nobody: raised after the silence, it is news still.
    if once and held is None:
        append_log.begin(marker, {"subject": subject, "at": now.isoformat()})
    again = " (again)" if repeated else ""
    log.log(_LEVELS[_severity(alert)], "ALERT %s %s %s%s: %s", usecase, kind, subject, again, message)


def read_alerts(usecase: str, since: datetime | None = None) -> list[Alert]:
    """Return the alerts of a use case, newest first, or those raised ``since`` a moment; times are UTC."""
    return [_alert(usecase, *found) for found in _read(usecase, since)]


def silence(
    usecase: str,
    kind: str,
    until: datetime,
    *,
    reason: str,
    by: str,
    subject: str = "*",
    now: datetime | None = None,
) -> None:
    """Let alerts be recorded and not sent until a moment (UTC); one that is past ends the same silence now.

    Raises:
        DataError: There is no such kind.
    """
    if kind not in (*KINDS, "*"):
        raise DataError(
            f"there are no alerts of kind {kind!r}",
            rule="a silence is of one kind, or of all",
            where="nightshift silence",
            cure=f"name one of {', '.join(KINDS)}, or '*'",
        )
    now = now or datetime.now(UTC)
    record = {
        "kind": kind,
        "subject": subject,
        "at": now.isoformat(),
        "until": until.astimezone(UTC).isoformat(),
        "reason": reason,
        "by": by,
    }
    ends = f"until {until.astimezone(UTC):%Y-%m-%d %H:%M}" if until > now else "ended"
    with audit.recorded(
        "silence",
        usecase=usecase,
        subject=f"{kind} {subject}, {ends}",
        who=by,
        why=reason,
        details={"until": record["until"], "ended": until <= now},
        identity=[record["until"], reason],
    ):
        append_log.append(f"silences/{usecase}", record)


def silences(usecase: str, now: datetime | None = None) -> list[Silence]:
    """Return every silence that was ever begun, oldest first.

    A later one of the same kind and subject takes the place of an earlier one.
    """
    now = now or datetime.now(UTC)
    records = append_log.read_log(f"silences/{usecase}")
    newest = {(record["kind"], record["subject"]): number for number, record in enumerate(records, 1)}
    return [
        Silence(
            number=number,
            kind=record["kind"],
            subject=record["subject"],
            since=datetime.fromisoformat(record["at"]),
            until=datetime.fromisoformat(record["until"]),
            reason=record["reason"],
            by=record["by"],
            in_force=newest[record["kind"], record["subject"]] == number
            and record["at"] <= now.isoformat()
            and now < datetime.fromisoformat(record["until"]),
        )
        for number, record in enumerate(records, 1)
    ]


def deliver(
    uc: UseCase, send: Callable[[Notifier, Alert], None], now: datetime | None = None
) -> dict[str, int]:
    """Tell people what they were not told yet, and log the silences that ended. May run several at once.

    A notifier that fails is left alone until the next call, so a server that hangs costs its time once. What
    was tried least goes first, the oldest of it: an alert that a server always refuses keeps back no other.
    An alert whose subject has been silenced since waits until the silence is over.

    Args:
        send: Sends one alert by one notifier; raises whatever went wrong.
        now: The moment (UTC) to judge by.

    Returns:
        Messages ``sent``, ``failed``, and ``waiting`` for a later call.
    """
    now = now or datetime.now(UTC)
    _log_ended_silences(uc, now)
    held = [silence for silence in silences(uc.name, now) if silence.in_force]
    counts = {"sent": 0, "failed": 0, "waiting": 0}
    due: list[tuple[int, str, Alert]] = []
    for alert in reversed(_unsilenced(uc.name, now)):
        waits = any(silence.covers(alert.kind, alert.subject) for silence in held)
        for name in targets(uc.alerts, alert):
            stands = _delivery(uc.name, alert.number, name, now)
            if stands.state == "due" and waits:
                counts["waiting"] += 1
            elif stands.state == "due":
                due.append((stands.tries, name, alert))
    broken: set[str] = set()
    for _, name, alert in sorted(due, key=lambda one: one[0]):
        if name in broken:
            counts["waiting"] += 1
        elif _claim(uc.name, alert.number, name, now):
            notifier = uc.alerts.notifiers.get(name, Notifier(kind="log"))
            if _send(send, notifier, alert, name):
                counts["sent"] += 1
            else:
                counts["failed"] += 1
                broken.add(name)
    return counts


def targets(rules: AlertRules, alert: Alert) -> list[str]:
    """Return the names of the notifiers that an alert is for, each once, in the order of the routes."""
    found = [
        name
        for route in rules.routes
        if _SEVERITIES.index(alert.severity) >= _SEVERITIES.index(route.severity)
        and (not route.kinds or alert.kind in route.kinds)
        and (not route.owners or alert.owner in route.owners)
        for name in route.to
    ]
    return list(dict.fromkeys(found))


def deliveries(usecase: str, number: int, now: datetime | None = None) -> list[Delivery]:
    """Return where an alert stands with every notifier that was tried, by the number of its record."""
    records = append_log.read_log(_delivery_log(usecase, number))
    names = dict.fromkeys(record["to"] for record in records)
    return [_standing(records, name, now or datetime.now(UTC)) for name in names]


def _rules(usecase: str) -> tuple[AlertRules, str]:
    try:
        uc = load_usecase(usecase)
    except DataError:
        return AlertRules(), ""
    return uc.alerts, uc.owner


def _page_of_day(usecase: str, subject: str) -> str:
    day = re.search(r"\b\d{4}-\d{2}-\d{2}\b", subject)
    if not day:
        return ""
    reports = settings().reports_url.rstrip("/") or str(settings().home / "reports")
    return f"{reports}/{usecase}/nightly/{day[0]}.html"


def _runbook(kind: str) -> str:
    return f"{settings().docs_url.rstrip('/') or 'docs'}/runbooks/{kind}.md"


def _severity(record: dict[str, Any]) -> Severity:
    # Older records say nothing of it.
    severity: Severity = record.get("severity", KINDS[record["kind"]].severity)
    return severity


def _newest_alike(
    usecase: str, kind: str, subject: str, since: datetime
) -> tuple[int, tuple[int, dict[str, Any]] | None]:
    """Return the number of the last record, and the alert raised after ``since`` that is the same."""
    last = 0
    for number, record in append_log.read_newest(f"alerts/{usecase}"):
        last = last or number
        if datetime.fromisoformat(record["at"]) <= since:
            break
        if "repeats" not in record and (record["kind"], record.get("subject")) == (kind, subject):
            return last, (number, record)
    return last, None


def _read(usecase: str, since: datetime | None) -> Iterator[tuple[int, dict[str, Any], list[dict[str, Any]]]]:
    """Yield each alert, newest first: its number, its record and those of its repetitions, newest first."""
    repeated: dict[int, list[dict[str, Any]]] = {}
    for number, record in append_log.read_newest(f"alerts/{usecase}"):
        if since and datetime.fromisoformat(record["at"]) < since:
            return
        if "repeats" in record:
            repeated.setdefault(record["repeats"], []).append(record)
        else:
            yield number, record, repeated.pop(number, [])


def _alert(usecase: str, number: int, record: dict[str, Any], repeats: list[dict[str, Any]]) -> Alert:
    newest = repeats[0] if repeats else record
    return Alert(
        usecase=usecase,
        number=number,
        at=datetime.fromisoformat(record["at"]),
        kind=record["kind"],
        subject=record.get("subject", ""),
        message=newest["message"],
        severity=_severity(record),
        owner=record.get("owner", ""),
        cure=KINDS[record["kind"]].cure,
        link=record.get("link", ""),
        runbook=_runbook(record["kind"]),
        count=1 + len(repeats),
        last_at=datetime.fromisoformat(newest["at"]),
        silenced=record.get("silenced", ""),
    )


def _unsilenced(usecase: str, now: datetime) -> list[Alert]:
    """Return what may still have to be sent, newest first."""
    return [
        _alert(usecase, number, record, repeats)
        for number, record, repeats in _read(usecase, now - _GIVE_UP)
        # Records without a severity were written before there were routes.
        if "severity" in record and not record.get("silenced")
    ]


def _delivery_log(usecase: str, number: int) -> str:
    return f"alert_deliveries/{usecase}/{number:09d}"


def _delivery(usecase: str, number: int, name: str, now: datetime) -> Delivery:
    return _standing(append_log.read_log(_delivery_log(usecase, number)), name, now)


def _standing(records: list[dict[str, Any]], name: str, now: datetime) -> Delivery:
    mine = [record for record in records if record["to"] == name]
    tries = [record for record in mine if record["event"] == "trying"]
    errors = [record["error"] for record in mine if record["event"] == "failed"]
    if any(record["event"] == "sent" for record in mine):
        state = "sent"
    elif len(tries) - len(errors) >= _UNFINISHED_TRIES:
        state = "given up"
    elif (
        mine
        and mine[-1]["event"] == "trying"
        and now - datetime.fromisoformat(mine[-1]["at"]) < timedelta(seconds=_TRY_SECONDS)
    ):
        state = "trying"
    else:
        state = "due"
    return Delivery(name, state, len(tries), errors[-1] if errors else "")


def _claim(usecase: str, number: int, name: str, now: datetime) -> bool:
    """Record a try, unless it is sent or somebody is at it; of several at the same moment, one succeeds."""
    tries = _delivery_log(usecase, number)
    while True:
        records = append_log.read_log(tries)
        if _standing(records, name, now).state != "due":
            return False
        trying = {"to": name, "event": "trying", "at": now.isoformat()}
        if append_log.append_next(tries, len(records), trying):
            return True


def _send(send: Callable[[Notifier, Alert], None], notifier: Notifier, alert: Alert, name: str) -> bool:
    failure = ""
    try:
        send(notifier, alert)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        log.warning("alert %d was not delivered to %s: %s", alert.number, name, failure)
    outcome = {"to": name, "at": datetime.now(UTC).isoformat(), "event": "failed" if failure else "sent"}
    append_log.append(
        _delivery_log(alert.usecase, alert.number), {**outcome, **({"error": failure} if failure else {})}
    )
    return not failure


def _log_ended_silences(uc: UseCase, now: datetime) -> None:
    newest = {(silence.kind, silence.subject): silence for silence in silences(uc.name, now)}
    for ended in newest.values():
        marker = f"silences_ended/{uc.name}/{ended.number:09d}"
        if ended.until > now or append_log.read_log(marker):
            continue
        if append_log.begin(marker, {"at": now.isoformat()}):
            log.warning(
                "the silence of %s (%s) by %s is over since %s: %s",
                ended.kind,
                ended.subject,
                ended.by,
                ended.until.isoformat(timespec="minutes"),
                ended.reason,
            )
