"""Candidates and the champion, on the same rows, which none of them was trained on."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.evaluation import ledger
from nightshift.evaluation.calibration import calibration
from nightshift.evaluation.fairness import Scored, fairness
from nightshift.evaluation.judging import Compared, Comparison, Judged, Resampled, compare, compared, judge
from nightshift.evaluation.latency import Latency, measure
from nightshift.evaluation.leakage import refuse_beyond_backtest, refuse_implausible
from nightshift.evaluation.plots import calibration_figure, precision_recall_figure, roc_figure
from nightshift.evaluation.robustness import robustness
from nightshift.evaluation.stress import stress
from nightshift.registry import deployments
from nightshift.registry import mlflow as tracking
from nightshift.registry.model import Model
from nightshift.registry.models import load_candidate, load_model
from nightshift.registry.records import Candidate, Deployment
from nightshift.training.plots import shap_importance
from nightshift.training.snapshot import Snapshot, labels_of, load
from nightshift.usecase import UseCase

__all__ = ["Challenge", "Comparison", "Evaluation", "Judged", "evaluate"]


class Challenge(BaseModel):
    """One candidate, how it did, and paired differences: positive where its metric is the higher one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Candidate
    judged: Judged
    versus_champion: Comparison | None = None
    versus_baseline: Comparison | None = None


