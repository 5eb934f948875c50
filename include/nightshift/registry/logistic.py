"""A logistic regression at rest, as JSON, and how it scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.registry.contributions import Contributions
from nightshift.registry.encoder import Encoder
from nightshift.registry.scaling import standardize


class LogisticWeights(BaseModel):
    """Coefficients of a logit that is a sum over columns.

    Attributes:
        intercept: What all rows have in common.
        categories: Per categorical column one coefficient a code of the encoder; code 0 stands for missing.
        means: Per numeric column, over the training rows.
        deviations: Per numeric column, the standard deviation over the training rows.
        numbers: Per numeric column, the coefficient of the standardized number.
        missing: Per numeric column, what is added where there is no number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intercept: float
    categories: list[list[float]]
    means: list[float]
    deviations: list[float]
    numbers: list[float]
    missing: list[float]


class LogisticScorer:
    """Scores with a stored logistic regression."""

    def __init__(self, weights: bytes, encoder: Encoder) -> None:
        stored = LogisticWeights.model_validate_json(weights)
        self._encoder = encoder
        self._intercept = stored.intercept
        self._categories = [np.array(values) for values in stored.categories]
        self._means, self._deviations = np.array(stored.means), np.array(stored.deviations)
        self._numbers, self._missing = np.array(stored.numbers), np.array(stored.missing)

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return uncalibrated probabilities of shape (rows,)."""
        codes, numbers = self._encoder.tensors(data)
        scaled, missing = standardize(numbers, self._means, self._deviations)
        # Sums along rows, no matrix product: that may round differently for different numbers of rows.
        logit = self._intercept + (scaled * self._numbers + missing * self._missing).sum(axis=1)
        for position, values in enumerate(self._categories):
            logit += values[codes[:, position]]
        return np.asarray(1 / (1 + np.exp(-logit)))

    def contributions(self, data: pa.RecordBatch | pa.Table, reference: pa.Table, /) -> Contributions:
        """Return each feature's term of the sum less its mean over ``reference``.

        These are the exact SHAP values of a linear model whose features are taken to be independent: Lundberg
        and Lee 2017, "A Unified Approach to Interpreting Model Predictions", corollary 1.
        """
        means = self._terms(reference).mean(axis=0)
        return Contributions(self._terms(data) - means, float(self._intercept + means.sum()))

    def _terms(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return what each feature adds to the logit, of shape (rows, features)."""
        codes, numbers = self._encoder.tensors(data)
        scaled, missing = standardize(numbers, self._means, self._deviations)
        of_categories = [values[codes[:, position]] for position, values in enumerate(self._categories)]
        return np.column_stack([*of_categories, scaled * self._numbers + missing * self._missing])
