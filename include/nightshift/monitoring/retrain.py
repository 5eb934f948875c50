"""When the policy asks for a new model, on what evidence, and when it holds back.

Evidence counts from after the champion took over and after the newest request before the night: what has
led to a request leads to no second one the next night, and a model is not blamed for its predecessor.
Observed quality is the exception: it is the champion's own from its first day on, so cool-down and budget
alone limit how often it asks.

Cool-down and budget count requests on both sides of the night, so nights in any order ask as rarely. A night
that has asked gives the same answer when it runs again. Nights in disorder may choose other nights to ask on:
one that runs early cannot know that an earlier one is about to ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.monitoring import drift, quality, requests
from nightshift.monitoring.requests import Evidence, RetrainRequest
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.records import Deployment
from nightshift.training import feedback, manifest
from nightshift.training.snapshot import LABEL_AVAILABLE_ON
from nightshift.usecase import UseCase

_NIGHT = timedelta(days=1)


class RetrainDecision(BaseModel):
    """The policy's answer for one night.

    Attributes:
        requested: Whether a new model is asked for: there is evidence, and nothing held it back.
        evidence: What the triggers found.
        held: Why nothing is asked for in spite of it, in words.
        exhausted: Whether that is because the budget is spent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: date
    requested: bool
    evidence: tuple[Evidence, ...]
    champion_version: str | None
    held: str = ""
    exhausted: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """The evidence in words."""
        return tuple(item.message for item in self.evidence)


def decide(uc: UseCase, night: date) -> RetrainDecision:
    """Apply the policy ``retrain`` of the use case to what was known by ``night``.

    Without a champion, or with ``enabled: false``, nothing is asked for.
    """
    deployed = deployments.history(uc)
    champion = deployments.champion_at(uc, night, deployed)
    if champion is None or not uc.retrain.enabled:
        return RetrainDecision(night=night, requested=False, evidence=(), champion_version=None)
    made = requests.read(uc)
    own = next((entry for entry in made if entry.night == night and not entry.by_hand), None)
    if own is not None:
        return RetrainDecision(
            night=night, requested=True, evidence=own.evidence, champion_version=own.champion_version
        )
    evidence = tuple(_evidence(uc, night, champion, deployed, made))
    held, exhausted = _held(uc, night, made) if evidence else ("", False)
    return RetrainDecision(
        night=night,
        requested=bool(evidence) and not held,
        evidence=evidence,
        champion_version=champion.version,
        held=held,
        exhausted=exhausted,
    )


def request(uc: UseCase, decision: RetrainDecision) -> RetrainRequest:
    """Record that ``decision`` asks for a new model; a night that has asked before keeps its first record.

    Raises:
        DataError: The decision asks for nothing.
    """
    if not decision.requested:
        raise DataError(
            f"the decision of {decision.night} asks for no new model",
            rule="only a decision with evidence, which nothing held back, is recorded as a request",
            where=f"{uc.name}, retrain request, night {decision.night}",
            cure="look at `requested` first",
        )
    return requests.ask(uc, decision.night, decision.evidence, champion_version=decision.champion_version)


def ask_by_hand(uc: UseCase, night: date, reason: str, *, by: str) -> RetrainRequest:
    """Record that a person asks for a model that knows what was known by ``night``, whatever the policy says.

    Returns:
        The request; the night's open one, where there is one already.

    Raises:
        DataError: The champion knows as much already, so the request could only be closed again.
    """
    newest = deployments.newest(uc)
    if newest is not None and newest.trained_night >= night:
        raise DataError(
            f"version {newest.version} was trained on what was known on {newest.trained_night} already",
            rule="a new model knows more than the champion",
            where=f"{uc.name}, retrain request, night {night}",
            cure=f"name a night after {newest.trained_night} that has labels",
        )
    evidence = Evidence(trigger=requests.BY_HAND, message=f"by hand: {reason}", facts={"by": by})
    version = newest.version if newest else None
    return requests.ask(uc, night, [evidence], champion_version=version, by=by)


# Triggers -------------------------------------------------------------------------------------------


def _evidence(
    uc: UseCase,
    night: date,
    champion: Deployment,
    deployed: Sequence[Deployment],
    made: Sequence[RetrainRequest],
) -> Iterator[Evidence]:
    asked = max((entry.night for entry in made if entry.night < night), default=date.min)
    since = max(champion.effective_from, asked + _NIGHT if asked > date.min else date.min)
    known = max(champion.trained_night, asked)
    on = uc.retrain.triggers
    if "schedule" in on:
        yield from _age(uc, night, known, made)
    if "drift" in on:
        yield from _drifted(uc, night, since, champion)
    if "quality" in on:
        yield from _degraded(uc, night, deployed)
    if "labels" in on:
        yield from _labelled(uc, night, known, champion)


def _age(uc: UseCase, night: date, known: date, made: Sequence[RetrainRequest]) -> Iterator[Evidence]:
    every, age = uc.retrain.every_days, (night - known).days
    # Of nights in disorder a later one may have asked already: it is no older than the schedule wants.
    if age < every or any(0 < (entry.night - night).days < every for entry in made):
        return
    yield Evidence(
        trigger="schedule",
        message=f"schedule: {age} days since {known}, a new model is due every {every}",
        facts={"since": known.isoformat(), "days": age, "every_days": every},
    )


