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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.errors import DataError
from nightshift.lake.checkpoints import Checkpoints
from nightshift.metrics import forecast_metrics
from nightshift.registry import mlflow as tracking
from nightshift.registry import model as stored
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import Kind, Model, Origin, scorer_of
from nightshift.registry.models import MODEL_FOLDER, REFERENCE_HASH
from nightshift.registry.records import Candidate
from nightshift.settings import settings
from nightshift.training import checkout, manifest
from nightshift.training.calibration import fit_calibration, threshold_of
from nightshift.training.plots import history_figure, shap_figure, shap_importance
from nightshift.training.progress import TRAINING, Watched, live_run, training_hash
from nightshift.training.snapshot import Part, Snapshot, Window, labels_of, load_parts
from nightshift.training.trainer import Examples, Fit, Trainer
from nightshift.training.watch import Unwatched, Watch
from nightshift.training.weights import weigh
from nightshift.usecase import Trainer as Declared
from nightshift.usecase import UseCase

__all__ = ["Built", "Candidate", "build", "identity", "train"]

log = logging.getLogger(__name__)

LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "scipy", "torch", "xgboost")
"""What a model is computed with, and needs to be read again."""


@dataclass(frozen=True)
class Built:
    """One model, made and not yet logged.

    Attributes:
        model: The model, stored in a folder.
        fit: What the trainer returned.
        rows: What it learned from, by part.
        metrics: Of the calibrated model, by part.
        seconds: How long the trainer took.
    """

    model: Model
    fit: Fit
    rows: Mapping[Part, Examples]
    metrics: Mapping[Part, Mapping[str, float]]
    seconds: float


