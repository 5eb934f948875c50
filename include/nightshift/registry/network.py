"""The tabular network and how a stored one scores.

Categories get learned embeddings, numbers are mapped through the quantiles of the training rows (robust
to the heavy tails of delays; Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data",
section 4.2), and a few networks that share almost all their weights read both, each on its own scale
(TabM-mini; Gorishniy, Kotelnikov and Babenko 2025, "TabM: Advancing Tabular Deep Learning with
Parameter-Efficient Ensembling", ICLR, section 3.3). Their mean is less noisy than any of them.
"""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from nightshift.registry.encoder import Encoder

# Matrix products and sigmoids round differently for different numbers of rows. Scoring in blocks of one
# fixed size gives a row the same score in whatever batch it arrives.
_BLOCK = 256


class TabularNetwork(nn.Module):
    """Embeddings and an ensemble of perceptrons that share weights; returns logits of each member.

    A hidden layer as wide as the one before adds to it instead of replacing it.

    Args:
        cardinalities: Known categories of each categorical column; code 0 stands for missing.
        numbers: How many numeric inputs; each also gets an "is missing" input.
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
        width = sum(widths) + 2 * numbers
        # Signs at first, so that the members differ from the start (TabM, section 3.3).
        self.scales = nn.Parameter(torch.randint(0, 2, (members, width)) * 2.0 - 1.0)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip([width, *hidden], hidden, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Parameter(torch.empty(members, hidden[-1]).uniform_(-1, 1) * hidden[-1] ** -0.5)
        self.biases = nn.Parameter(torch.zeros(members))

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return logits (rows, members) of codes (rows, categorical) and numbers (rows, 2 x numeric)."""
        embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        inputs = torch.cat([*embedded, numbers], dim=1)
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


class QuantileScale:
    """Maps each number to its quantile among the training rows, as -1 to 1; missing to 0 and a flag.

    Args:
        knots: Per column, distinct values (ascending) and the mean quantile of each.
    """

    def __init__(self, knots: list[tuple[list[float], list[float]]]) -> None:
        self.knots = knots

    @classmethod
    def fit(cls, numbers: npt.NDArray[np.float32], points: int = 129) -> QuantileScale:
        """Learn the quantiles of ``numbers`` (rows, columns), NaN ignored."""
        knots: list[tuple[list[float], list[float]]] = []
        levels = np.linspace(0, 1, points)
        for column in numbers.T:
            present = column[np.isfinite(column)].astype(np.float64)
            if present.size == 0:
                knots.append(([0.0], [0.5]))
                continue
            values, group = np.unique(np.quantile(present, levels), return_inverse=True)
            mean_level = np.bincount(group, weights=levels) / np.bincount(group)
            knots.append((values.tolist(), mean_level.tolist()))
        return cls(knots)

    def apply(self, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return (rows, 2 x columns): scaled values, then missing flags."""
        missing = ~np.isfinite(numbers)
        scaled = np.empty(numbers.shape, dtype=np.float32)
        for i, (values, levels) in enumerate(self.knots):
            scaled[:, i] = 2 * np.interp(numbers[:, i], values, levels) - 1
        scaled[missing] = 0
        return np.concatenate([scaled, missing.astype(np.float32)], axis=1)


class NetworkScorer:
    """A stored network, on the CPU: scores must not depend on which device a night finds."""

    def __init__(self, weights: bytes, encoder: Encoder) -> None:
        stored: dict[str, Any] = torch.load(io.BytesIO(weights), weights_only=True)
        self._encoder = encoder
        self._scale = QuantileScale([(values, levels) for values, levels in stored["knots"]])
        self._network = TabularNetwork(**stored["shape"])
        self._network.load_state_dict(stored["state"])
        self._network.eval()

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


def pack(network: TabularNetwork, shape: dict[str, Any], scale: QuantileScale) -> bytes:
    """Return the stored form that ``NetworkScorer`` reads; equal networks give equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state": state, "shape": shape, "knots": scale.knots}, buffer)
    return buffer.getvalue()
