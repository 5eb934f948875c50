"""Opens holdout rows, once for each model, and writes down who looked before anybody sees.

What was chosen by its verdict on a holdout cannot be judged by that holdout again. So each window, known by
the content of its rows, has a budget of one evaluation for each model. The ledger lies in the lake and only
grows. A look is written down before the rows are read, and is spent once the model's scores are kept, before
a metric of them is known: killed in between, nobody has learned anything, and the next run goes on. From then
on the same evaluation reads the kept scores and ends the same; another one is refused, unless it gives a
reason, which stays on the model's page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import append_log, audit
from nightshift.lake.frozen import Frozen, freeze, thaw, unseal
from nightshift.registry.model import Model
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import UseCase

Scores = dict[str, npt.NDArray[np.float64]]
"""Probabilities of shape (rows,) by the content hash of their model."""


class Look(BaseModel):
    """One model, one holdout, one evaluation.

    Attributes:
        opened: Content hash of the holdout's rows.
        model_hash: Content hash of the model.
        evaluation: Identity of the evaluation, as ``identity`` gives it.
        override: Why the model was judged on this holdout again; empty for the first time.
        by: Who looked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    opened: str
    start: date
    end: date
    rows: int
    model_hash: str
    evaluation: str
    override: str
    by: str
    recorded_at: datetime


class _Spent(BaseModel):
    """The scores of a look, and whose they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: str
    scores: Frozen


def identity(snapshot: Snapshot, challengers: Sequence[str], champion: str | None) -> str:
    """Return what names an evaluation: its snapshot, and the content hashes of the models it compares."""
    compared = {"snapshot": snapshot.content_hash, "challengers": sorted(challengers), "champion": champion}
    return hashlib.sha256(json.dumps(compared).encode()).hexdigest()


def look(
    uc: UseCase,
    snapshot: Snapshot,
    challengers: Mapping[str, Model],
    champion: Model | None,
    *,
    by: str,
    override: str = "",
) -> tuple[pa.Table, Scores]:
    """Open the holdout of ``snapshot`` and return its rows and what each model says of them.

    Args:
        uc: The use case.
        snapshot: Whose holdout.
        challengers: Models that want to be judged, by content hash.
        champion: What they are compared with. It may have been judged on these rows before, as a challenger.
        by: Who looks.
        override: Why challengers may be judged here again.

    Raises:
        DataError: A challenger was judged on this holdout by another evaluation, and no reason is given.
    """
    models = dict(challengers) | ({champion.content_hash: champion} if champion else {})
    evaluation = identity(snapshot, list(challengers), champion.content_hash if champion else None)
    spent = {model_hash: _spent(uc, snapshot, model_hash) for model_hash in models}
    again = {
        model_hash
        for model_hash, found in spent.items()
        if found is not None and found.evaluation != evaluation and model_hash in challengers
    }
    if again and not override:
        raise _refused(uc, snapshot, [models[model_hash] for model_hash in sorted(again)])
    for model_hash, found in spent.items():
        if found is None or model_hash in again:
            _write_down(uc, snapshot, model_hash, evaluation, by, override if model_hash in again else "")
    rows = unseal(snapshot.sealed, _looks_log(uc, next(iter(models)), snapshot.sealed.content_hash))
    scores: Scores = {}
    for model_hash, model in models.items():
        kept = spent[model_hash] or _keep(uc, snapshot, model, rows, evaluation)
        if kept.evaluation != evaluation and model_hash in challengers and not override:
            raise _refused(uc, snapshot, [model])
        scores[model_hash] = thaw(kept.scores)["score"].to_numpy()
    return rows, scores


def looks(uc: UseCase, model_hash: str) -> list[Look]:
    """Return every look for a model, oldest first."""
    found = [
        Look.model_validate(record)
        for name in append_log.names(f"holdouts/{uc.name}/{model_hash}")
        if name.endswith("/looks")
        for record in append_log.read_log(name)
    ]
    return sorted(found, key=lambda item: item.recorded_at)


def _write_down(
    uc: UseCase, snapshot: Snapshot, model_hash: str, evaluation: str, by: str, override: str
) -> None:
    sealed, log = snapshot.sealed, _looks_log(uc, model_hash, snapshot.sealed.content_hash)
    written = append_log.read_log(log)
    if written and (written[-1]["evaluation"], written[-1]["override"]) == (evaluation, override):
        return
    record = Look(
        usecase=uc.name,
        opened=sealed.content_hash,
        start=snapshot.holdout.start,
        end=snapshot.holdout.end,
        rows=snapshot.holdout.rows,
        model_hash=model_hash,
        evaluation=evaluation,
        override=override,
        by=by,
        recorded_at=datetime.now(UTC),
    )
    if override:
        audit.record(
            "open_holdout",
            usecase=uc.name,
            subject=f"holdout {record.start} to {record.end}",
            who=by,
            why=override,
            details={"model_hash": model_hash, "evaluation": evaluation},
            identity=[model_hash, evaluation, sealed.content_hash, override],
        )
    append_log.append(log, record.model_dump(mode="json"))


def _keep(uc: UseCase, snapshot: Snapshot, model: Model, rows: pa.Table, evaluation: str) -> _Spent:
    """Keep a model's scores; of two evaluations at once, those of the first stay."""
    scored = pa.table({uc.entity: rows[uc.entity], "score": model.predict_proba(rows)})
    mine = _Spent(evaluation=evaluation, scores=freeze(uc, "holdout_scores", scored, [uc.entity]))
    log = _spent_log(uc, model.content_hash, snapshot.sealed.content_hash)
    if append_log.begin(log, mine.model_dump(mode="json")):
        return mine
    return _Spent.model_validate(append_log.read_log(log)[0])


def _spent(uc: UseCase, snapshot: Snapshot, model_hash: str) -> _Spent | None:
    records = append_log.read_log(_spent_log(uc, model_hash, snapshot.sealed.content_hash))
    return _Spent.model_validate(records[0]) if records else None


def _refused(uc: UseCase, snapshot: Snapshot, models: Sequence[Model]) -> DataError:
    judged = []
    for model in models:
        first = Look.model_validate(
            append_log.read_log(_looks_log(uc, model.content_hash, snapshot.sealed.content_hash))[0]
        )
        who = f"{model.origin.trainer} ({model.content_hash[:12]})"
        judged.append(f"{who} on {first.recorded_at:%Y-%m-%d} by {first.by}")
    holdout = snapshot.holdout
    return DataError(
        f"judged on the {holdout.rows} rows of {holdout.start} to {holdout.end} before: {'; '.join(judged)}",
        rule="a holdout is looked at once for each model: who tunes by its verdict is judged by it no more",
        where=f"{uc.name}, holdout {snapshot.sealed.content_hash[:12]}",
        cure="train for a later night, whose holdout nobody has seen; or give a reason as holdout_override, "
        "which stays on the model's page",
    )


def _looks_log(uc: UseCase, model_hash: str, holdout_hash: str) -> str:
    return f"holdouts/{uc.name}/{model_hash}/{holdout_hash}/looks"


def _spent_log(uc: UseCase, model_hash: str, holdout_hash: str) -> str:
    return f"holdouts/{uc.name}/{model_hash}/{holdout_hash}/scores"
