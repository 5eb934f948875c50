"""The tabular network and how a stored one scores.

Categories get learned embeddings, numbers their quantile and distance among the training rows
(``registry/scaling.py``), and a few networks that share almost all their weights read both, each on its own
scale (TabM-mini; Gorishniy, Kotelnikov and Babenko 2025, "TabM: Advancing Tabular Deep Learning with
Parameter-Efficient Ensembling", ICLR, section 3.3). Their mean is less noisy than any of them.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from nightshift.registry.contributions import Contributions
from nightshift.registry.encoder import Encoder
from nightshift.registry.scaling import INPUTS_PER_NUMBER, NumberScale

# Matrix products and sigmoids round differently for different numbers of rows. Scoring in blocks of one
# fixed size gives a row the same score in whatever batch it arrives.
_BLOCK = 256
# For explanations: rows that stand for the training, and ways to such rows along which gradients are taken.
# With 32 ways the values correlate with exact ones by 0.997 (docs/explanations.md).
_BACKGROUND = 1000
_WAYS = 32
_GOLDEN = (5**0.5 - 1) / 2


class TabularNetwork(nn.Module):
    """Embeddings and an ensemble of perceptrons that share weights; returns logits of each member.

    A hidden layer as wide as the one before adds to it instead of replacing it.

    Args:
        cardinalities: Known categories of each categorical column; code 0 stands for missing.
        numbers: How many numeric columns; a ``NumberScale`` makes several inputs of each.
        hidden: Widths of the hidden layers.
        members: Networks in the ensemble; each has its own scales of the inputs, and its own last layer.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(
        self, cardinalities: list[int], numbers: int, hidden: list[int], members: int, dropout: float
    ) -> None:
        super().__init__()
        # Width by cardinality: the rule of thumb of fastai's tabular models.
        widths = [min(32, round(1.6 * (size + 1) ** 0.56)) for size in cardinalities]
        self.embeddings = nn.ModuleList(
            nn.Embedding(size + 1, width) for size, width in zip(cardinalities, widths, strict=True)
        )
        width = sum(widths) + INPUTS_PER_NUMBER * numbers
        # Signs at first, so that the members differ from the start (TabM, section 3.3).
        self.scales = nn.Parameter(torch.randint(0, 2, (members, width)) * 2.0 - 1.0)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip([width, *hidden], hidden, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Parameter(torch.empty(members, hidden[-1]).uniform_(-1, 1) * hidden[-1] ** -0.5)
        self.biases = nn.Parameter(torch.zeros(members))

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return logits (rows, members) of codes (rows, categorical) and numbers (rows, 3 x numeric)."""
        return self.logits(self.inputs(codes, numbers))

    def inputs(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return what the layers read: embedded categories, then numbers, of shape (rows, width)."""
        embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return torch.cat([*embedded, numbers], dim=1)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (rows, members) of ``inputs``."""
        first, *others = (cast(nn.Linear, layer) for layer in self.layers)
        # Scaling the weights of each member instead of the rows: one product, no copy of the rows a member.
        weights = self.scales.unsqueeze(1) * first.weight
        state = (inputs @ weights.flatten(0, 1).T).reshape(len(inputs), *weights.shape[:2]) + first.bias
        state = self.dropout(torch.relu(state))
        for layer in others:
            change = self.dropout(torch.relu(layer(state)))
            state = state + change if change.shape == state.shape else change
        logits: torch.Tensor = (state * self.heads).sum(2) + self.biases
        return logits

    def probabilities(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the mean probability of the members, float64 of shape (rows,)."""
        logits: torch.Tensor = self(codes, numbers)
        return torch.sigmoid(logits.double()).mean(1)

    def log_odds(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of the mean probability of the members, float64 of shape (rows,)."""
        logits = self.logits(inputs).double()
        sigmoid = nn.functional.logsigmoid
        # Log-odds of a mean, without the mean: that may round to 0 or 1.
        return torch.logsumexp(sigmoid(logits), 1) - torch.logsumexp(sigmoid(-logits), 1)


class NetworkScorer:
    """A stored network, on the CPU: scores must not depend on which device a night finds."""

    def __init__(self, weights: bytes, encoder: Encoder) -> None:
        stored: dict[str, Any] = torch.load(io.BytesIO(weights), weights_only=True)
        self._encoder = encoder
        self._scale = NumberScale(**stored["scale"])
        self._network = TabularNetwork(**stored["shape"])
        self._network.load_state_dict(stored["state"])
        self._network.eval().requires_grad_(False)

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return uncalibrated probabilities of shape (rows,)."""
        codes, numbers = self._encoder.tensors(data)
        scaled = self._scale.apply(numbers)
        scores = np.empty(data.num_rows, dtype=np.float64)
        with torch.inference_mode():
            for first in range(0, data.num_rows, _BLOCK):
                block = slice(first, first + _BLOCK)
                rows = len(codes[block])
                padding = ((0, _BLOCK - rows), (0, 0))
                padded = self._network.probabilities(
                    torch.from_numpy(np.pad(codes[block], padding)),
                    torch.from_numpy(np.pad(scaled[block], padding)),
                )
                scores[block] = padded.numpy()[:rows]
        return scores

    def contributions(self, data: pa.RecordBatch | pa.Table, reference: pa.Table, /) -> Contributions:
        """Return SHAP values against rows of ``reference``, as expected gradients approximate them.

        A feature's value is the mean, over rows of the background, of its distance to such a row times the
        gradient of the log-odds somewhere on the way there: Erion et al. 2021, "Improving performance of deep
        learning models with axiomatic attribution priors and expected gradients". Here the ways are a fixed
        few, their distances are taken to the mean of the whole background (a control variate: the noise of
        having drawn so few rows goes), and what a sum is off in the end is shared out by size.
        """
        spaced = np.linspace(0, reference.num_rows - 1, min(_BACKGROUND, reference.num_rows)).astype(np.int64)
        background = self._inputs(reference.take(pa.array(spaced)))
        ways = background[torch.linspace(0, len(background) - 1, _WAYS).long()]
        # A sequence that fills 0 to 1 evenly, in an order unlike that of the rows.
        places = ((0.5 + torch.arange(_WAYS) * _GOLDEN) % 1).reshape(1, _WAYS, 1).float()
        base = float(self._log_odds(background).mean())
        mean, off = background.mean(0), ways - ways.mean(0)
        inputs = self._inputs(data)
        found = np.empty((len(inputs), background.shape[1]))
        step = _BLOCK // _WAYS
        for first in range(0, len(inputs), step):
            rows = inputs[first : first + step]
            padded = nn.functional.pad(rows, (0, 0, 0, step - len(rows))).unsqueeze(1)
            points = (ways + places * (padded - ways)).flatten(0, 1).requires_grad_(True)
            (slopes,) = torch.autograd.grad(self._network.log_odds(points).sum(), points)
            slopes = slopes.reshape(step, _WAYS, -1)
            parts = (padded.squeeze(1) - mean) * slopes.mean(1) - (off * slopes).mean(1)
            found[first : first + step] = parts[: len(rows)].numpy()
        values = self._by_feature(found)
        size = np.abs(values) + np.finfo(np.float64).tiny
        rest = self._log_odds(inputs).numpy() - base - values.sum(axis=1)
        return Contributions(values + size / size.sum(axis=1, keepdims=True) * rest[:, None], base)

    def _inputs(self, data: pa.RecordBatch | pa.Table) -> torch.Tensor:
        codes, numbers = self._encoder.tensors(data)
        scaled = torch.from_numpy(self._scale.apply(numbers))
        return self._network.inputs(torch.from_numpy(codes), scaled)

    def _log_odds(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return log-odds of shape (rows,), block by block as ``probabilities`` does."""
        found = [
            self._network.log_odds(nn.functional.pad(block, (0, 0, 0, _BLOCK - len(block))))[: len(block)]
            for block in inputs.split(_BLOCK)
        ]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)

    def _by_feature(self, found: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum what belongs to one feature: the width of an embedding, or all inputs made of one number."""
        widths = [cast(nn.Embedding, embedding).embedding_dim for embedding in self._network.embeddings]
        ends = np.cumsum([0, *widths])
        categories = [found[:, low:high].sum(axis=1) for low, high in itertools.pairwise(ends)]
        numbers = np.split(found[:, ends[-1] :], INPUTS_PER_NUMBER, axis=1)
        return np.column_stack([*categories, sum(numbers)])


def pack(network: TabularNetwork, shape: dict[str, Any], scale: NumberScale) -> bytes:
    """Return the stored form that ``NetworkScorer`` reads; equal networks give equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state": state, "shape": shape, "scale": asdict(scale)}, buffer)
    return buffer.getvalue()
