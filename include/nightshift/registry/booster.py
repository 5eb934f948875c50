"""Scores with a stored XGBoost booster."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
