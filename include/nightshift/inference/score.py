"""Batch scoring: features of a day in, staged predictions out, with every version that made them."""

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
        TransientError: The features of the day are not published yet, or were replaced while being read.
    """
    model = _champion(uc, partition, deployed)
    features = _features(uc, partition)
    columns = list(dict.fromkeys((uc.entity, uc.event_time, *model.feature_columns)))
    chunk = min(max(-(-features.rows // _CHUNKS), _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    batches = tables.scan(uc, "features", partition, columns=columns, batch_rows=chunk)
    seconds: list[float] = []
    scored = _score(uc, model, features, batches, run_id, seconds)
    try:
        predictions = pa.Table.from_batches(scored, schema=schema(uc))
    except pa.ArrowInvalid as error:
        with _for_the_record(uc, partition):
            performance.failed(uc, partition, model.content_hash)
        raise DataError(
            f"the features of {partition} do not fit model version {model.version}: {error}",
            rule="a model reads every column of its feature list",
            where=f"{uc.name}, score, partition {partition}",
            cure="rebuild the features of that day, or train a model on the columns that exist",
        ) from error
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


def _score(
    uc: UseCase,
    model: Model,
    features: PartitionVersion,
    batches: Iterator[pa.RecordBatch],
    run_id: str,
    seconds: list[float],
) -> Iterator[pa.RecordBatch]:
    """Yield the predictions of each batch, and append to ``seconds`` what the model took for it."""
    for batch in batches:
        start = time.perf_counter()
        probability = model.predict_proba(batch)
        rows = batch.num_rows
        why = reasons(model, batch, uc.explanation.top_reasons)
        seconds.append(time.perf_counter() - start)
        constants = (model.version, model.content_hash, features.content_hash, run_id)
        yield pa.record_batch(
            [
                batch.column(uc.entity).cast(pa.string()),
                pa.repeat(pa.scalar(features.partition, pa.date32()), rows),
                batch.column(uc.event_time).cast(pa.timestamp("us", tz="UTC")),
                pa.array(probability, pa.float64()),
                pa.array(np.asarray(probability >= model.threshold), pa.bool_()),
                *(pa.repeat(value, rows) for value in constants),
                why,
            ],
            schema=schema(uc),
        )
