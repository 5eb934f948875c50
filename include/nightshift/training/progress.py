"""Makes a training visible and interruptible: its live MLflow run, its checkpoints, its progress."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import nightshift.registry
from nightshift.lake.checkpoints import Checkpoints
from nightshift.registry import mlflow as tracking
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

TRAINING = "training_hash"
"""Tag of a run: which training it is of, as ``training_hash`` names it."""

_SECONDS_BETWEEN_REPORTS = 5.0
# Writing checkpoints may cost one part in so many of a training's time.
_SHARE_OF_CHECKPOINTS = 100


def training_hash(uc: UseCase, snapshot: Snapshot, kind: str, resolved: Mapping[str, Any]) -> str:
    """Return the name of a training: a hash of everything that decides its outcome.

    Args:
        uc: Columns, label, seed, class weight and costs are read from it.
        snapshot: Its rows and how they are split count, the night it was taken on does not.
        kind: Kind of trainer.
        resolved: What ``Trainer.resolve`` returned.
    """
    decides = {
        "rows": snapshot.content_hash,
        "parts": [part.model_dump(mode="json") for part in (snapshot.train, snapshot.validation)],
        "columns": [uc.features.categorical, uc.features.numeric, uc.label.column],
        "kind": kind,
        "params": resolved,
        "seed": uc.training.seed,
        "class_weight": uc.training.class_weight,
        "costs": uc.costs.model_dump(mode="json"),
        "reference_rows": uc.drift.reference_rows,
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@contextmanager
def live_run(uc: UseCase, name: str, training: str) -> Iterator[str]:
    """Open the MLflow run of a training, with system metrics, and yield its id.

    The run that an interrupted attempt at the same training left unfinished is taken up again. It stays
    unfinished afterwards: whoever logs the model to it ends it.
    """
    left = tracking.client(uc).search_runs(
        [tracking.setup(uc)],
        filter_string=f"tags.{TRAINING} = '{training}' and attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    with attached(uc, left[0].info.run_id if left else None, name, {TRAINING: training}) as run_id:
        yield run_id


@contextmanager
def attached(uc: UseCase, run_id: str | None, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Let a training write to an MLflow run, a new one if ``run_id`` is None, and yield the run's id.

    It gets system metrics meanwhile. It stays unfinished afterwards, or is marked as failed by an exception.
    """
    mlflow = tracking.fluent(uc)
    mlflow.set_system_metrics_sampling_interval(_SECONDS_BETWEEN_REPORTS)
    run = mlflow.start_run(
        run_id=run_id,
        experiment_id=tracking.setup(uc),
        run_name=name,
        tags=dict(tags),
        log_system_metrics=True,
    )
    status = "FAILED"
    try:
        yield run.info.run_id
        status = "RUNNING"
    finally:
        mlflow.end_run(status)


class Watched:
    """A watch that keeps checkpoints in the lake, writes to the log, and to a live MLflow run.

    Sent to another process it begins anew there: clocks and the use of memory are each process's own.

    Args:
        uc: The use case.
        name: What the log calls the training.
        checkpoints: Where it keeps them.
        run_id: MLflow run that gets ``progress/...`` metrics while the training lasts.
    """

    def __init__(self, uc: UseCase, name: str, checkpoints: Checkpoints, run_id: str) -> None:
        self._uc = uc
        self._name = name
        self._checkpoints = checkpoints
        self._run_id = run_id
        self._asked = self._began = self._reported = time.monotonic()
        self._next_checkpoint = self._began + uc.training.checkpoint_seconds
        self._first_step: int | None = None
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call begins what the next one measures

    def __reduce__(self) -> tuple[object, ...]:
        return Watched, (self._uc, self._name, self._checkpoints, self._run_id)

    def resume(self) -> bytes | None:
        """Return the last whole checkpoint of this training, if an interrupted one left any."""
        state = self._checkpoints.newest()
        if state is not None:
            log.info("%s: goes on from a checkpoint", self._name)
        return state

    def due(self) -> bool:
        """Return whether the last checkpoint is long enough ago; more so, the longer it took to write."""
        self._asked = time.monotonic()
        return self._asked >= self._next_checkpoint

    def keep(self, state: bytes, step: int) -> None:
        """Store a checkpoint in the lake."""
        self._checkpoints.keep(state, step)
        now = time.monotonic()
        took = now - self._asked
        self._next_checkpoint = now + max(self._uc.training.checkpoint_seconds, _SHARE_OF_CHECKPOINTS * took)

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Log progress, time left at most, and use of the device, every few seconds."""
        if self._first_step is None:
            self._first_step = step - 1
        now = time.monotonic()
        if now - self._reported < _SECONDS_BETWEEN_REPORTS and step < total:
            return
        self._reported = now
        left = (now - self._began) / (step - self._first_step) * (total - step)
        values = ", ".join(f"{name.replace('_', ' ')} {value:.5f}" for name, value in metrics.items())
        log.info(
            "%s: %d of at most %d steps, %s; at most %.0f s to go; %s",
            self._name,
            step,
            total,
            values,
            left,
            self._device_use(),
        )
        self._log_live({**metrics, "share": step / total, "seconds_left_at_most": left}, step)

    def _device_use(self) -> str:
        memory = self._process.memory_info().rss / 2**30
        used = f"{self._process.cpu_percent() / 100:.1f} cores, {memory:.1f} GiB"
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            used += f", {torch.cuda.memory_allocated() / 2**30:.1f} GiB on {torch.cuda.get_device_name()}"
        return used

    def _log_live(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        points = [Metric(f"progress/{name}", value, now, step) for name, value in metrics.items()]
        try:
            tracking.client(self._uc).log_batch(self._run_id, metrics=points)
        except MlflowException as error:
            # Nobody trains again because nobody could watch.
            log.warning("%s: progress does not reach MLflow: %s", self._name, error)


def _code() -> str:
    """Return a hash of the code that trains and scores: another code may read a checkpoint otherwise."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(nightshift.registry.__file__).parent):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
