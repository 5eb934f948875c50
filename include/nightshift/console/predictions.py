"""The prediction page: one entity found again, what was said of it, why, and what it was made from."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from pydantic import AwareDatetime

from nightshift.console.partitions import Read, features_read
from nightshift.console.views import View
from nightshift.inference.explain import Outcome, find_prediction, not_found, outcome_of
from nightshift.lake import tables
from nightshift.usecase import UseCase

NEWEST_DAYS = 60
"""Days with predictions in which an entity is looked for where no day is named."""


class Reason(View):
    """One of the strongest reasons, as stored with the prediction: what a feature adds to the log-odds."""

    feature: str
    value: str | None
    contribution: float


class Prediction(View):
    """One prediction as it is published.

    Attributes:
        reasons: The strongest, as they were stored when it was made.
        outcome: What happened, as far as it is known.
        features_read: The raw versions that its features were built from.
    """

    entity: str
    day: date
    event_time: AwareDatetime | None
    score: float
    decision: bool
    model_version: str
    model_hash: str
    feature_version: str
    run_id: str
    reasons: tuple[Reason, ...]
    outcome: Outcome | None
    features_read: tuple[Read, ...]


class Entities(View):
    """Some of the entities that were scored on a day, and how many fit what was asked for."""

    day: date | None
    total: int
    entities: tuple[str, ...]


def find(uc: UseCase, entity: str, day: date | None) -> Prediction:
    """Return the newest prediction of an entity, or that of a day.

    Raises:
        DataError: There is none; the error names some that there are.
    """
    found = stored(uc, entity, day)
    return Prediction(
        entity=found[uc.entity],
        day=found["partition"],
        event_time=found[uc.event_time],
        score=found["score"],
        decision=found["decision"],
        model_version=found["model_version"],
        model_hash=found["model_hash"],
        feature_version=found["feature_version"],
        run_id=found["run_id"],
        reasons=tuple(_reasons(found)),
        outcome=outcome_of(uc, found["partition"], entity),
        features_read=tuple(features_read(uc, found["partition"], found["feature_version"])),
    )


def stored(uc: UseCase, entity: str, day: date | None) -> dict[str, Any]:
    """Return the row of the newest prediction of an entity, or that of a day.

    Raises:
        DataError: There is none; without a day, none on the newest days: a page does not read them all.
    """
    newest = None if day else sorted(tables.partition_versions(uc, "predictions"))[-NEWEST_DAYS:]
    found = find_prediction(uc, entity, day, newest)
    if found is None:
        raise not_found(uc, entity, day, newest)
    return found


def search(uc: UseCase, text: str, day: date | None, limit: int) -> Entities:
    """Return entities whose name holds ``text``, of a day or of the newest that has predictions."""
    there = tables.partition_versions(uc, "predictions")
    day = day or max(there, default=None)
    if day is None or day not in there:
        return Entities(day=day, total=0, entities=())
    scored = tables.read_partitions(uc, "predictions", day, day, columns=[uc.entity])[uc.entity].to_pylist()
    wanted = text.casefold()
    fitting = [name for name in scored if wanted in name.casefold()]
    return Entities(day=day, total=len(fitting), entities=tuple(fitting[:limit]))


def _reasons(prediction: dict[str, Any]) -> list[Reason]:
    return [Reason(**reason) for reason in json.loads(prediction["reasons"] or "[]")]
