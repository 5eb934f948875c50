"""The tabular network: on the GPU where there is one, else on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.registry.network import QuantileScale, TabularNetwork, pack
from nightshift.training.trainer import Examples, Fit
from nightshift.training.watch import Watch


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: list[int] = Field([128, 64], min_length=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    batch_rows: int = Field(4096, gt=0)
    epochs: int = Field(8, gt=0)
    patience: int = Field(3, gt=0, description="Epochs without improvement before training stops.")
    # Sums are split by thread, and rounding follows the split: a fixed number keeps models equal
    # between machines with different numbers of cores.
    threads: int = Field(2, gt=0)


class TorchTrainer:
    """Trains with AdamW and early stopping on validation log loss; the best epoch's weights are kept."""

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides a training, as ``Trainer.resolve`` says."""
        return {**_options(params).model_dump(), "device": _device().type, "torch": torch.__version__}

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
        """Train as ``Trainer.fit`` says."""
        options, device = _options(params), _device()
        with _deterministic(seed, options.threads, device):
            return _fit(train, validation, encoder, options, device, seed, watch)


def _options(params: Mapping[str, Any]) -> _Params:
    try:
        return _Params.model_validate(params)
    except ValidationError as error:
        raise DataError(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
            rule="parameters of a torch trainer are those of training/torch_trainer.py",
            where="usecase.yml, training.trainers",
            cure="mend or remove the keys named above",
        ) from error


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _fit(
    train: Examples,
    validation: Examples,
    encoder: Encoder,
    options: _Params,
    device: torch.device,
    seed: int,
    watch: Watch,
) -> Fit:
    _, numbers = encoder.tensors(train.features)
    scale = QuantileScale.fit(numbers)
    shape: dict[str, Any] = {
        "cardinalities": [len(known) for known in encoder.categories.values()],
        "numbers": len(encoder.numeric),
        "hidden": options.hidden,
        "dropout": options.dropout,
    }

    def on_device(examples: Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        codes, numbers = encoder.tensors(examples.features)
        arrays = (codes, scale.apply(numbers), examples.label)
        codes_there, numbers_there, label_there = (torch.tensor(array, device=device) for array in arrays)
        return codes_there, numbers_there, label_there

    # All rows live on the device: a batch is an index there, not a copy from the host.
    train_codes, train_numbers, train_label = on_device(train)
    held_codes, held_numbers, held_label = on_device(validation)
    network = TabularNetwork(**shape).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    steps = -(-len(train_label) // options.batch_rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.learning_rate, total_steps=steps * options.epochs, pct_start=0.1
    )
    loss_of = nn.BCEWithLogitsLoss()
    # The order of rows is drawn on the host, so that it is the same on every device.
    order_of = torch.Generator().manual_seed(seed)
    history: dict[str, list[float]] = {"train_log_loss": [], "validation_log_loss": []}
    best, best_state, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(options.epochs):
        network.train()
        order = torch.randperm(len(train_label), generator=order_of).to(device)
        total = torch.zeros((), device=device)
        for rows in torch.split(order, options.batch_rows):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(network(train_codes[rows], train_numbers[rows]), train_label[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
        network.eval()
        with torch.inference_mode():
            held = float(loss_of(network(held_codes, held_numbers), held_label))
        history["train_log_loss"].append(float(total) / len(train_label))
        history["validation_log_loss"].append(held)
        watch.report(epoch + 1, options.epochs, {name: values[-1] for name, values in history.items()})
        if held < best:
            best, best_state, waited = held, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
            if waited >= options.patience:
                break
    network.load_state_dict(best_state)
    return Fit(
        weights=pack(network, shape, scale),
        history=history,
        params={**options.model_dump(), "device": device.type, "seed": seed},
    )


@contextmanager
def _deterministic(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Fix every source of chance, and leave torch's global state as it was."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
