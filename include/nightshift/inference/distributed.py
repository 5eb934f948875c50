"""Scores one partition with the workers of a Ray cluster.

The files of the partition, as of one version of the table, are cut into stretches of rows. Each worker holds
the champion, reads a stretch from the lake by itself and gives back its predictions, so features never pass
through this process or through Ray's memory. A stretch whose worker was lost is scored again by another one.
A score does not depend on the rows beside it (``registry.model``), so predictions have the content hash that
one process gives them.

What is held here: the predictions of the partition, as with one process, and for their content hash one more
copy of them in key order. A worker holds a few batches of its stretch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.cluster import joined
from nightshift.errors import DataError, TransientError
from nightshift.inference import score as scoring
from nightshift.lake import tables
from nightshift.lake.delta import explained
from nightshift.lake.tables import PartitionVersion, Stretch
from nightshift.registry import model as stored
from nightshift.registry.model import Model
from nightshift.usecase import UseCase

# Stretches for each worker: the loss of one costs little, and the last to finish keeps the others waiting
# for little.
_STRETCHES = 8
# Fewer rows are not worth the messages. The predictions of more are no longer sent as one block, and a worker
# that waits until its blocks are taken holds the room in which lost ones are to be made again.
_STRETCH_ROWS = (2048, 131_072)
_SECONDS = "seconds"


def score(
    uc: UseCase, model: Model, features: PartitionVersion, run_id: str, seconds: list[float]
) -> Iterator[pa.RecordBatch]:
    """Yield the predictions of a partition, stretch by stretch in whatever order they are ready.

    Args:
        uc: The use case; its engine says how many workers there are.
        model: The champion.
        features: What is published for the partition.
        run_id: Names the run in each prediction.
        seconds: Gets what the model took for each batch, on the worker's clock.

    Raises:
        DataError: Ray is not installed, the features do not fit the model, or name an entity twice.
        TransientError: The features were replaced, the cluster failed or had no worker for half an hour, or
            rows were lost on the way.
    """
    where = f"{uc.name}, score, partition {features.partition}"
    workers = uc.engine.workers
    most_rows = min(max(-(-features.rows // (workers * _STRETCHES)), _STRETCH_ROWS[0]), _STRETCH_ROWS[1])
    version, stretches = tables.stretches(uc, "features", features.partition, most_rows)
    if version is None or version.content_hash != features.content_hash:
        raise TransientError(f"features of {uc.name} {features.partition} were replaced before being scored")
    entities: list[pa.Array] = []
    with joined(workers * uc.engine.cpus, 0, where):
        files = {file.name: file.read_bytes() for file in model.folder.iterdir()}
        job = _Job(uc, files, model.origin.identity, model.version, features, stretches, run_id)
        for batch in _scored(job):
            seconds += batch.column(_SECONDS).drop_null().to_pylist()
            # Copied: a view would keep the whole partition in Ray's memory, which is smaller than this one's.
            copied = batch.select(scoring.schema(uc).names).take(pa.array(np.arange(batch.num_rows)))
            predicted = copied.cast(scoring.schema(uc))
            entities.append(predicted.column(uc.entity))
            yield predicted
    _conserved(features, entities, where)


@dataclass(frozen=True)
class _Job:
    """What a worker needs. It gets the champion's own files, so it need not reach the registry."""

    usecase: UseCase
    model: dict[str, bytes]
    identity: stored.Identity
    version: str
    features: PartitionVersion
    stretches: list[Stretch]
    run_id: str


def _scored(job: _Job) -> Iterator[pa.RecordBatch]:
    import ray
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError

    workers = job.usecase.engine.workers
    # One row a stretch, one block a row: a worker is given one stretch at a time.
    numbers: list[dict[str, Any]] = [{"stretch": number} for number in range(len(job.stretches))]
    scored = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        _predictions,
        fn_args=([ray.put(job)],),
        batch_size=1,
        batch_format="pyarrow",
        # Not a pool of actors: what a lost actor had done only that actor does again, and it waits for room
        # while the others wait for what it had done. A lost task is done again by whichever worker is free.
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=job.usecase.engine.cpus,
    )
    try:
        for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_batches()
    except ExecutionTimeoutError as error:
        raise TransientError(f"{job.usecase.name} {job.features.partition} is not scored: {error}") from error


def _predictions(numbers: pa.Table, handed: list[Any]) -> Iterator[pa.Table]:
    """Be a worker, and yield the predictions of one stretch."""
    yield from _scorer(handed[0]).predictions(numbers["stretch"].to_pylist())


@lru_cache(maxsize=1)
def _scorer(handed: Any) -> _Scorer:
    """Load the champion, once in the life of a worker."""
    import ray

    return _Scorer(ray.get(handed))


class _Scorer:
    """What a worker keeps between two stretches."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        # As long as the worker: the reference rows, which reasons are given against, are read from it later.
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self._scratch.name)
        for name, content in self._job.model.items():
            (folder / name).write_bytes(content)
        self._model = stored.load(folder, self._job.identity).as_version(self._job.version)

    def predictions(self, stretches: list[int]) -> Iterator[pa.Table]:
        """Yield the predictions of stretches, each batch with what it took beside its first row."""
        uc, features = self._job.usecase, self._job.features
        columns, rows = scoring.columns(uc, self._model), scoring.chunk_rows(features.rows)
        with scoring.fitting(uc, features.partition, self._model), explained(uc, "features"):
            for number in stretches:
                for batch in self._job.stretches[number].batches(columns, rows):
                    yield self._predict(batch)

    def _predict(self, batch: pa.RecordBatch) -> pa.Table:
        start = time.perf_counter()
        predicted = scoring.predict(
            self._job.usecase, self._model, self._job.features, batch, self._job.run_id
        )
        took = [time.perf_counter() - start, *[None] * (batch.num_rows - 1)]
        return pa.Table.from_batches([predicted]).append_column(_SECONDS, pa.array(took, pa.float64()))


def _conserved(features: PartitionVersion, entities: list[pa.Array], where: str) -> None:
    """Raise unless as many rows came back as were published, each entity once."""
    named = pa.chunked_array(entities, pa.string())
    if len(named) != features.rows:
        raise TransientError(f"{where}: {features.rows} rows went to Ray, {len(named)} predictions came back")
    different = pc.count_distinct(named).as_py()
    if different != len(named):
        raise DataError(
            f"{len(named)} predictions name {different} entities",
            rule="each entity of a partition is scored once",
            where=where,
            cure="look for entities that the features name twice; if there are none, score again",
        )