def _drifted(uc: UseCase, night: date, since: date, champion: Deployment) -> Iterator[Evidence]:
    needed, of = uc.retrain.drifted_nights, uc.retrain.drift_window
    first = max(since, night - timedelta(days=of - 1))
    found = {
        day: result
        for day, result in drift.results(uc, first, night).items()
        if result.model_hash == champion.model_hash and result.verdict == "drift"
    }
    # A quiet night asks for nothing, however bad those before it were.
    if night not in found or len(found) < needed:
        return
    yield Evidence(
        trigger="drift",
        message=f"drift: {len(found)} drifted nights of {of}, on {night} led by "
        f"{', '.join(found[night].columns[:3]) or 'no single column'}",
        facts={
            "of_nights": of,
            "columns": {day.isoformat(): list(found[day].columns[:10]) for day in sorted(found)},
        },
    )


def _degraded(uc: UseCase, night: date, deployed: Sequence[Deployment]) -> Iterator[Evidence]:
    worse = quality.degradation(uc, night, deployed)
    if worse is not None:
        figures = {name: float(getattr(worse, name)) for name in ("baseline", "observed", "low", "high")}
        yield Evidence(
            trigger="quality",
            message=f"quality: {worse.message}",
            facts={"metric": worse.metric, **figures, "days": worse.days, "rows": worse.rows},
        )


def _labelled(uc: UseCase, night: date, known: date, champion: Deployment) -> Iterator[Evidence]:
    behind = manifest.kept(uc, champion.snapshot_hash, champion.model_hash)
    if behind is None:
        return  # Trained before manifests were kept: nobody knows on how many rows.
    snapshot = behind.data.snapshot
    trained_on = snapshot.train.rows + snapshot.validation.rows
    new = _new_labels(uc, known, night) + _new_feedback(uc, known, night)
    if new <= uc.retrain.new_labels * trained_on:
        return
    yield Evidence(
        trigger="labels",
        message=f"labels: {new} rows were labelled since {known}, {new / trained_on:.0%} of the {trained_on} "
        f"that version {champion.version} was trained on, more than {uc.retrain.new_labels:.0%}",
        facts={"since": known.isoformat(), "new_rows": new, "training_rows": trained_on},
    )


def _new_labels(uc: UseCase, known: date, night: date) -> int:
    """Return how many rows the pipeline labelled after the night ``known``, by ``night``."""
    # What a training of tonight would not look at is not read either.
    corrected = max((table.correction_days for _, _, table in uc.tables()), default=0)
    first = known - timedelta(days=uc.label.lag_days + corrected)
    first = max(uc.history_start, first, night - timedelta(days=uc.training.window_days))
    last = night - timedelta(days=uc.label.lag_days)
    labels = tables.read_partitions(uc, "labels", first, last, [uc.label.column, LABEL_AVAILABLE_ON])
    if labels.num_rows == 0:
        return 0
    available = pc.cast(labels[LABEL_AVAILABLE_ON], pa.date32())
    new = pc.and_(pc.greater(available, known), pc.less_equal(available, night))
    return int(pc.sum(pc.and_(new, pc.is_valid(labels[uc.label.column]))).as_py() or 0)


def _new_feedback(uc: UseCase, known: date, night: date) -> int:
    """Return how many rows a training of ``night`` has from people alone that one of ``known`` had not."""
    first, last = _learned_from(uc, night)
    said = feedback.known(uc, night, first, last)
    before = feedback.known(uc, known, *_learned_from(uc, known))[uc.entity].combine_chunks()
    said = said.filter(pc.invert(pc.is_in(said[uc.entity], value_set=before)))
    if said.num_rows == 0:
        return 0
    columns = [uc.entity, uc.label.column, LABEL_AVAILABLE_ON]
    labels = tables.read_partitions(uc, "labels", first, last, columns)
    if labels.num_rows == 0:
        return int(said.num_rows)
    available = pc.cast(labels[LABEL_AVAILABLE_ON], pa.date32())
    told = labels.filter(pc.and_(pc.is_valid(labels[uc.label.column]), pc.less_equal(available, night)))
    return int(feedback.fill(uc, told, labels, said, night).num_rows - told.num_rows)


def _learned_from(uc: UseCase, night: date) -> tuple[date, date]:
    """Return the days of the training rows of a snapshot of ``night``: what people say joins no others."""
    kept_apart = uc.label.lag_days + uc.training.holdout_days + uc.training.validation_days
    first = max(uc.history_start, night - timedelta(days=uc.training.window_days))
    return first, night - timedelta(days=kept_apart)


# What holds a request back --------------------------------------------------------------------------


def _held(uc: UseCase, night: date, made: Sequence[RetrainRequest]) -> tuple[str, bool]:
    """Return why nothing may be asked for, empty when it may, and whether the budget is the reason."""
    policy = uc.retrain
    for entry in reversed(made):
        if abs((entry.night - night).days) <= policy.cooldown_days:
            rest = f"{policy.cooldown_days} days around a request there is no other one"
            return f"cool-down: request {entry.id} was made, and {rest}", False
    asked = [entry.night for entry in made if not entry.by_hand]
    span = timedelta(days=policy.budget.days - 1)
    for first in days(night - span, night):
        spent = [day for day in asked if first <= day <= first + span]
        if len(spent) >= policy.budget.requests:
            allowed = f"{policy.budget.requests} requests in {policy.budget.days} days are allowed"
            return f"budget: {allowed}, and the last of as many was on {max(spent)}", True
    return "", False
