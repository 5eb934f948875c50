"""Training through to a logged model against the bare library, and the network's loop against a plain one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightshift.usecase import Trainer, UseCase, load_usecase

from .harness import Comparison, DifferentResultsError, Timed, environment
from .inference import publish

_TREES = {"rounds": 300, "early_stopping_rounds": 300}
_NETWORK = {"epochs": 3, "patience": 3, "dropout": 0.0}


@contextmanager
def trees(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Train as many rounds on the same rows, with a snapshot before and a logged model after, and without."""
    import xgboost

    from nightshift.training import snapshot as frozen
    from nightshift.training.train import train
    from nightshift.training.xgboost_trainer import XGBoostTrainer

    with environment(folder):
        uc = _usecase()
        taken = publish(uc, 100 if quick else 5000)
        encoder, arrays = _arrays(uc, *frozen.load_parts(taken, "train", "validation"))
        resolved = XGBoostTrainer().resolve(_TREES)
        params = {
            key: value
            for key, value in resolved.items()
            if key not in ("rounds", "early_stopping_rounds", "xgboost")
        } | {"objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist"}
        kinds = ["c"] * len(encoder.categories) + ["q"] * len(encoder.numeric)

        def ours(number: int) -> Timed:
            # An experiment of its own, or the round would find its model logged already.
            own = uc.model_copy(update={"name": f"{uc.name}_{number}"})
            start = time.perf_counter()
            candidate = train(own, taken, "xgboost")
            return Timed(time.perf_counter() - start, candidate.metrics["roc_auc"])

        def other(number: int) -> Timed:
            from sklearn.metrics import roc_auc_score

            start = time.perf_counter()
            data = []
            for array, label in arrays:
                data.append(
                    xgboost.QuantileDMatrix(
                        array,
                        label,
                        feature_types=kinds,
                        enable_categorical=True,
                        max_bin=params["max_bin"],
                        ref=data[0] if data else None,
                    )
                )
            booster = xgboost.train(
                {**params, "seed": number},
                data[0],
                _TREES["rounds"],
                evals=[(data[0], "train"), (data[1], "validation")],
                verbose_eval=False,
            )
            seconds = time.perf_counter() - start
            return Timed(seconds, roc_auc_score(arrays[1][1], booster.predict(data[1])))

        yield Comparison(
            name="training of trees",
            against="xgboost.train on arrays in memory",
            measure="ratio",
            at_most=2.0,
            ours=ours,
            other=other,
            check=_alike,
            note=f"{taken.train.rows:,} rows, {len(kinds)} features, {_TREES['rounds']} rounds. Ours reads "
            "and checks the snapshot, encodes, trains, calibrates, computes metrics and importance of every "
            "feature, draws, and logs the model. The bare call builds its matrices and trains.",
        )


@contextmanager
def network(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Train the same network for as many epochs with our trainer and with a plain ``DataLoader`` loop."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from nightshift.registry.encoder import Encoder
    from nightshift.registry.network import QuantileScale, TabularNetwork
    from nightshift.training import snapshot as frozen
    from nightshift.training.torch_trainer import TorchTrainer
    from nightshift.training.trainer import Examples
    from nightshift.training.watch import Unwatched

    with environment(folder):
        uc = _usecase()
        taken = publish(uc, 100 if quick else 5000)
        train, validation = (
            Examples(table, frozen.labels_of(uc, table).to_numpy(zero_copy_only=False))
            for table in frozen.load_parts(taken, "train", "validation")
        )
        encoder = Encoder.fit(train.features, uc.features.categorical, uc.features.numeric)
        resolved = TorchTrainer().resolve(_NETWORK)
        device = torch.device(resolved["device"])

        def ours(number: int) -> Timed:
            start = time.perf_counter()
            fit = TorchTrainer().fit(train, validation, encoder, _NETWORK, number, watch=Unwatched())
            return Timed(time.perf_counter() - start, min(fit.history["validation_log_loss"]))

        def other(number: int) -> Timed:
            start = time.perf_counter()
            torch.manual_seed(number)
            scale = QuantileScale.fit(encoder.tensors(train.features)[1])
            parts = []
            for examples in (train, validation):
                codes, numbers = encoder.tensors(examples.features)
                arrays = (codes, scale.apply(numbers), examples.label)
                parts.append(TensorDataset(*map(torch.from_numpy, arrays)))
            model = TabularNetwork(
                [len(known) for known in encoder.categories.values()],
                len(encoder.numeric),
                resolved["hidden"],
                resolved["members"],
                resolved["dropout"],
            ).to(device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=resolved["learning_rate"])
            loader = DataLoader(parts[0], batch_size=resolved["batch_rows"], shuffle=True)
            for _ in range(resolved["epochs"]):
                for batch in loader:
                    codes, numbers, label = (tensor.to(device) for tensor in batch)
                    logits = model(codes, numbers)
                    loss = nn.functional.binary_cross_entropy_with_logits(
                        logits, label.unsqueeze(1).expand_as(logits)
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            with torch.inference_mode():
                codes, numbers, label = (tensor.to(device) for tensor in parts[1].tensors)
                held = nn.functional.binary_cross_entropy(model.probabilities(codes, numbers), label.double())
            return Timed(time.perf_counter() - start, float(held))

        yield Comparison(
            name="training of a network",
            against="a plain PyTorch DataLoader loop",
            measure="ratio",
            at_most=1.0,
            ours=ours,
            other=other,
            check=_alike,
            note=f"{taken.train.rows * resolved['epochs']:,} samples ({taken.train.rows:,} rows, "
            f"{resolved['epochs']} epochs) on {device.type}: samples a second are that by the seconds. Both "
            "encode the same rows and train the same network; ours also looks at the validation rows after "
            "each epoch.",
        )


def _usecase() -> UseCase:
    uc = load_usecase("flight_delays")
    training = uc.training.model_copy(
        update={
            "validation_days": 5,
            "holdout_days": 5,
            "trainers": {"xgboost": Trainer(kind="xgboost", params=_TREES)},
            "baseline": None,
        }
    )
    return uc.model_copy(update={"training": training})


def _arrays(uc: UseCase, *tables: pa.Table) -> tuple[Any, list[tuple[Any, Any]]]:
    from nightshift.registry.encoder import Encoder
    from nightshift.training.snapshot import labels_of

    encoder = Encoder.fit(tables[0], uc.features.categorical, uc.features.numeric)
    arrays = []
    for table in tables:
        codes, numbers = encoder.tensors(table)
        array = np.concatenate([np.where(codes > 0, codes - 1, np.nan), numbers], axis=1)
        label = labels_of(uc, table).to_numpy(zero_copy_only=False)
        arrays.append((array.astype(np.float32), label))
    return encoder, arrays


def _alike(ours: float, other: float) -> None:
    """Chance differs, so the models do; how good they are must not."""
    if abs(ours - other) > 0.03:
        raise DifferentResultsError(f"one model is better than the other: {ours:.4f} and {other:.4f}")
