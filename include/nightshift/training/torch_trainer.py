"""The tabular network: on every GPU there is, else on the CPU.

All rows live on the device, so a batch is an index there and nothing is copied while training. On GPUs
arithmetic is in bfloat16 where that is safe, the network is compiled, and one process a GPU computes its
share of each batch (``DistributedDataParallel``); on the CPU it is float32 in one process.

What is random in a step (which rows, which units are dropped) follows from the seed and the number of the
step alone. So a training that goes on from a checkpoint draws what the undisturbed one would have drawn.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from torch import nn
from torch.multiprocessing.spawn import spawn

from nightshift.environment import variables
from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.registry.network import TabularNetwork, pack
from nightshift.registry.scaling import NumberScale
from nightshift.training.trainer import Examples, Fit
from nightshift.training.watch import Unwatched, Watch

# Of all steps, in which the learning rate rises; it falls to zero in the rest.
_WARM_UP = 0.1
# Far from any seed a person chooses, so that no two steps of neighbouring seeds draw alike.
_SEED_STRIDE = 1_000_003


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: list[int] = Field([64, 64], min_length=1)
    members: int = Field(8, gt=0, description="Networks in the ensemble.")
    dropout: float = Field(0.3, ge=0, lt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    batch_rows: int = Field(4096, gt=0)
    epochs: int = Field(8, gt=0)
    patience: int = Field(3, gt=0, description="Epochs without improvement before training stops.")
    processes: int = Field(
        default_factory=lambda: max(1, torch.cuda.device_count()),
        gt=0,
        description="Processes that share each batch: by default one a GPU, one without any.",
    )
    # Sums are split by thread, and rounding follows the split: a fixed number keeps models equal
    # between machines with different numbers of cores.
    threads: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _each_has_a_device(self, info: ValidationInfo) -> _Params:
        here = not info.context
        if here and torch.cuda.is_available() and self.processes > torch.cuda.device_count():
            raise ValueError(f"processes: {self.processes} on {torch.cuda.device_count()} GPUs")
        return self


@dataclass(frozen=True)
class _Rows:
    """Encoded rows: codes (rows, categorical), numbers (rows, 3 x numeric), label and weight (rows,)."""

    codes: torch.Tensor
    numbers: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def of(
        cls,
        examples: Examples,
        codes: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.float32],
        scale: NumberScale,
    ) -> _Rows:
        label = torch.tensor(examples.label)
        weight = torch.ones_like(label) if examples.weight is None else torch.tensor(examples.weight)
        return cls(torch.from_numpy(codes), torch.from_numpy(scale.apply(numbers)), label, weight)

    def to(self, device: torch.device) -> _Rows:
        return _Rows(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class _Job:
    """What every process of a training needs to know."""

    train: _Rows
    validation: _Rows
    shape: dict[str, Any]
    options: _Params
    seed: int
    state: bytes | None


class TorchTrainer:
    """Trains with AdamW and early stopping on validation log loss; the best epoch's weights are kept.

    Args:
        device_of_group: ``cpu`` or ``cuda``: this process is one of ``processes`` that another program has
            started and joined to a group, each with a device of this kind. None: it starts the others itself,
            on the devices of this machine.
    """

    def __init__(self, device_of_group: str | None = None) -> None:
        self._group = device_of_group

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides a training, as ``Trainer.resolve`` says."""
        device = self._group or _device(0).type
        return {**self._options(params).model_dump(), "device": device, "torch": torch.__version__}

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
        options = self._options(params)
        encoded = encoder.tensors(train.features)
        scale = NumberScale.fit(encoded[1])
        shape = {
            "cardinalities": [len(known) for known in encoder.categories.values()],
            "numbers": len(encoder.numeric),
            **options.model_dump(include={"hidden", "members", "dropout"}),
        }
        job = _Job(
            _Rows.of(train, *encoded, scale),
            _Rows.of(validation, *encoder.tensors(validation.features), scale),
            shape,
            options,
            seed,
            watch.resume(),
        )
        if self._group is None:
            device = _device(0)
            with _processes(job):
                network, history = _train(job, 0, device, watch)
        else:
            # Who made the group has chosen one of the machine's GPUs for this process.
            device = torch.device("cpu")
            if self._group == "cuda":
                device = torch.device("cuda", torch.cuda.current_device())
            network, history = _train(job, dist.get_rank() if options.processes > 1 else 0, device, watch)
        return Fit(
            weights=pack(network, shape, scale),
            history=history,
            params={**options.model_dump(), "device": device.type, "seed": seed},
        )

    def _options(self, params: Mapping[str, Any]) -> _Params:
        try:
            return _Params.model_validate(params, context=self._group)
        except ValidationError as error:
            raise DataError(
                "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
                rule="parameters of a torch trainer are those of training/torch_trainer.py",
                where="usecase.yml, training.trainers",
                cure="mend or remove the keys named above",
            ) from error


