"""Trains one candidate on a snapshot and logs all that made it.

The winner of a training stays as it was trained: it is not fitted again with the holdout rows, for then
nothing would be left that could have judged the model that goes into production.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.errors import DataError
from nightshift.metrics import forecast_metrics
from nightshift.registry import mlflow as tracking
from nightshift.registry import model as stored
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import Kind, Model, Origin, scorer_of
from nightshift.registry.models import MODEL_FOLDER
from nightshift.registry.records import Candidate
from nightshift.training.calibration import fit_calibration, threshold_of
from nightshift.training.plots import history_figure, importance_figure, permutation_importance
from nightshift.training.provenance import provenance
from nightshift.training.snapshot import Part, Snapshot, Window, labels_of, load_parts
from nightshift.training.trainer import Examples, Fit, Trainer
from nightshift.usecase import UseCase

__all__ = ["Candidate", "train"]

log = logging.getLogger(__name__)


def train(uc: UseCase, snapshot: Snapshot, trainer_name: str) -> Candidate:
    """Train with one of the use case's trainers and log the run to MLflow.

    Trained again on the same snapshot it gives the same model; the run that logged it first is returned
    and no second one is made.

    Raises:
        DataError: The use case declares no such trainer, a feature column is missing, or the rows hold only
            one class.
    """
    if trainer_name not in uc.training.trainers:
        raise DataError(
            f"there is no trainer {trainer_name!r}; there are {', '.join(uc.training.trainers)}",
            rule="a candidate comes from a declared trainer",
            where=f"{uc.name}: usecase.yml, training.trainers",
            cure="name one of those, or declare it",
        )
    declared = uc.training.trainers[trainer_name]
    parts: tuple[Part, ...] = ("train", "validation")
    rows = {
        part: _examples(uc, snapshot, part, table)
        for part, table in zip(parts, load_parts(snapshot, *parts), strict=True)
    }
    encoder = Encoder.fit(rows["train"].features, uc.features.categorical, uc.features.numeric)
    began = time.monotonic()
    fit = _trainer(declared.kind).fit(
        rows["train"], rows["validation"], encoder, declared.params, uc.training.seed
    )
    seconds = time.monotonic() - began
    scorer = scorer_of(declared.kind, fit.weights, encoder)
    raw = scorer.probabilities(rows["validation"].features)
    origin = Origin(
        usecase=uc.name,
        trainer=trainer_name,
        kind=declared.kind,
        encoder=encoder,
        calibration=fit_calibration(rows["validation"].label, raw),
        threshold=threshold_of(uc.costs),
        snapshot_hash=snapshot.content_hash,
        trained_night=snapshot.night,
        trained_through=snapshot.validation.end,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL_FOLDER
        model = Model(origin, scorer, folder)
        scores = {part: model.predict_proba(examples.features) for part, examples in rows.items()}
        metrics = {
            part: forecast_metrics(examples.label, scores[part], threshold=origin.threshold, costs=uc.costs)
            for part, examples in rows.items()
        }
        reference = _reference(uc, rows["train"].features, scores["train"])
        origin = stored.save(folder, origin, fit.weights, reference)
        log.info(
            "%s: %d rounds in %.1f s, validation %s",
            trainer_name,
            len(fit.history["validation_log_loss"]),
            seconds,
            {name: round(value, 4) for name, value in metrics["validation"].items()},
        )
        found = _logged(uc, origin)
        run_id, model_uri = found or _log(
            uc, snapshot, Model(origin, scorer, folder), fit, metrics, rows["validation"], seconds
        )
    return Candidate(
        usecase=uc.name,
        trainer=trainer_name,
        run_id=run_id,
        model_uri=model_uri,
        content_hash=origin.content_hash,
        snapshot_hash=snapshot.content_hash,
        trained_night=origin.trained_night,
        trained_through=origin.trained_through,
        metrics=metrics["validation"],
    )


def _trainer(kind: Kind) -> Trainer:
    if kind == "torch":
        from nightshift.training.torch_trainer import TorchTrainer

        return TorchTrainer()
    from nightshift.training.xgboost_trainer import XGBoostTrainer

    return XGBoostTrainer()


def _examples(uc: UseCase, snapshot: Snapshot, part: Part, table: pa.Table) -> Examples:
    label = labels_of(uc, table).to_numpy(zero_copy_only=False)
    if label.min() == label.max():
        raise DataError(
            f"all {label.size} {part} rows have {uc.label.column} = {label[0]:g}",
            rule="a classifier is trained and judged on both classes",
            where=f"{uc.name}, snapshot {snapshot.content_hash[:12]}, {part}",
            cure="look at the labels relation; widen the window if the outcome is that rare",
        )
    return Examples(table, label)


def _reference(uc: UseCase, table: pa.Table, score: npt.NDArray[np.float64]) -> pa.Table:
    """Return the rows whose entities hash lowest: the same sample however often it is drawn."""
    rank = np.array(
        [
            int.from_bytes(hashlib.blake2b(entity.encode(), digest_size=8).digest())
            for entity in table[uc.entity].to_pylist()
        ],
        dtype=np.uint64,
    )
    rows = np.sort(np.argsort(rank, kind="stable")[: uc.drift.reference_rows])
    columns = ["partition", *uc.features.columns]
    return table.select(columns).append_column("score", pa.array(score)).take(pa.array(rows))


def _logged(uc: UseCase, origin: Origin) -> tuple[str, str] | None:
    """Return run and model URI of the first finished run that logged this very model, if there is one."""
    found = tracking.client(uc).search_runs(
        [tracking.setup(uc)],
        filter_string=f"tags.model_hash = '{origin.content_hash}' and tags.snapshot_hash = "
        f"'{origin.snapshot_hash}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return (found[0].info.run_id, found[0].data.tags["model_uri"]) if found else None


def _log(
    uc: UseCase,
    snapshot: Snapshot,
    model: Model,
    fit: Fit,
    metrics: Mapping[Part, Mapping[str, float]],
    validation: Examples,
    seconds: float,
) -> tuple[str, str]:
    mlflow = tracking.fluent(uc)
    origin = model.origin
    made_by = {
        "data": snapshot.model_dump(mode="json"),
        **provenance(uc, device=str(fit.params.get("device", "cpu"))),
    }
    name = f"{origin.trainer} {snapshot.night.isoformat()}"
    with mlflow.start_run(experiment_id=tracking.setup(uc), run_name=name) as run:
        mlflow.set_tags(
            {
                "trainer": origin.trainer,
                "model_hash": origin.content_hash,
                "snapshot_hash": origin.snapshot_hash,
                "trained_night": origin.trained_night.isoformat(),
                "trained_through": origin.trained_through.isoformat(),
                "git_commit": made_by["code"]["commit"],
                "git_diff_hash": made_by["code"]["diff_hash"],
                "lock_hash": made_by["environment"]["lock_hash"],
                "hardware": json.dumps(made_by["hardware"]),
                "seed": str(uc.training.seed),
            }
        )
        mlflow.log_params({key: str(value) for key, value in fit.params.items()})
        mlflow.log_params({"threshold": origin.threshold, "features": len(model.feature_columns)})
        mlflow.log_dict(made_by, "manifest.json")
        _log_datasets(uc, snapshot, run.info.run_id)
        _log_history(uc, run.info.run_id, fit.history)
        mlflow.log_metrics(
            {f"{part}_{key}": value for part, values in metrics.items() for key, value in values.items()}
            | {"fit_seconds": seconds}
        )
        importance = permutation_importance(model, validation.features, validation.label, uc.training.seed)
        mlflow.log_dict(importance, "importance.json")
        title = f"{uc.title}: {origin.trainer}"
        mlflow.log_figure(importance_figure(importance, f"{title}\nimportance"), "plots/importance.png")
        mlflow.log_figure(history_figure(fit.history, f"{title}\nconvergence"), "plots/convergence.png")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="nightshift.registry.pyfunc",
            data_path=str(model.folder),
            signature=_signature(model.origin.encoder),
            input_example=_example(model.origin.encoder, validation.features.slice(0, 5)),
            # Given, because MLflow would otherwise load the model once more in a process of its own to guess.
            pip_requirements=[
                f"{key}=={version}" for key, version in made_by["environment"]["libraries"].items()
            ],
            metadata={"content_hash": origin.content_hash, "snapshot_hash": origin.snapshot_hash},
        )
        mlflow.set_tag("model_uri", logged.model_uri)
    return run.info.run_id, logged.model_uri


def _signature(encoder: Encoder) -> Any:
    """Return the MLflow signature. Stated, because types guessed from a few rows vary with their nulls."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [ColSpec("string", name) for name in encoder.categories]
    inputs += [ColSpec("double", name) for name in encoder.numeric]
    return ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype("float64"), (-1,))]))


