"""When to ask for a new model, and the record of having asked.

Evidence counts from after the champion took over and after the newest request: what has already led to a
request cannot lead to another one the next night, and a model is not blamed for its predecessor.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import append_log
from nightshift.monitoring import drift, truth
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

# The policy's mean of observed quality is over this many judged days.
QUALITY_DAYS = 7
# Judged days may lie this far back: beyond it, days that were never judged make the mean too old to act on.
_QUALITY_HORIZON = timedelta(days=28)


class RetrainDecision(BaseModel):
    """The policy's answer for one night; ``reasons`` are in words, with the figures that decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: date
    requested: bool
    reasons: tuple[str, ...]
    champion_version: str | None


class RetrainRequest(BaseModel):
    """One entry of the request log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    night: date
    reasons: tuple[str, ...]
    champion_version: str | None
    requested_at: datetime


def decide(uc: UseCase, night: date) -> RetrainDecision:
    """Apply the policy ``retrain`` of the use case to what was known by ``night``.

    Without a champion, or with ``enabled: false``, nothing is asked for. The answer of a night does not
    change by having been acted on: the night's own request and later ones are not looked at.
    """
    champion = deployments.champion_at(uc, night)
    if champion is None or not uc.retrain.enabled:
        return RetrainDecision(night=night, requested=False, reasons=(), champion_version=None)
    asked = max((entry.night for entry in requests(uc) if entry.night < night), default=date.min)
    since = max(champion.effective_from, asked + timedelta(days=1))
    candidates = (
        _age(uc, night, max(champion.trained_night, asked)),
        _drifted(uc, night, since),
        _quality(uc, night, since, champion.model_hash),
    )
    reasons = tuple(reason for reason in candidates if reason)
    return RetrainDecision(
        night=night, requested=bool(reasons), reasons=reasons, champion_version=champion.version
    )


def request(uc: UseCase, decision: RetrainDecision) -> RetrainRequest:
    """Record that ``decision`` asks for a new model; a night that has asked before keeps its first record.

    Raises:
        DataError: The decision asks for nothing.
    """
    if not decision.requested:
        raise DataError(
            f"the decision of {decision.night} asks for no new model",
            rule="only a decision with reasons is recorded as a request",
            where=f"{uc.name}, retrain request, night {decision.night}",
            cure="look at `requested` first",
        )
    existing = _of_night(uc, decision.night)
    if existing is not None:
        return existing
    entry = RetrainRequest(
        usecase=uc.name,
        night=decision.night,
        reasons=decision.reasons,
        champion_version=decision.champion_version,
        requested_at=datetime.now(UTC),
    )
    append_log.append(_log(uc), entry.model_dump(mode="json"))
    log.info("%s asks for a new model on %s: %s", uc.name, entry.night, "; ".join(entry.reasons))
    # Two runs of one night may both have found nothing: reading back, both return the first.
    return _of_night(uc, decision.night) or entry


def requests(uc: UseCase) -> list[RetrainRequest]:
    """Return every request in the order it was made, one a night."""
    first: dict[date, RetrainRequest] = {}
    for record in append_log.read_log(_log(uc)):
        entry = RetrainRequest.model_validate(record)
        first.setdefault(entry.night, entry)
    return list(first.values())


def _age(uc: UseCase, night: date, newest: date) -> str | None:
    age = (night - newest).days
    if age < uc.retrain.every_days:
        return None
    return f"schedule: {age} days since {newest}, a new model is due every {uc.retrain.every_days}"


def _drifted(uc: UseCase, night: date, since: date) -> str | None:
    first = night - timedelta(days=uc.retrain.drifted_days - 1)
    if first < since:
        return None
    found = drift.results(uc, first, night)
    if any(day not in found or found[day].verdict != "drift" for day in days(first, night)):
        return None
    worst = ", ".join(found[night].columns[:3])
    return f"drift: {uc.retrain.drifted_days} drifted days in a row, on {night} led by {worst}"


def _quality(uc: UseCase, night: date, since: date, model_hash: str) -> str | None:
    newest = night - timedelta(days=uc.label.lag_days)
    judged = truth.observed_models(uc, max(since, newest - _QUALITY_HORIZON), newest)
    values = [
        metrics["roc_auc"]
        for model, metrics in judged.values()
        if model == model_hash and "roc_auc" in metrics
    ][-QUALITY_DAYS:]
    if len(values) < QUALITY_DAYS or fmean(values) >= uc.retrain.min_roc_auc:
        return None
    return (
        f"quality: mean observed ROC AUC of {QUALITY_DAYS} days is {fmean(values):.3f}, "
        f"below {uc.retrain.min_roc_auc}"
    )


def _of_night(uc: UseCase, night: date) -> RetrainRequest | None:
    return next((entry for entry in requests(uc) if entry.night == night), None)


def _log(uc: UseCase) -> str:
    return f"retrain_requests/{uc.name}"
