"""The log of requests for a new model, and what became of each: requested, training, exactly one outcome.

A request is written once and never changes. That a training began for it, and its outcome, are entries beside
it; only the first outcome counts, so whoever closes a request again, after a kill too, changes nothing. What
the deployment log says about a model goes before what the caller believes: a training that was killed after
its promotion has promoted.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from nightshift.lake import append_log, audit
from nightshift.registry import states
from nightshift.registry.records import Deployment
from nightshift.usecase import RetrainTrigger, UseCase

log = logging.getLogger(__name__)

BY_HAND: Literal["by_hand"] = "by_hand"
MONITOR = "monitor"

OutcomeKind = Literal["promoted", "refused", "rejected", "superseded", "failed"]
State = Literal["requested", "training"] | OutcomeKind


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(_Record):
    """Why a new model is asked for: a sentence, and the figures behind it as JSON-able values."""

    trigger: RetrainTrigger | Literal["by_hand"]
    message: str
    facts: dict[str, Any] = {}


class RetrainRequest(_Record):
    """One request.

    Attributes:
        id: Its night; from the second request of one night on, with a number.
        night: The night whose knowledge the new model is to have.
        champion_version: The champion of that night, which was found wanting.
        by: ``monitor``, or the person who asked.
    """

    id: str
    usecase: str
    night: date
    evidence: tuple[Evidence, ...]
    champion_version: str | None
    by: str
    requested_at: datetime

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_release(cls, record: Any) -> Any:
        if isinstance(record, dict) and "reasons" in record:
            reasons = record["reasons"]
            record = {name: value for name, value in record.items() if name != "reasons"} | {
                "id": str(record["night"]),
                "by": MONITOR,
                "evidence": [{"trigger": text.split(":")[0], "message": text} for text in reasons],
            }
        return record

    @property
    def by_hand(self) -> bool:
        """Whether a person asked, and not the policy."""
        return any(item.trigger == BY_HAND for item in self.evidence)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Its evidence in words."""
        return tuple(item.message for item in self.evidence)


class Training(_Record):
    """A run that took a request up."""

    request: str
    run_id: str
    began_at: datetime


class Outcome(_Record):
    """How a request ended. ``version``: the model it was about, where it came to one."""

    request: str
    kind: OutcomeKind
    reasons: tuple[str, ...]
    version: str | None
    closed_at: datetime


@dataclass(frozen=True)
class Life:
    """A request with all that came of it."""

    request: RetrainRequest
    trainings: tuple[Training, ...]
    outcome: Outcome | None

    @property
    def open(self) -> bool:
        """Whether it has no outcome yet."""
        return self.outcome is None

    def ran(self, run_id: str) -> bool:
        """Whether that run has taken it up."""
        return any(training.run_id == run_id for training in self.trainings)

    @property
    def state(self) -> State:
        """Where it stands."""
        if self.outcome is not None:
            return self.outcome.kind
        return "training" if self.trainings else "requested"


def ask(
    uc: UseCase,
    night: date,
    evidence: Sequence[Evidence],
    *,
    champion_version: str | None,
    by: str = MONITOR,
) -> RetrainRequest:
    """Record a request; the request that stands where this one would repeat it.

    Monitoring asks once a night, whatever became of it. A person may ask again once the night's request is
    closed.
    """
    name = f"retrain_requests/{uc.name}"
    while True:
        # Known first: what somebody else asks for from here on refuses the number below.
        known = append_log.read_log(name)
        existing = _standing(uc, night, by)
        if existing is not None:
            return existing
        number = 1 + sum(record["night"] == night.isoformat() for record in known)
        entry = RetrainRequest(
            id=night.isoformat() if number == 1 else f"{night}.{number}",
            usecase=uc.name,
            night=night,
            evidence=tuple(evidence),
            champion_version=champion_version,
            by=by,
            requested_at=datetime.now(UTC),
        )
        if by != MONITOR:
            why = "; ".join(entry.reasons)
            audit.record(
                "retrain", usecase=uc.name, subject=entry.id, who=by, why=why, identity=[by, len(known)]
            )
        if append_log.append_next(name, len(known), entry.model_dump(mode="json")):
            log.info("%s asks for a new model on %s: %s", uc.name, night, "; ".join(entry.reasons))
            return entry


def read(uc: UseCase) -> list[RetrainRequest]:
    """Return every request in the order it was made."""
    first: dict[str, RetrainRequest] = {}
    for record in append_log.read_log(f"retrain_requests/{uc.name}"):
        entry = RetrainRequest.model_validate(record)
        first.setdefault(entry.id, entry)
    return list(first.values())


