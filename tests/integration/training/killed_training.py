"""Trainings that run in processes of their own and are killed, over checkpoints in a real lake."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests import synthetic

from nightshift.lake import s3
from nightshift.lake.checkpoints import Checkpoints
from nightshift.registry.encoder import Encoder
from nightshift.training.trainer import Examples, Fit, Trainer

KINDS: dict[str, dict[str, Any]] = {
    "xgboost": {"rounds": 34, "early_stopping_rounds": 30, "min_child_weight": 5, "max_depth": 3},
    # Three steps an epoch.
    "torch": {"hidden": [8], "members": 4, "epochs": 4, "patience": 2, "batch_rows": 220, "threads": 1},
}
FOLDER = "checkpoints/synthetic/one/"


def trainer(kind: str) -> Trainer:
    """Import what trains ``kind``."""
    if kind == "torch":
        from nightshift.training.torch_trainer import TorchTrainer

        return TorchTrainer()
    from nightshift.training.xgboost_trainer import XGBoostTrainer

    return XGBoostTrainer()


def examples(first: int, last: int) -> Examples:
    """The synthetic days from ``first`` to before ``last``."""
    wanted = [synthetic.START + timedelta(days=i) for i in range(first, last)]
    labels = pa.concat_tables(synthetic.labels_of(day) for day in wanted)["returned"].fill_null(0)
    features = pa.concat_tables(synthetic.features_of(day) for day in wanted)
    return Examples(features, labels.to_numpy().astype(np.float32))


class Impatient:
    """Keeps a checkpoint whenever it can, in the lake, and notes the steps it hears of."""

    def __init__(self, on_report: Callable[[int], None] = lambda step: None) -> None:
        self.checkpoints = Checkpoints(synthetic.use_case(), "one")
        self.steps: list[int] = []
        self._on_report = on_report

    def resume(self) -> bytes | None:
        return self.checkpoints.newest()

    def due(self) -> bool:
        return True

    def keep(self, state: bytes, step: int) -> None:
        self.checkpoints.keep(state, step)

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self._on_report(step)


def fit(kind: str, watch: Impatient) -> Fit:
    """Train ``kind`` on made-up days."""
    train, validation = examples(0, 8), examples(8, 10)
    encoder = Encoder.fit(train.features, synthetic.CATEGORICAL, synthetic.NUMERIC)
    return trainer(kind).fit(train, validation, encoder, KINDS[kind], 3, watch=watch)


def die() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_until(kind: str, killed_at_step: int, killed_at_write: int, steps: str) -> None:
    """Train in this process, which is killed at a step it reports, or at one of its writes (0: at none).

    Args:
        kind: Kind of trainer.
        killed_at_step: Number of the step.
        killed_at_write: Number of the step towards durable storage.
        steps: File that gets the number of each step done.
    """
    written = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal written
            written += 1
            if written == killed_at_write:
                die()
            return function(*args, **kwargs)

        return call

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))
    s3.S3Store.put = deadly(s3.S3Store.put)
    s3.S3Store.delete = deadly(s3.S3Store.delete)

    def on_report(step: int) -> None:
        with Path(steps).open("a", encoding="utf-8") as file:
            file.write(json.dumps(step) + "\n")
        if step == killed_at_step:
            die()

    fit(kind, Impatient(on_report))