def _example(encoder: Encoder, rows: pa.Table) -> Any:
    """Return rows as a frame whose columns have the types the signature promises."""
    frame = rows.select(list(encoder.columns)).to_pandas()
    types = dict.fromkeys(encoder.categories, "object") | dict.fromkeys(encoder.numeric, "float64")
    return frame.astype(types)


def _log_datasets(uc: UseCase, snapshot: Snapshot, run_id: str) -> None:
    """Name the frozen rows as the run's inputs. Their description only: MLflow need not read them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from nightshift.lake.store import open_store

    inputs = []
    for part in ("train", "validation", "holdout"):
        window: Window = getattr(snapshot, part)
        lies = snapshot.sealed if part == "holdout" else snapshot.data
        dataset = Dataset(
            name=f"{uc.name} {window.start} to {window.end}",
            digest=snapshot.content_hash[:8],
            source_type="nightshift",
            source=json.dumps({"uri": open_store().uri(lies.key), **window.model_dump(mode="json")}),
            profile=json.dumps({"num_rows": window.rows}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", part)]))
    tracking.client(uc).log_inputs(run_id, inputs)


def _log_history(uc: UseCase, run_id: str, history: Mapping[str, list[float]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [
        Metric(f"history_{name}", value, now, step)
        for name, values in history.items()
        for step, value in enumerate(values)
    ]
    batch = 1000  # MLflow's limit for one call
    for first in range(0, len(points), batch):
        tracking.client(uc).log_batch(run_id, metrics=points[first : first + batch])
