"""Scores with a stored XGBoost booster."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.registry.contributions import Contributions
from nightshift.registry.encoder import Encoder


class BoosterScorer:
    """Gradient-boosted trees over the encoder's columns, categories included natively."""

    def __init__(self, weights: bytes, encoder: Encoder) -> None:
        import xgboost

        self._encoder = encoder
        self.booster: Any = xgboost.Booster(model_file=bytearray(weights))

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return uncalibrated probabilities of shape (rows,); memory is one float32 copy of the batch."""
        if data.num_rows == 0:
            return np.empty(0)
        scores = self.booster.inplace_predict(self._encoder.encode(data), validate_features=False)
        return np.asarray(scores, dtype=np.float64)

    def contributions(self, data: pa.RecordBatch | pa.Table, reference: pa.Table, /) -> Contributions:
        """Return the exact SHAP values of the trees, against the training rows that they were grown on.

        Lundberg et al. 2020, "From local explanations to global understanding with explainable AI for trees"
        (TreeSHAP along the paths of the trees), as XGBoost computes it, in float32. Memory is three copies of
        the batch. ``reference`` only stands in for rows where there are none.
        """
        import xgboost

        rows = data if data.num_rows else reference.slice(0, 1)
        matrix = xgboost.DMatrix(self._encoder.encode(rows), enable_categorical=True)
        found = self.booster.predict(matrix, pred_contribs=True, validate_features=False)
        values = np.asarray(found, dtype=np.float64)
        return Contributions(values[: data.num_rows, :-1], float(values[0, -1]))
