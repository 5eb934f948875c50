"""Training through to a logged model against the bare library, and the network's loop against a plain one.

``python -m tests.benchmarks.training {trees|network} {ours|other} FOLDER`` prints the peak memory of one side
in MB, over what a comparison left in ``FOLDER``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.registry.encoder import Encoder
from nightshift.training.snapshot import Snapshot, labels_of, load_parts
from nightshift.training.trainer import Examples
from nightshift.usecase import Trainer, UseCase, load_usecase

from .harness import Comparison, DifferentResultsError, Timed, environment, peak_mb, start_of_peak
from .inference import publish

_TREES = {"rounds": 300, "early_stopping_rounds": 300}
_NETWORK = {"epochs": 3, "patience": 3, "dropout": 0.0}
# About as many rows as the first use case trains on.
_ROWS_A_DAY = 5000
_SNAPSHOT, _ARRAYS = "snapshot.json", "arrays.npz"


@contextmanager
def trees(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Train as many rounds on the same rows, with a snapshot before and a logged model after, and without."""
    with environment(folder):
        taken = _prepare(folder, 100 if quick else _ROWS_A_DAY)
        inputs = _arrays(taken)
        _keep(folder, inputs)
        yield Comparison(
            name="training of trees",
            against="xgboost.train on arrays in memory",
            measure="ratio",
            at_most=2.0,
            ours=lambda number: _our_trees(taken, number),
            other=lambda number: _bare_trees(inputs, number),
            check=_alike,
            note=f"{taken.train.rows:,} rows, {len(inputs['kinds'])} features, {_TREES['rounds']} rounds. "
            "Ours reads and checks the snapshot, encodes, trains, calibrates, computes metrics and "
            "SHAP values, draws, and logs the model. The bare call makes its matrices and "
            "trains.",
            memory=None if quick else lambda: _peaks("trees", folder),
        )