def train(uc: UseCase, snapshot: Snapshot, trainer_name: str) -> Candidate:
    """Train with one of the use case's trainers and log the run to MLflow.

    Trained again on the same snapshot it gives the same model; the run that logged it first is returned
    and no second one is made. A training that was interrupted goes on from its last checkpoint, in its run.

    Raises:
        DataError: The use case declares no such trainer, a feature column is missing, or the rows hold only
            one class.
    """
    training = identity(uc, snapshot, trainer_name)
    parts: tuple[Part, ...] = ("train", "validation")
    checkpoints = Checkpoints(uc, training)
    finished = _finished(uc, snapshot, trainer_name, training)
    if finished is not None:
        log.info("%s: trained before, in run %s", trainer_name, finished.run_id)
        checkpoints.clear()
        return finished
    # Of now: whoever edits a file while a training lasts does not change what trains.
    code = checkout.describe(settings().project)
    tables = dict(zip(parts, load_parts(snapshot, *parts), strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        with live_run(uc, f"{trainer_name} {snapshot.night.isoformat()}", training) as live:
            watch = Watched(uc, trainer_name, checkpoints, live)
            folder = Path(scratch) / MODEL_FOLDER
            built = build(uc, trainer_name, tables, snapshot, folder, watch=watch)
        origin = built.model.origin
        log.info(
            "%s: %d rounds in %.1f s, validation %s",
            trainer_name,
            len(built.fit.history["validation_log_loss"]),
            built.seconds,
            {name: round(value, 4) for name, value in built.metrics["validation"].items()},
        )
        run_id, model_uri = _logged(uc, origin) or _log(uc, snapshot, built, live, code)
    if run_id != live:
        tracking.client(uc).delete_run(live)
    checkpoints.clear()
    return Candidate(
        usecase=uc.name,
        trainer=trainer_name,
        run_id=run_id,
        model_uri=model_uri,
        content_hash=origin.content_hash,
        snapshot_hash=snapshot.content_hash,
        trained_night=origin.trained_night,
        trained_through=origin.trained_through,
        metrics=dict(built.metrics["validation"]),
    )


def identity(uc: UseCase, snapshot: Snapshot, trainer_name: str) -> str:
    """Return what names a training with one of the use case's trainers; see ``training_hash``.

    Raises:
        DataError: The use case declares no such trainer, or one of its parameters is unknown or impossible.
    """
    declared = declared_trainer(uc, trainer_name)
    resolved = trainer_on_engine(uc, declared.kind).resolve(declared.params)
    return training_hash(uc, snapshot, declared.kind, resolved)


def build(
    uc: UseCase,
    trainer_name: str,
    tables: Mapping[Part, pa.Table],
    snapshot: Snapshot,
    folder: Path,
    *,
    watch: Watch | None = None,
) -> Built:
    """Train, calibrate and measure one model, and store it in ``folder``; nothing is written elsewhere.

    Args:
        uc: The use case.
        trainer_name: One of its trainers.
        tables: The rows of train and validation.
        snapshot: The snapshot they are of.
        folder: Where the model's files go.
        watch: Who looks on; by default nobody does, and nothing is kept.

    Raises:
        DataError: As ``train``.
    """
    declared = declared_trainer(uc, trainer_name)
    rows = {part: _examples(uc, snapshot, part, table) for part, table in tables.items()}
    rows = weigh(rows, uc.training.class_weight)
    encoder = Encoder.fit(rows["train"].features, uc.features.categorical, uc.features.numeric)
    began = time.monotonic()
    fit = trainer_on_engine(uc, declared.kind).fit(
        rows["train"],
        rows["validation"],
        encoder,
        declared.params,
        uc.training.seed,
        watch=watch or Unwatched(),
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
    model = Model(origin, scorer, folder)
    scores = {part: model.predict_proba(examples.features) for part, examples in rows.items()}
    metrics = {
        part: forecast_metrics(examples.label, scores[part], threshold=origin.threshold, costs=uc.costs)
        for part, examples in rows.items()
    }
    reference = _reference(uc, rows["train"].features, scores["train"])
    stamped = stored.save(folder, origin, fit.weights, reference)
    return Built(Model(stamped, scorer, folder), fit, rows, metrics, seconds)


def declared_trainer(uc: UseCase, trainer_name: str) -> Declared:
    """Return one of the use case's trainers.

    Raises:
        DataError: The use case declares none of that name.
    """
    if trainer_name not in uc.training.trainers:
        raise DataError(
            f"there is no trainer {trainer_name!r}; there are {', '.join(uc.training.trainers)}",
            rule="a candidate comes from a declared trainer",
            where=f"{uc.name}: usecase.yml, training.trainers",
            cure="name one of those, or declare it",
        )
    return uc.training.trainers[trainer_name]


def trainer_on_engine(uc: UseCase, kind: Kind) -> Trainer:
    """Return a trainer that computes where the use case's engine says."""
    if uc.engine.name == "ray" and kind != "logistic":
        from nightshift.training.distributed import DistributedTrainer

        return DistributedTrainer(uc, kind)
    return trainer_of(kind)


def trainer_of(kind: Kind) -> Trainer:
    """Return a trainer that computes in this process, and in others of this machine that it starts."""
    if kind == "torch":
        from nightshift.training.torch_trainer import TorchTrainer

        return TorchTrainer()
    if kind == "logistic":
        from nightshift.training.logistic_trainer import LogisticTrainer

        return LogisticTrainer()
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


def _finished(uc: UseCase, snapshot: Snapshot, trainer: str, training: str) -> Candidate | None:
    """Return the candidate that this very training gave before, if its run was logged to the end."""
    night = snapshot.night.isoformat()
    run = _first_finished(uc, {TRAINING: training, "trainer": trainer, "trained_night": night})
    if run is None or "model_uri" not in run.data.tags:
        return None
    tags, prefix = run.data.tags, "validation_"
    metrics = run.data.metrics.items()
    return Candidate(
        usecase=uc.name,
        trainer=trainer,
        run_id=run.info.run_id,
        model_uri=tags["model_uri"],
        content_hash=tags["model_hash"],
        snapshot_hash=snapshot.content_hash,
        trained_night=snapshot.night,
        trained_through=snapshot.validation.end,
        metrics={key.removeprefix(prefix): value for key, value in metrics if key.startswith(prefix)},
    )


def _logged(uc: UseCase, origin: Origin) -> tuple[str, str] | None:
    """Return run and model URI of the first finished run that logged this very model, if there is one."""
    run = _first_finished(uc, {"model_hash": origin.content_hash, "snapshot_hash": origin.snapshot_hash})
    return (run.info.run_id, run.data.tags["model_uri"]) if run else None


def _first_finished(uc: UseCase, tags: Mapping[str, str]) -> Any:
    """Return the first of MLflow's runs with these tags that was logged to the end; None if there is none."""
    conditions = [f"tags.{name} = '{value}'" for name, value in tags.items()]
    found = tracking.client(uc).search_runs(
        [tracking.setup(uc)],
        filter_string=" and ".join([*conditions, "attributes.status = 'FINISHED'"]),
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def _log(uc: UseCase, snapshot: Snapshot, built: Built, run_id: str, code: checkout.Code) -> tuple[str, str]:
    """Log all that made the model to its run and end it; return the run's id and the model's URI."""
    mlflow = tracking.fluent(uc)
    model, fit, validation = built.model, built.fit, built.rows["validation"]
    origin = model.origin
    # Kept before the run exists: whatever is killed later, no finished run lacks it.
    made_by = manifest.keep(
        manifest.describe(
            uc,
            snapshot,
            trainer=origin.trainer,
            model_hash=origin.content_hash,
            params=fit.params,
            made_at=datetime.now(UTC),
            code=code,
        )
    )
    with mlflow.start_run(run_id=run_id) as run:
        mlflow.set_tags(
            {
                "trainer": origin.trainer,
                "model_hash": origin.content_hash,
                REFERENCE_HASH: origin.reference_hash,
                "snapshot_hash": origin.snapshot_hash,
                "trained_night": origin.trained_night.isoformat(),
                "trained_through": origin.trained_through.isoformat(),
                "git_commit": made_by.code.commit,
                "git_diff_hash": made_by.code.diff_hash,
                "lock_hash": made_by.environment.lock_hash,
                "hardware": json.dumps(_hardware(made_by.environment)),
                "seed": str(uc.training.seed),
            }
        )
        mlflow.log_params({key: str(value) for key, value in fit.params.items()})
        mlflow.log_params(
            {
                "threshold": origin.threshold,
                "features": len(model.feature_columns),
                "class_weight": uc.training.class_weight,
            }
        )
        mlflow.log_dict(made_by.model_dump(mode="json"), "manifest.json")
        _log_datasets(uc, snapshot, run.info.run_id)
        _log_history(uc, run.info.run_id, fit.history)
        mlflow.log_metrics(
            {
                f"{part}_{key}": value
                for part, values in built.metrics.items()
                for key, value in values.items()
            }
            | {"fit_seconds": built.seconds}
        )
        title = f"{uc.title}: {origin.trainer}"
        shap = shap_importance(model, validation.features, uc.training.seed)
        mlflow.log_dict(shap, "shap.json")
        mlflow.log_figure(shap_figure(shap, f"{title}\nSHAP"), "plots/shap.png")
        mlflow.log_figure(history_figure(fit.history, f"{title}\nconvergence"), "plots/convergence.png")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="nightshift.registry.pyfunc",
            data_path=str(model.folder),
            signature=_signature(model.origin.encoder),
            input_example=_example(model.origin.encoder, validation.features.slice(0, 5)),
            # Given, because MLflow would otherwise load the model once more in a process of its own to guess.
            pip_requirements=[f"{name}=={made_by.environment.packages[name]}" for name in LIBRARIES],
            metadata={"content_hash": origin.content_hash, "snapshot_hash": origin.snapshot_hash},
        )
        mlflow.set_tag("model_uri", logged.model_uri)
    return run.info.run_id, logged.model_uri


def _hardware(environment: manifest.Environment) -> dict[str, Any]:
    return environment.model_dump(mode="json", include={"machine", "processor", "cores", "device", "gpus"})


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