class Evaluation(BaseModel):
    """What the gate decides on.

    Attributes:
        start: First compared day.
        end: Last compared day.
        challenges: Every candidate, in the order given.
        champion: What the candidates have to beat, as ``deployments.rival`` says; None before the first
            promotion.
        champion_judged: How it did on the same rows; None when there is none or it cannot be compared.
        champion_note: Why it cannot be compared; empty when it was, or when there is none.
        baseline: Trainer of the candidate that the others must beat; empty when there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    snapshot_hash: str
    start: date
    end: date
    challenges: list[Challenge]
    champion: Deployment | None
    champion_judged: Judged | None
    champion_note: str
    baseline: str = ""


def evaluate(
    uc: UseCase, snapshot: Snapshot, candidates: Sequence[Candidate], *, by: str = "train", override: str = ""
) -> Evaluation:
    """Judge all ``candidates`` and the champion on the snapshot's holdout.

    Days that a compared model was trained on are left out for all of them. Metrics, plots and the whole
    evaluation are logged to each candidate's MLflow run. Called again it gives the same; see ``ledger``.

    Args:
        uc: The use case.
        snapshot: What the candidates were trained on.
        candidates: At least one.
        by: Who looks at the holdout, for the ledger.
        override: Why candidates that were judged on this holdout may be judged on it again.

    Raises:
        DataError: There is no candidate, one comes from another snapshot, no day is left to compare on, one
            is too good to be true (``leakage``), or a candidate was judged on this holdout before and
            ``override`` is empty.
    """
    _check(uc, snapshot, candidates)
    champion = deployments.rival(uc, {candidate.content_hash for candidate in candidates})
    models = {candidate.run_id: load_candidate(uc, candidate) for candidate in candidates}
    note = ""
    incumbent: Model | None = None
    if champion is not None:
        try:
            incumbent = load_model(uc, champion.version, champion.model_hash)
        except DataError as error:
            note = f"version {champion.version} cannot be read: {error.message}"
        missing = sorted(set(incumbent.feature_columns) - set(snapshot.columns)) if incumbent else []
        if missing:
            incumbent = None
            note = (
                f"version {champion.version} reads columns the features no longer have: {', '.join(missing)}"
            )
    together = [*models.values(), *([incumbent] if incumbent else [])]
    seen = max(model.trained_through for model in together)
    if seen >= snapshot.holdout.end:
        raise _nothing_left(uc, snapshot, seen)
    validation = load(snapshot, "validation")
    validation_label = labels_of(uc, validation).to_numpy(zero_copy_only=False)
    refuse_implausible(uc, candidates, validation, validation_label)
    challengers = {model.content_hash: model for model in models.values()}
    rows, scored = ledger.look(uc, snapshot, challengers, incumbent, by=by, override=override)
    unseen = pc.greater(rows["partition"], seen)
    rows = rows.filter(unseen)
    if rows.num_rows == 0:
        raise _nothing_left(uc, snapshot, seen)
    inside = unseen.to_numpy()
    label = labels_of(uc, rows).to_numpy(zero_copy_only=False)
    scores = {run_id: scored[model.content_hash][inside] for run_id, model in models.items()}
    theirs = scored[incumbent.content_hash][inside] if incumbent else None
    ground = compared(uc, rows, label)

    def examine(
        model: Model, score: npt.NDArray[np.float64], latency: Latency
    ) -> tuple[Judged, Resampled | None]:
        seen = Scored(validation, validation_label, model.predict_proba(validation))
        return _examine(uc, ground, model, Scored(rows, label, score), seen, latency)

    examined = {
        run_id: examine(model, scores[run_id], _latency(uc, run_id, model, validation))
        for run_id, model in models.items()
    }
    reigning = None
    if champion is not None and incumbent is not None and theirs is not None:
        reigning = examine(incumbent, theirs, _latency(uc, champion.run_id, incumbent, validation))
    reached = {
        item.trainer: examined[item.run_id][0].metrics["roc_auc"]
        for item in candidates
        if "roc_auc" in examined[item.run_id][0].metrics
    }
    refuse_beyond_backtest(uc, candidates, "holdout", reached, rows, label)
    baseline = next((item for item in candidates if item.trainer == uc.training.baseline), None)
    evaluation = Evaluation(
        usecase=uc.name,
        snapshot_hash=snapshot.content_hash,
        start=max(snapshot.holdout.start, seen + timedelta(days=1)),
        end=snapshot.holdout.end,
        challenges=[
            Challenge(
                candidate=candidate,
                judged=examined[candidate.run_id][0],
                versus_champion=compare(ground, examined[candidate.run_id], reigning) if reigning else None,
                versus_baseline=compare(ground, examined[candidate.run_id], examined[baseline.run_id])
                if baseline is not None and candidate is not baseline
                else None,
            )
            for candidate in candidates
        ],
        champion=champion,
        champion_judged=reigning[0] if reigning else None,
        champion_note=note,
        baseline=baseline.trainer if baseline else "",
    )
    named = {candidate.trainer: scores[candidate.run_id] for candidate in candidates}
    if theirs is not None and champion is not None:
        named[f"champion (version {champion.version})"] = theirs
    _log(uc, evaluation, label, named)
    return evaluation


def _check(uc: UseCase, snapshot: Snapshot, candidates: Sequence[Candidate]) -> None:
    strangers = [c.trainer for c in candidates if c.snapshot_hash != snapshot.content_hash]
    if strangers or not candidates:
        raise DataError(
            f"trained on another snapshot: {', '.join(strangers)}" if strangers else "there is no candidate",
            rule="candidates compete on one snapshot",
            where=f"{uc.name}, snapshot {snapshot.content_hash[:12]}",
            cure="train every candidate on the snapshot that is evaluated",
        )


def _nothing_left(uc: UseCase, snapshot: Snapshot, seen: date) -> DataError:
    return DataError(
        f"the champion was trained on days up to {seen}; the holdout ends on {snapshot.holdout.end}",
        rule="models are compared on rows that none of them was trained on",
        where=f"{uc.name}, snapshot of {snapshot.night}",
        cure="train for a later night",
    )


def _examine(
    uc: UseCase, ground: Compared, model: Model, judged: Scored, validation: Scored, latency: Latency
) -> tuple[Judged, Resampled | None]:
    """Judge ``model`` on the compared rows, and put it to the test on validation rows."""
    found, resampled = judge(ground, judged.score, model.threshold)
    examined = found.model_copy(
        update={
            "calibration": calibration(uc, model, judged.rows, judged.label, judged.score),
            "fairness": fairness(uc, judged, validation, model.threshold),
            "robustness": robustness(uc, model, validation.rows, validation.label),
            "stress": stress(uc, model, validation.rows),
            "importance": shap_importance(model, validation.rows, uc.training.seed),
            "latency": latency,
        }
    )
    return examined, resampled


def _latency(uc: UseCase, run_id: str, model: Model, rows: pa.Table) -> Latency:
    """Return what was measured when the run was judged first; clocks never tell the same twice."""
    client = tracking.client(uc)
    known = client.get_run(run_id).data.tags.get("latency")
    if known is not None:
        return Latency.model_validate_json(known)
    measured = measure(model, rows)
    for name, value in measured.model_dump().items():
        client.log_metric(run_id, f"latency_{name}", value)
    client.set_tag(run_id, "latency", measured.model_dump_json())
    return measured


def _log(
    uc: UseCase,
    evaluation: Evaluation,
    label: npt.NDArray[np.float32],
    scores: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Log to every candidate's run, once for each distinct evaluation."""
    content = evaluation.model_dump_json(indent=2)
    identity = hashlib.sha256(content.encode()).hexdigest()
    period = f"{evaluation.start} to {evaluation.end}"
    figures = {
        "roc": roc_figure(label, scores, f"{uc.title}\nROC, {period}"),
        "precision_recall": precision_recall_figure(
            label, scores, f"{uc.title}\nprecision and recall, {period}"
        ),
        "calibration": calibration_figure(label, scores, f"{uc.title}\ncalibration, {period}"),
    }
    with tempfile.TemporaryDirectory() as drawn:
        for name, figure in figures.items():
            figure.savefig(Path(drawn) / f"holdout_{name}.png")
        for challenge in evaluation.challenges:
            _log_challenge(uc, challenge, content, identity, drawn)


def _log_challenge(uc: UseCase, challenge: Challenge, content: str, identity: str, drawn: str) -> None:
    """Log one candidate's part of an evaluation; ``drawn`` is the folder of the pictures."""
    client, run_id = tracking.client(uc), challenge.candidate.run_id
    if client.get_run(run_id).data.tags.get("evaluation_hash") == identity:
        return
    for name, value in challenge.judged.metrics.items():
        client.log_metric(run_id, f"holdout_{name}", value)
    client.log_artifacts(run_id, drawn, "plots")
    # The deployment log names an evaluation by its hash; a later one does not take its place.
    client.log_text(run_id, content, f"evaluations/{identity}.json")
    client.log_text(run_id, content, "evaluation.json")
    reasons = [item.override for item in ledger.looks(uc, challenge.candidate.content_hash) if item.override]
    if reasons:
        client.set_tag(run_id, "holdout_override", "; ".join(reasons))
    client.set_tag(run_id, "evaluation_hash", identity)