@contextmanager
def network(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Train the same network for as many epochs with our trainer and with a plain ``DataLoader`` loop."""
    from nightshift.training.torch_trainer import TorchTrainer

    with environment(folder):
        taken = _prepare(folder, 100 if quick else _ROWS_A_DAY)
        resolved = TorchTrainer().resolve(_NETWORK)
        yield Comparison(
            name="training of a network",
            against="a plain PyTorch DataLoader loop",
            measure="ratio",
            at_most=1.0,
            ours=lambda number: _our_network(taken, number),
            other=lambda number: _plain_network(taken, number),
            check=_alike,
            note=f"{taken.train.rows * resolved['epochs']:,} samples ({taken.train.rows:,} rows, "
            f"{resolved['epochs']} epochs) on {resolved['device']}: samples a second are that by the "
            "seconds. Both encode the same rows and train the same network; ours also looks at the "
            "validation rows after each epoch.",
            memory=None if quick else lambda: _peaks("network", folder),
        )


def _our_trees(taken: Snapshot, number: int) -> Timed:
    from nightshift.training.train import train

    uc = _usecase()
    # An experiment of its own, or the round would find its model logged already.
    own = uc.model_copy(update={"name": f"{uc.name}_{number}"})
    start = time.perf_counter()
    candidate = train(own, taken, "xgboost")
    return Timed(time.perf_counter() - start, candidate.metrics["roc_auc"])


def _bare_trees(inputs: Mapping[str, Any], number: int) -> Timed:
    import xgboost
    from sklearn.metrics import roc_auc_score

    from nightshift.training.xgboost_trainer import XGBoostTrainer

    ours = ("rounds", "early_stopping_rounds", "xgboost")
    params = {key: value for key, value in XGBoostTrainer().resolve(_TREES).items() if key not in ours}
    start = time.perf_counter()
    data: list[Any] = []
    for part in ("train", "validation"):
        data.append(
            xgboost.QuantileDMatrix(
                inputs[part],
                label=inputs[f"{part}_label"],
                feature_types=list(inputs["kinds"]),
                enable_categorical=True,
                max_bin=params["max_bin"],
                ref=data[0] if data else None,
            )
        )
    booster = xgboost.train(
        params
        | {"objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist", "seed": number},
        data[0],
        _TREES["rounds"],
        evals=[(data[0], "train"), (data[1], "validation")],
        verbose_eval=False,
    )
    seconds = time.perf_counter() - start
    return Timed(seconds, roc_auc_score(inputs["validation_label"], booster.predict(data[1])))


def _our_network(taken: Snapshot, number: int) -> Timed:
    from nightshift.training.torch_trainer import TorchTrainer
    from nightshift.training.watch import Unwatched

    train, validation, encoder = _examples(taken)
    start = time.perf_counter()
    fit = TorchTrainer().fit(train, validation, encoder, _NETWORK, number, watch=Unwatched())
    return Timed(time.perf_counter() - start, min(fit.history["validation_log_loss"]))


def _plain_network(taken: Snapshot, number: int) -> Timed:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from nightshift.registry.network import TabularNetwork
    from nightshift.registry.scaling import NumberScale
    from nightshift.training.torch_trainer import TorchTrainer

    train, validation, encoder = _examples(taken)
    resolved = TorchTrainer().resolve(_NETWORK)
    device = torch.device(resolved["device"])
    start = time.perf_counter()
    torch.manual_seed(number)
    scale = NumberScale.fit(encoder.tensors(train.features)[1])
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


def _peaks(what: str, folder: Path) -> tuple[float, float]:
    """Return the peak memory of our side and of the other in MB, each in a process of its own."""
    peaks = []
    for side in ("ours", "other"):
        command = [sys.executable, "-m", "tests.benchmarks.training", what, side, str(folder)]
        peaks.append(float(subprocess.check_output(command, text=True).splitlines()[-1]))
    return peaks[0], peaks[1]


def _peak(what: str, side: str, folder: Path) -> float:
    """Return what one side of a comparison takes beside what the interpreter and the libraries do, in MB."""
    for library in ("torch", "xgboost", "nightshift.training.train"):
        import_module(library)
    taken = Snapshot.model_validate_json((folder / _SNAPSHOT).read_text(encoding="utf-8"))
    start_of_peak()
    before = peak_mb()
    if side == "ours":
        {"trees": _our_trees, "network": _our_network}[what](taken, 99)
    elif what == "trees":
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            _bare_trees({name: arrays[name] for name in arrays}, 99)
    else:
        _plain_network(taken, 99)
    return peak_mb() - before


def _prepare(folder: Path, rows_a_day: int) -> Snapshot:
    taken = publish(_usecase(), rows_a_day)
    (folder / _SNAPSHOT).write_text(taken.model_dump_json(), encoding="utf-8")
    return taken


def _keep(folder: Path, inputs: Mapping[str, Any]) -> None:
    np.savez(folder / _ARRAYS, **inputs)


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


def _examples(taken: Snapshot) -> tuple[Examples, Examples, Encoder]:
    uc = _usecase()
    train, validation = (
        Examples(table, labels_of(uc, table).to_numpy(zero_copy_only=False))
        for table in load_parts(taken, "train", "validation")
    )
    return train, validation, Encoder.fit(train.features, uc.features.categorical, uc.features.numeric)


def _arrays(taken: Snapshot) -> dict[str, Any]:
    """Return what the bare call needs: features and labels as arrays, and the kind of each feature."""
    train, validation, encoder = _examples(taken)
    inputs: dict[str, Any] = {
        "kinds": np.array(["c"] * len(encoder.categories) + ["q"] * len(encoder.numeric))
    }
    for part, examples in (("train", train), ("validation", validation)):
        codes, numbers = encoder.tensors(examples.features)
        array = np.concatenate([np.where(codes > 0, codes - 1, np.nan), numbers], axis=1)
        inputs |= {part: array.astype(np.float32), f"{part}_label": examples.label}
    return inputs


def _alike(ours: float, other: float) -> None:
    """Chance differs, so the models do; how good they are must not."""
    if abs(ours - other) > 0.03:
        raise DifferentResultsError(f"one model is better than the other: {ours:.4f} and {other:.4f}")


if __name__ == "__main__":
    with environment(Path(sys.argv[3])):
        sys.stdout.write(f"{_peak(sys.argv[1], sys.argv[2], Path(sys.argv[3])):.0f}\n")
