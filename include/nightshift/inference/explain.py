"""Why a prediction says what it says: by the model and the features that made it, whatever came after."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.inference.counterfactual import Counterfactual, counterfactual
from nightshift.inference.reasons import rounded, text
from nightshift.inference.score import LAYER
from nightshift.lake import contents, tables
from nightshift.registry.model import Model
from nightshift.registry.models import load_model
from nightshift.usecase import UseCase

# Scores are kept to so much by content hashes, too.
_SAME_SCORE = 1e-8


class Contribution(BaseModel):
    """One feature of the entity, and what it adds to the log-odds before calibration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    value: str | None
    contribution: float


class Outcome(BaseModel):
    """What happened, as far as it is known. ``value`` is null where there will be no label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int | None
    known_since: date | None


class Explained(BaseModel):
    """One prediction, and why.

    Attributes:
        threshold: The score from which the model decides yes.
        base: Log-odds before calibration, where nothing sets a row apart.
        log_odds: Those of this row: ``base`` and all contributions.
        contributions: Of every feature the model reads, strongest first.
        counterfactual: The smallest allowed change that flips the decision; None where there is none.
        allowed: The features that it could have changed.
        outcome: None as long as nothing is known.
        notes: What whoever reads this should know, such as features that were published again since.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    entity: str
    partition: date
    event_time: datetime | None
    score: float
    threshold: float
    decision: bool
    model_version: str
    model_hash: str
    trainer: str
    feature_version: str
    base: float
    log_odds: float
    contributions: list[Contribution]
    counterfactual: Counterfactual | None
    allowed: list[str]
    outcome: Outcome | None
    notes: list[str]


def find_prediction(
    uc: UseCase, entity: str, partition: date | None = None, among: Collection[date] | None = None
) -> dict[str, Any] | None:
    """Return the newest prediction of an entity, or that of a partition; None where there is none.

    Args:
        uc: The use case.
        entity: Whose prediction.
        partition: Only this one.
        among: Only these; by default all there are.
    """
    days = set(tables.partition_versions(uc, LAYER)) if among is None else set(among)
    if partition is not None:
        days &= {partition}
    found = next(tables.newest_rows(uc, LAYER, days, uc.entity, [entity]), None)
    return found.to_pylist()[0] if found is not None else None


def not_found(
    uc: UseCase,
    entity: str,
    partition: date | None = None,
    among: Collection[date] | None = None,
    rule: str = "only what was scored is explained",
) -> DataError:
    """Return the error that says which predictions there are instead, as ``find_prediction`` was asked."""
    days = sorted(tables.partition_versions(uc, LAYER))
    where = f"{uc.name}, {LAYER}" + (f", partition {partition}" if partition else "")
    if not days:
        return DataError(
            f"{uc.name} has no predictions yet", rule=rule, where=where, cure=f"run the {uc.name}.score DAG"
        )
    if partition is not None and partition not in days:
        return DataError(
            f"{uc.name} has no predictions of {partition}",
            rule=rule,
            where=where,
            cure=f"name a night from {days[0]} to {days[-1]}; `nightshift partitions --layer {LAYER}` lists "
            "them",
        )
    day = partition or days[-1]
    known = tables.read_partitions(uc, LAYER, day, day, columns=[uc.entity])[uc.entity].to_pylist()
    alike = difflib.get_close_matches(entity, known, n=3) or known[:3]
    looked = f" on {partition}" if partition else ""
    earlier = ""
    if among is not None and len(among) < len(days):
        looked, earlier = f" on the newest {len(among)} days", "name the day, if it is an earlier one, or "
    return DataError(
        f"{uc.name} has no prediction of {uc.entity} {entity!r}{looked}",
        rule=rule,
        where=where,
        cure=f"{earlier}name an entity that was scored; some of {day}: {', '.join(alike)}",
    )