def _device(rank: int) -> torch.device:
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def _train(
    job: _Job, rank: int, device: torch.device, watch: Watch
) -> tuple[TabularNetwork, dict[str, list[float]]]:
    """Return the best network and the losses by epoch; ``rank`` is the number of this process."""
    with _deterministic(job.seed, job.options.threads, device):
        return _Training(job, rank, device).run(watch)


class _Training:
    """One process's part of a training, with all that a checkpoint has to hold."""

    def __init__(self, job: _Job, rank: int, device: torch.device) -> None:
        self._options, self._seed, self._rank, self._device = job.options, job.seed, rank, device
        self._train, self._validation = job.train.to(device), job.validation.to(device)
        self._network = TabularNetwork(**job.shape).to(device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(),
            lr=self._options.learning_rate,
            weight_decay=self._options.weight_decay,
            fused=device.type == "cuda",
        )
        self._steps = -(-len(self._train.label) // self._options.batch_rows)
        self._step = 0
        # Sum of the weighted losses and of the weights of the epoch that goes on.
        self._sums = torch.zeros(2, device=device)
        self._history: dict[str, list[float]] = {"train_log_loss": [], "validation_log_loss": []}
        self._best = self._copy()
        if job.state is not None:
            self._restore(job.state)
        model: nn.Module = self._network
        if self._options.processes > 1:
            model = nn.parallel.DistributedDataParallel(
                model, device_ids=[device] if device.type == "cuda" else None
            )
        if device.type == "cuda" and _can_compile():
            model.compile()
        self._model = model

    def run(self, watch: Watch) -> tuple[TabularNetwork, dict[str, list[float]]]:
        """Train to the end and return the best network with the losses by epoch."""
        total = self._steps * self._options.epochs
        losses = self._history["validation_log_loss"]
        order = self._order(self._step // self._steps)
        while self._step < total and not self._has_waited_enough(losses):
            epoch, place = divmod(self._step, self._steps)
            # Within an epoch each process holds its own share of the losses; between epochs there are none.
            if (place == 0 or self._options.processes == 1) and watch.due():
                watch.keep(self._state(), self._step)
            if place == 0:
                order = self._order(epoch)
                self._sums.zero_()
            self._learn(order[place * self._options.batch_rows :][: self._options.batch_rows], total)
            self._step += 1
            if place + 1 == self._steps:
                self._end_epoch()
                newest = {name: values[-1] for name, values in self._history.items()}
                watch.report(self._step, total, newest)
            elif losses:
                watch.report(self._step, total, {"validation_log_loss": losses[-1]})
            else:
                watch.report(self._step, total, {})
        self._network.load_state_dict(self._best)
        return self._network, self._history

    def _has_waited_enough(self, losses: list[float]) -> bool:
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._options.patience

    def _order(self, epoch: int) -> torch.Tensor:
        """Return the order of rows in an epoch, drawn on the host: the same on every device."""
        chance = torch.Generator().manual_seed(self._seed * _SEED_STRIDE - 1 - epoch)
        return torch.randperm(len(self._train.label), generator=chance).to(self._device)

    def _learn(self, rows: torch.Tensor, total: int) -> None:
        """Take one step on a batch, of which each process computes its share."""
        options = self._options
        torch.manual_seed(self._seed * _SEED_STRIDE + self._step * options.processes + self._rank)
        done, warm_up = self._step / total, _WARM_UP
        factor = (
            (done + 1 / total) / (warm_up + 1 / total)
            if done < warm_up
            else 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        share = rows[self._rank :: options.processes]
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._summed_loss(share)
        weight = self._train.weight[rows].sum()
        # Gradients of the processes are averaged: times their number, that is the mean over the whole batch.
        torch.autograd.backward(loss * options.processes / weight)
        self._optimizer.step()
        self._sums += torch.stack([loss.detach(), self._train.weight[share].sum()])

    def _summed_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the rows' log losses, each the mean over the ensemble's members."""
        data = self._train
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self._model(data.codes[rows], data.numbers[rows]).float()
        label = data.label[rows].unsqueeze(1).expand_as(logits)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="none").mean(1)
        return (losses * data.weight[rows]).sum()

    def _end_epoch(self) -> None:
        held = self._validation_loss()
        if self._options.processes > 1:
            dist.all_reduce(self._sums)
            # All processes have to stop at the same epoch.
            dist.broadcast(held, 0)
        loss, weight = self._sums.tolist()
        before = self._history["validation_log_loss"]
        if not before or held < min(before):
            self._best = self._copy()
        self._history["train_log_loss"].append(loss / weight)
        before.append(float(held))

    def _validation_loss(self) -> torch.Tensor:
        """Return the weighted mean log loss of the ensemble on the validation rows."""
        data = self._validation
        self._network.eval()
        with torch.inference_mode():
            losses = [
                nn.functional.binary_cross_entropy(
                    self._network.probabilities(codes, numbers).clamp(1e-7, 1 - 1e-7),
                    label.double(),
                    weight=weight.double(),
                    reduction="sum",
                )
                for codes, numbers, label, weight in zip(
                    *(torch.split(tensor, 8192) for tensor in vars(data).values()), strict=True
                )
            ]
            return torch.stack(losses).sum() / data.weight.double().sum()

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}

    def _state(self) -> bytes:
        buffer = io.BytesIO()
        state = {
            "step": self._step,
            "sums": self._sums,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": self._history,
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def _restore(self, content: bytes) -> None:
        state = torch.load(io.BytesIO(content), map_location=self._device, weights_only=True)
        self._step, self._sums, self._history = state["step"], state["sums"], state["history"]
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = state["best"]


@contextmanager
def _processes(job: _Job) -> Iterator[None]:
    """Run the other processes of a training beside this one, which is the first; none outlives it."""
    others = job.options.processes - 1
    if others == 0:
        yield
        return
    # They are all on this machine.
    with variables({"GLOO_SOCKET_IFNAME": "lo"}), tempfile.TemporaryDirectory() as scratch:
        meeting = str(Path(scratch) / "processes")
        beside = spawn(_other, (job, meeting), nprocs=others, join=False)
        assert beside is not None  # nosec B101  # for types
        try:
            with _group(job, meeting, 0):
                yield
            while not beside.join():
                pass
        finally:
            for process in beside.processes:
                process.kill()
                process.join()


def _other(index: int, job: _Job, meeting: str) -> None:
    """Be one of the processes beside the first. Torch ends it when the first is killed."""
    with _group(job, meeting, index + 1):
        _train(job, index + 1, _device(index + 1), Unwatched())


@contextmanager
def _group(job: _Job, meeting: str, rank: int) -> Iterator[None]:
    """Join the processes of a training; ``meeting`` is the file in which they find each other."""
    device = _device(rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=job.options.processes,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _can_compile() -> bool:
    """Return whether what ``torch.compile`` needs on a GPU is installed: Triton and a C compiler."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


@contextmanager
def _deterministic(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Fix every source of chance, and leave torch's global state as it was."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    with (
        # cuBLAS reads it when it starts; without it, sums of products may come in another order.
        variables({"CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")}),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
