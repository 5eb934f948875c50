"""A night from end to end, and the bootstrap before it, in this process: what the DAGs do, without Airflow.

The stages stand here in the order in which the DAGs ``bootstrap``, ``ingest``, ``features``, ``score``,
``monitor`` and ``train`` run them for a day, so a night leaves the same content whichever way it ran; an
end-to-end test compares the two by content hash. Like the stages, each function may be called again for the
same day and changes nothing then.
"""

from __future__ import annotations

import logging
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from nightshift import stages
from nightshift.errors import DataError
from nightshift.monitoring.requests import OutcomeKind
from nightshift.partition import chunks, parse_partition
from nightshift.settings import settings
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

Outcome = Literal["not asked for", "awaits approval"] | OutcomeKind


@dataclass(frozen=True)
class Night:
    """What came of one night: the reasons for a new model, if any, and what came of that request."""

    night: date
    reasons: tuple[str, ...]
    training: Outcome


def plan_months(uc: UseCase, start: date, end: date) -> list[dict[str, str]]:
    """Split a range into what may land side by side: for each source its slow tables once, then months.

    Returns:
        ``source``, ``start``, ``end`` and ``refresh`` of each part, the slow tables first.
    """
    months = [
        {"source": source, "start": start.isoformat(), "end": end.isoformat(), "refresh": "slow"}
        for source in uc.sources
    ]
    first = start
    while first <= end:
        last = min(end, first.replace(day=monthrange(first.year, first.month)[1]))
        months += [
            {"source": source, "start": first.isoformat(), "end": last.isoformat(), "refresh": "daily"}
            for source in uc.sources
        ]
        first = last + timedelta(days=1)
    return months


def plan_chunks(start: date, end: date) -> list[dict[str, str]]:
    """Cut a range into what may be validated, published, scored, compared and judged side by side.

    Returns:
        ``start`` and ``end`` of each chunk, oldest first; one chunk where the range is short.
    """
    return [
        {"start": first.isoformat(), "end": last.isoformat()}
        for first, last in chunks(start, end, settings().parallelism)
    ]


def cut(uc: UseCase, staged: Sequence[dict[str, Any]], start: date, end: date) -> list[list[dict[str, Any]]]:
    """Cut what was built for a range into the chunks of ``plan_chunks``, without those that have nothing.

    A day's labels are in the chunk of the night that knew them first: whoever finds the features of a day
    finds the labels that came with them.
    """

    def night(item: dict[str, Any]) -> date:
        lag = uc.label.lag_days if item["layer"] == "labels" else 0
        # A build brings labels of earlier days, too; all of them came by the first night.
        return max(parse_partition(item["partition"]) + timedelta(days=lag), start)

    of_chunks = (
        [item for item in staged if chunk["start"] <= night(item).isoformat() <= chunk["end"]]
        for chunk in plan_chunks(start, end)
    )
    return [chunk for chunk in of_chunks if chunk]


def bootstrap(uc: UseCase, start: date, end: date) -> None:
    """Land and build ``start`` to ``end``, and train the first champion, in force from the day after.

    Raises:
        DataError: Bad data, after all that is good was landed; or no candidate passed the gate, and without a
            champion no night can be scored.
    """
    land_range(uc, start, end)
    stages.load(uc, start, end)
    for chunk in cut(uc, stages.build_features(uc, start, end), start, end):
        stages.publish_features(uc, stages.validate_features(uc, chunk))
    outcome = train(uc, end, by=f"bootstrap {end}")
    if outcome not in ("promoted", "superseded"):
        raise DataError(
            f"no champion came of the bootstrap of {start} to {end}: {outcome}",
            rule="nights are scored by a champion",
            where=f"{uc.name}, bootstrap through {end}",
            cure="read the evaluation in MLflow; bootstrap through a later day, or approve the challenger",
        )


def land_range(uc: UseCase, start: date, end: date) -> None:
    """Land ``start`` to ``end`` part by part; one that has bad data stops no other.

    Raises:
        DataError: The first part's that has bad data, once every part was tried; the log has the others'.
    """
    refused: list[DataError] = []
    for part in plan_months(uc, start, end):
        first, last = date.fromisoformat(part["start"]), date.fromisoformat(part["end"])
        try:
            stages.land(uc, part["source"], first, last, [part["refresh"]])
        except DataError as error:
            log.error("%s of %s to %s: %s", part["source"], first, last, error)
            refused.append(error)
    if refused:
        raise refused[0]


def run(uc: UseCase, night: date) -> Night:
    """Run one night: ingest, features, predictions, monitoring and, where the policy asks, a training."""
    return conclude(uc, night, prepare(uc, night))


def prepare(uc: UseCase, night: date) -> list[dict[str, Any]]:
    """Ingest what a night makes known, and build its features and labels; return them, staged.

    This part needs no model, so later nights may be prepared, one after the other, while one is concluded.
    """
    for source in uc.sources:
        stages.land(uc, source, night, night)
    stages.load(uc, night, night)
    return stages.build_features(uc, night, night)


def conclude(uc: UseCase, night: date, built: Sequence[dict[str, Any]]) -> Night:
    """Publish what a night built, score, monitor and, where the policy asks, train.

    A training that fails on bad data leaves the champion in force and the night as it is, as it does where
    ``train`` is a DAG of its own.
    """
    stages.publish_features(uc, stages.validate_features(uc, built))
    scored = stages.score(uc, night, night, run_id=f"night {night}")
    stages.publish_predictions(uc, stages.validate_predictions(uc, scored))
    stages.score_shadow(uc, night)
    stages.check_drift(uc, night, night)
    stages.judge_shadow(uc, stages.judge(uc, night, night))
    stages.queue_labels(uc, night, night)
    reasons = stages.decide_retrain(uc, night)
    return Night(night, tuple(reasons), _retrain(uc, night) if reasons else "not asked for")


def train(uc: UseCase, night: date, *, by: str) -> Outcome:
    """Train the candidates on what is known by ``night``, and promote the best one if it passes the gate.

    Args:
        uc: The use case.
        night: The day whose knowledge is learned from; a promotion takes effect on the day after.
        by: Who opens the holdout, for its ledger.

    Returns:
        ``awaits approval`` where the policy wants a person to decide: nobody is asked here.
    """
    if stages.superseded(uc, night):
        return "superseded"
    snapshot = stages.take_snapshot(uc, night)
    candidates = [stages.train_candidate(uc, snapshot, name) for name in uc.training.trainers]
    decision = stages.propose(uc, stages.gate(uc, stages.evaluate(uc, snapshot, candidates, by=by)))
    if not decision["promote"]:
        return "refused"
    if _to_be_approved(uc, decision):
        return "awaits approval"
    stages.promote(uc, night, decision)
    return "promoted"


def _retrain(uc: UseCase, night: date) -> Outcome:
    run_id = f"night {night}"
    if not stages.begin_training(uc, night, run_id):
        # Closed before, when the night ran already; or another run trains for it.
        return stages.outcome_of(uc, night) or "superseded"
    try:
        return train(uc, night, by=run_id)
    except DataError as error:
        log.exception("the training of %s failed; the champion stays", night)
        stages.training_failed(uc, run_id, error.message)
        return "failed"


def _to_be_approved(uc: UseCase, decision: dict[str, Any]) -> bool:
    """As the task ``approve`` decides whether to ask."""
    return (
        uc.gate.approval.policy == "manual"
        and stages.approval_of(uc, decision) is None
        and stages.open_question(uc, decision)
    )
