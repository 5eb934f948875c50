"""Batch scoring: features of a day in, staged predictions out, with every version that made them.

The engine of the use case says where: in this process, or by the workers of a Ray cluster
(``inference.distributed``). The predictions are the same, to their content hash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import numpy as np
import pyarrow as pa

from nightshift.errors import DataError, TransientError
from nightshift.inference import performance
from nightshift.inference.reasons import reasons
from nightshift.lake import tables
from nightshift.lake.staging import Staged, stage
from nightshift.lake.tables import PartitionVersion
from nightshift.registry import deployments, models
from nightshift.registry.model import Model
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "predictions"

# A day is scored in so many chunks, so that there are latencies to compare, within what is worth a call of
# the model and what fits into memory. A row's score does not depend on its chunk.
_CHUNKS = 8
_CHUNK_ROWS = (128, 65536)


def schema(uc: UseCase) -> pa.Schema:
    """Return the columns of predictions; ``run_id`` and ``model_version`` are no part of the content hash.

    ``reasons`` is JSON text, as ``inference.reasons`` writes it; null in what was scored before it existed.
    """
    return pa.schema(
        [
            pa.field(uc.entity, pa.string(), nullable=False),
            pa.field("partition", pa.date32(), nullable=False),
            pa.field(uc.event_time, pa.timestamp("us", tz="UTC")),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("decision", pa.bool_(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("model_hash", pa.string(), nullable=False),
            pa.field("feature_version", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("reasons", pa.string()),
        ]
    )


def score(
    uc: UseCase, partition: date, run_id: str = "", deployed: Sequence[Deployment] | None = None
) -> Staged:
    """Score ``partition`` with the champion in force on it and stage the predictions.

    How long it took is kept beside them, where that can be done; see ``inference.performance``.

    Args:
        uc: The use case.
        partition: The day whose features are scored.
        run_id: Names the run in each prediction; never part of the content hash.
        deployed: ``deployments.history``, for who scores many days; read anew by default.

    Returns:
        The staged predictions, one row for each row of features, in the columns of ``schema``.

    Raises:
        DataError: No champion is in force on that day, or the features lack a column the model reads.
        TransientError: The features of the day are not published yet, or were replaced while being read; or
            the cluster failed.
    """
    model = _champion(uc, partition, deployed)
    features = _features(uc, partition)
    seconds: list[float] = []
    scored = (_on_ray if uc.engine.name == "ray" else _here)(uc, model, features, run_id, seconds)
    try:
        with fitting(uc, partition, model):
            predictions = pa.Table.from_batches(scored, schema=schema(uc))
    except Exception:
        with _for_the_record(uc, partition):
            performance.failed(uc, partition, model.content_hash)
        raise
    # Scanning and reading the version are two looks at the table; they must have seen the same partition.
    if _features(uc, partition).content_hash != features.content_hash:
        raise TransientError(f"features of {uc.name} {partition} were replaced while they were being scored")
    log.info(
        "scored %s %s: %d rows, model version %s", uc.name, partition, predictions.num_rows, model.version
    )
    staged = stage(uc, LAYER, partition, predictions, [uc.entity])
    with _for_the_record(uc, partition):
        performance.scored(uc, partition, staged.content_hash, model.content_hash, staged.rows, seconds)
    return staged


@contextmanager
def _for_the_record(uc: UseCase, partition: date) -> Iterator[None]:
    """Log what goes wrong with the record of how scoring went: it costs neither a score nor its error."""
    try:
        yield
    except Exception:
        log.exception("how the scoring of %s %s went could not be recorded", uc.name, partition)


def _champion(uc: UseCase, partition: date, deployed: Sequence[Deployment] | None) -> Model:
    deployment = deployments.champion_at(uc, partition, deployed)
    if deployment is None:
        raise DataError(
            f"no champion of {uc.name} is in force on {partition}",
            rule="a day is scored by the champion in force on it, by the deployment log",
            where=f"{uc.name}, score, partition {partition}",
            cure=f"run the {uc.name}.bootstrap DAG through a day before {partition}, or {uc.name}.train",
        )
    return models.load_model(uc, deployment.version, deployment.model_hash)


def _features(uc: UseCase, partition: date) -> PartitionVersion:
    version = tables.partition_version(uc, "features", partition)
    if version is None:
        raise TransientError(f"features of {uc.name} {partition} are not published yet")
    return version


def _here(
    uc: UseCase, model: Model, features: PartitionVersion, run_id: str, seconds: list[float]
) -> Iterator[pa.RecordBatch]:
    batches = tables.scan(
        uc, "features", features.partition, columns=columns(uc, model), batch_rows=chunk_rows(features.rows)
    )
    for batch in batches:
        start = time.perf_counter()
        predicted = predict(uc, model, features, batch, run_id)
        seconds.append(time.perf_counter() - start)
        yield predicted


def _on_ray(
    uc: UseCase, model: Model, features: PartitionVersion, run_id: str, seconds: list[float]
) -> Iterator[pa.RecordBatch]:
    from nightshift.inference import distributed

    yield from distributed.score(uc, model, features, run_id, seconds)


@contextmanager
def fitting(uc: UseCase, partition: date, model: Model) -> Iterator[None]:
    """Say of features without a column, or with one of another type, that they do not fit the model."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise DataError(
            f"the features of {partition} do not fit model version {model.version}: {error}",
            rule="a model reads every column of its feature list",
            where=f"{uc.name}, score, partition {partition}",
            cure="rebuild the features of that day, or train a model on the columns that exist",
        ) from error


def columns(uc: UseCase, model: Model) -> list[str]:
    """Return the columns of the features that predictions are made of."""
    return list(dict.fromkeys((uc.entity, uc.event_time, *model.feature_columns)))


def chunk_rows(rows: int) -> int:
    """Return how many rows of a day of ``rows`` are scored at once."""
    return min(max(-(-rows // _CHUNKS), _CHUNK_ROWS[0]), _CHUNK_ROWS[1])


def predict(
    uc: UseCase, model: Model, features: PartitionVersion, batch: pa.RecordBatch, run_id: str
) -> pa.RecordBatch:
    """Return the predictions of a batch of features, in the columns of ``schema``.

    Raises:
        ArrowInvalid: A column is of another type; see ``fitting``.
        DataError: The features lack a column that the model reads.
    """
    probability = model.predict_proba(batch)
    rows = batch.num_rows
    constants = (model.version, model.content_hash, features.content_hash, run_id)
    return pa.record_batch(
        [
            batch.column(uc.entity).cast(pa.string()),
            pa.repeat(pa.scalar(features.partition, pa.date32()), rows),
            batch.column(uc.event_time).cast(pa.timestamp("us", tz="UTC")),
            pa.array(probability, pa.float64()),
            pa.array(np.asarray(probability >= model.threshold), pa.bool_()),
            *(pa.repeat(value, rows) for value in constants),
            reasons(model, batch, uc.explanation.top_reasons),
        ],
        schema=schema(uc),
    )
