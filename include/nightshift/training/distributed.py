"""Trains one candidate with the workers of a Ray cluster, through Ray Train.

Each worker runs the very trainer that one process would run, inside the group of processes that Ray Train
sets up: XGBoost's sums of gradients, or torch's gradients, are added over the workers at every step. What
comes out is stored, calibrated, judged and registered like any other model. With the same number of workers
the same rows give the same model; another number gives another model:

* Trees: each worker has its share of the rows, in their order. The edges of bins come from sketches of the
  shares that are merged, where one process sketches all rows at once, and each worker draws the rows of a
  tree from its own share. So trees are others; what their quality differs by is within the standard error of
  the ROC AUC on the validation rows.
* Networks: each worker has all rows, and computes its share of each batch: what ``processes`` of the trainer
  are on one machine, byte for byte on CPUs.

A worker that is lost ends the attempt of all. They begin anew, from the last checkpoint that the first worker
left in the lake, as an interrupted training does.

This process holds the rows, as with one process, and Ray's memory has a copy of them for the workers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from nightshift import cluster
from nightshift.lake.store import open_store
from nightshift.registry.encoder import Encoder
from nightshift.training.trainer import Examples, Fit, Trainer
from nightshift.training.watch import Unwatched, Watch
from nightshift.usecase import Engine, UseCase

Kind = Literal["xgboost", "torch"]
"""Trainers that can share their work. A logistic regression takes a moment, and stays in one process."""

# So often a training begins anew after the loss of workers, and so often it waits another minute for room in
# the cluster.
_FAILURES = 3
_WAITS = 10


class DistributedTrainer:
    """A trainer whose work is shared by the workers that the use case's engine declares."""

    def __init__(self, uc: UseCase, kind: Kind) -> None:
        self._usecase, self._kind, self._engine = uc.name, kind, uc.engine

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides a training, as ``Trainer.resolve`` says; how many workers is part of it."""
        resolved = _local(self._kind, self._engine).resolve(_given(self._kind, self._engine, params))
        return {**resolved, **self._named}

    def fit(
        self,
        train: Examples,
        validation: Examples,
        encoder: Encoder,
        params: Mapping[str, Any],
        seed: int,
        *,
        watch: Watch,
    ) -> Fit:
        """Train as ``Trainer.fit`` says.

        Raises:
            DataError: As ``Trainer.fit``, or Ray is not installed.
            TransientError: The cluster is not reached, has no room for the workers, or kept losing them.
        """
        engine, where = self._engine, f"{self._usecase}, training of {self._kind}"
        # The controller of Ray Train reserves nothing.
        with cluster.joined(engine.workers * engine.cpus, engine.workers * engine.gpus, where):
            arguments = (encoder, _given(self._kind, engine, params), seed)
            fit = self._fit(where, train, validation, arguments, watch)
        return Fit(fit.weights, fit.history, {**fit.params, **self._named})

    @property
    def _named(self) -> dict[str, Any]:
        return {"engine": self._engine.name, "workers": self._engine.workers}

    def _fit(
        self, where: str, train: Examples, validation: Examples, arguments: tuple[Any, ...], watch: Watch
    ) -> Fit:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

        engine = self._engine
        shared = self._kind == "torch"
        parts = [
            [ray.put(share) for share in _shares(examples, 1 if shared else engine.workers)]
            for examples in (train, validation)
        ]
        # Whatever Ray Train writes for itself lies where all workers reach it, and goes with the training's
        # own checkpoints if this process is killed.
        storage, name = open_store().filesystem(f"checkpoints/{self._usecase}"), f"ray-{uuid.uuid4().hex}"
        reserved = {"CPU": engine.cpus, **({"GPU": engine.gpus} if engine.gpus else {})}
        trainer = _trainer_class(self._kind)(
            _work,
            train_loop_config={
                "kind": self._kind,
                "engine": engine,
                "parts": parts,
                "arguments": arguments,
                "watch": watch,
            },
            scaling_config=ScalingConfig(
                num_workers=engine.workers,
                use_gpu=engine.gpus > 0,
                resources_per_worker=reserved,
                # One machine was not enough.
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(
                name=name,
                storage_path=".",
                storage_filesystem=storage,
                failure_config=FailureConfig(max_failures=_FAILURES, controller_failure_limit=_WAITS),
            ),
        )
        try:
            result: Fit = trainer.fit().return_value
        except TrainingFailedError as error:
            raise cluster.translated(error, where) from error
        finally:
            with suppress(FileNotFoundError):
                storage.delete_dir(name)
        return result


def _trainer_class(kind: Kind) -> Any:
    if kind == "torch":
        from ray.train.torch import TorchTrainer

        return TorchTrainer
    from ray.train.xgboost import XGBoostTrainer

    return XGBoostTrainer


def _local(kind: Kind, engine: Engine) -> Trainer:
    """Return the trainer that a worker runs."""
    if kind == "torch":
        from nightshift.training.torch_trainer import TorchTrainer

        return TorchTrainer(device_of_group="cuda" if engine.gpus else "cpu")
    from nightshift.training.xgboost_trainer import XGBoostTrainer

    return XGBoostTrainer()


def _given(kind: Kind, engine: Engine, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a worker's trainer."""
    if kind == "torch":
        return {**params, "processes": engine.workers}
    return {"device": "cuda" if engine.gpus else "cpu", **params}


def _shares(examples: Examples, count: int) -> list[Examples]:
    """Cut rows into shares that differ by a row at most, in their order: each row is in one of them."""
    edges = np.linspace(0, examples.features.num_rows, count + 1).astype(int)
    return [
        Examples(
            examples.features.slice(low, high - low),
            examples.label[low:high],
            None if examples.weight is None else examples.weight[low:high],
        )
        for low, high in pairwise(edges)
    ]


class _Following(Unwatched):
    """Every worker but the first has this: it begins where the first one does, and tells nothing."""

    def __init__(self, first: Watch) -> None:
        self._first = first

    def resume(self) -> bytes | None:
        """Return the state that the first worker begins with."""
        return self._first.resume()


def _work(job: dict[str, Any]) -> Fit | None:
    """Be one of the workers; the first one returns what came of it."""
    import ray
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    train, validation = (ray.get(shares[rank % len(shares)]) for shares in job["parts"])
    watch: Watch = job["watch"]
    fit = _local(job["kind"], job["engine"]).fit(
        train, validation, *job["arguments"], watch=watch if rank == 0 else _Following(watch)
    )
    return fit if rank == 0 else None