def explain(uc: UseCase, prediction: dict[str, Any]) -> Explained:
    """Explain a prediction, as ``find_prediction`` returns it, by the model and the features that made it.

    Raises:
        DataError: The model or the features that made it are gone.
    """
    entity, day = prediction[uc.entity], prediction["partition"]
    model = _model(uc, prediction)
    row = _features(uc, prediction)
    score = float(model.predict_proba(row)[0])
    found = model.contributions(row)
    values = rounded(found.values)[0]
    return Explained(
        usecase=uc.name,
        entity=entity,
        partition=day,
        event_time=prediction[uc.event_time],
        score=prediction["score"],
        threshold=model.threshold,
        decision=prediction["decision"],
        model_version=prediction["model_version"],
        model_hash=prediction["model_hash"],
        trainer=model.origin.trainer,
        feature_version=prediction["feature_version"],
        base=found.base,
        log_odds=found.base + float(found.values[0].sum()),
        contributions=[
            Contribution(
                feature=(name := model.feature_columns[place]),
                value=text(row[name][0].as_py()),
                contribution=float(values[place]),
            )
            for place in np.argsort(-np.abs(values), kind="stable")
        ],
        counterfactual=counterfactual(uc, model, row),
        allowed=[name for name in uc.explanation.allowed if name in model.feature_columns],
        outcome=outcome_of(uc, day, entity),
        notes=list(_notes(uc, prediction, score)),
    )


def _model(uc: UseCase, prediction: dict[str, Any]) -> Model:
    version, content = prediction["model_version"], prediction["model_hash"]
    model = load_model(uc, version)
    if model.content_hash != content:
        raise DataError(
            f"version {version} is model {model.content_hash[:12]}, the prediction was made by "
            f"{content[:12]}",
            rule="a prediction is explained by the model that made it",
            where=f"registered model {uc.name}, version {version}",
            cure=_score_again(prediction),
        )
    return model


def _features(uc: UseCase, prediction: dict[str, Any]) -> pa.Table:
    day, content = prediction["partition"], prediction["feature_version"]
    located = contents.locate(uc, "features", {day: content}, hint=-1)
    if located.gone:
        raise DataError(
            f"the features {content[:12]} of {day}, which the prediction was made from, are gone",
            rule=f"replaced features are kept for {uc.retention.version_days} days (retention.version_days)",
            where=f"{uc.name}, features, partition {day}",
            cure=_score_again(prediction),
        )
    rows = contents.read(uc, "features", located)
    return rows.filter(pc.equal(rows[uc.entity], prediction[uc.entity])).combine_chunks()


def _score_again(prediction: dict[str, Any]) -> str:
    return (
        f"the reasons stored with the prediction still stand; rebuild the predictions of "
        f"{prediction['partition']} to explain what is scored from what there is now"
    )


def outcome_of(uc: UseCase, day: date, entity: str) -> Outcome | None:
    """Return what happened to an entity of a day; None as long as nothing is known."""
    labels = tables.read_partitions(uc, "labels", day, day)
    if not labels.num_rows:
        return None
    found = labels.filter(pc.equal(labels[uc.entity], entity)).to_pylist()
    if not found:
        return None
    value = found[0][uc.label.column]
    return Outcome(
        value=None if value is None else int(value), known_since=found[0].get("label_available_on")
    )


def _notes(uc: UseCase, prediction: dict[str, Any], score: float) -> list[str]:
    day, notes = prediction["partition"], []
    current = tables.partition_version(uc, "features", day)
    if current is None:
        notes.append(f"the features of {day} are not published any more")
    elif current.content_hash != prediction["feature_version"]:
        notes.append(
            f"the features of {day} were published again since ({current.content_hash[:12]}): `nightshift "
            "stale --rebuild` scores them"
        )
    if abs(score - prediction["score"]) > _SAME_SCORE:
        notes.append(f"the same model gives the same features a score of {score:.9f} on this machine")
    return notes