def lives(uc: UseCase) -> list[Life]:
    """Return every request with what became of it, in the order they were made."""
    requests = read(uc)
    if not requests:
        return []
    trainings: dict[str, list[Training]] = defaultdict(list)
    for record in append_log.read_log(f"retrain_trainings/{uc.name}"):
        training = Training.model_validate(record)
        trainings[training.request].append(training)
    outcomes = {
        outcome.request: outcome
        for outcome in map(Outcome.model_validate, append_log.read_log(f"retrain_outcomes/{uc.name}"))
    }
    return [Life(request, tuple(trainings[request.id]), outcomes.get(request.id)) for request in requests]


def begin(uc: UseCase, night: date, *, run_id: str, by_hand: bool, by: str) -> Life | None:
    """Record that a run trains for the night's request, and return it; None when nothing asks for it.

    A run that nothing asked for is a request by hand itself: one that a person triggered, or that failed
    before and was cleared to run again. But the key of a request that is closed, or that another run has
    taken up, asks for nothing: monitoring that ran again sends it, and ``watch`` may have sent it while the
    first run waited. Called again by the same run, it changes nothing.
    """
    of_night = [life for life in lives(uc) if life.request.night == night]
    current = next((life for life in of_night if life.open), None)
    if current is None:
        newest = of_night[-1].outcome if of_night else None
        cleared = any(life.ran(run_id) for life in of_night)
        if newest is not None and not by_hand and not (newest.kind == "failed" and cleared):
            return None
        again = f" again after {newest.kind}" if newest else ""
        evidence = Evidence(trigger=BY_HAND, message=f"by hand: {by} ran the training{again}")
        request = ask(uc, night, [evidence], champion_version=None, by=by)
        current = Life(request, (), None)
    elif current.trainings and not (current.ran(run_id) or by_hand):
        return None
    if not current.trainings or current.trainings[-1].run_id != run_id:
        training = Training(request=current.request.id, run_id=run_id, began_at=datetime.now(UTC))
        append_log.append(
            f"retrain_trainings/{uc.name}/{current.request.id}", training.model_dump(mode="json")
        )
    return current


def close(
    uc: UseCase,
    night: date,
    kind: OutcomeKind,
    reasons: Sequence[str] = (),
    *,
    version: str | None = None,
) -> list[Outcome]:
    """Close the night's open requests with an outcome, and return it; nothing happens where none is open.

    Args:
        kind: What the caller knows; a promotion of the night's model since the request goes before it.
        version: The model it is about.
    """
    return [_close(uc, life, kind, reasons, version) for life in lives(uc) if _is_of(life, night)]


def close_failed(uc: UseCase, run_id: str, reason: str) -> list[Outcome]:
    """Close the open request that a failed run had taken up, as ``close`` does.

    Where another run has taken it up since, that one is waited for.
    """
    return [
        _close(uc, life, "failed", [reason], None)
        for life in lives(uc)
        if life.open and life.trainings and life.trainings[-1].run_id == run_id
    ]


def unsent(uc: UseCase, *, grace: timedelta, now: datetime) -> list[date]:
    """Return the nights of requests that no training has taken up, oldest first.

    Args:
        grace: A request of monitoring that is younger may still be on its way; a person's was never sent.
    """
    waiting = [life.request for life in lives(uc) if life.state == "requested"]
    lost = (entry for entry in waiting if entry.by != MONITOR or now - entry.requested_at >= grace)
    return sorted({entry.night for entry in lost})


def stuck(uc: UseCase, *, now: datetime) -> list[Life]:
    """Return the requests that are open for a day, beside what a person has to decide about a model."""
    approval = uc.gate.approval
    patience = timedelta(hours=24 + (approval.timeout_hours if approval.policy == "manual" else 0))
    return [life for life in lives(uc) if life.open and now - life.request.requested_at >= patience]


def _standing(uc: UseCase, night: date, by: str) -> RetrainRequest | None:
    for life in lives(uc):
        if life.request.night == night and (life.open or (by == MONITOR and not life.request.by_hand)):
            return life.request
    return None


def _is_of(life: Life, night: date) -> bool:
    return life.open and life.request.night == night


def _close(
    uc: UseCase, life: Life, kind: OutcomeKind, reasons: Sequence[str], version: str | None
) -> Outcome:
    request = life.request
    promotion = _promotion(uc, request)
    if promotion is not None:
        kind, reasons, version = "promoted", promotion.reasons, promotion.version
    outcome = Outcome(
        request=request.id, kind=kind, reasons=tuple(reasons), version=version, closed_at=datetime.now(UTC)
    )
    folder = f"retrain_outcomes/{uc.name}/{request.id}"
    if append_log.begin(folder, outcome.model_dump(mode="json")):
        log.info("request %s of %s: %s; %s", request.id, uc.name, kind, "; ".join(reasons))
    return Outcome.model_validate(append_log.read_log(folder)[0])


def _promotion(uc: UseCase, request: RetrainRequest) -> Deployment | None:
    for entry in states.read(uc):
        if (
            isinstance(entry, Deployment)
            and entry.action == "promote"
            and entry.trained_night == request.night
            and entry.recorded_at >= request.requested_at
        ):
            return entry
    return None
