"""The registered model as MLflow's generic ``python_function``: probabilities in, for any MLflow tool.

Nightshift itself never loads a model this way. ``mlflow.pyfunc.load_model`` imports the module that a file in
the artifact folder names, before any code of ours runs: it is only for artifacts of a store that is trusted
as code is. ``registry.models.load_model`` is for all others (docs/security.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.registry.model import Model, load, named_identity

if TYPE_CHECKING:
    import pandas as pd


class ProbabilityModel:
    """Wraps a model for ``mlflow.pyfunc.load_model(...).predict(frame)``."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def predict(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities of shape (rows,)."""
        return self._model.predict_proba(pa.Table.from_pandas(frame, preserve_index=False))


def _load_pyfunc(data_path: str) -> ProbabilityModel:
    """Entry point that MLflow calls (``loader_module``)."""
    folder = Path(data_path)
    return ProbabilityModel(load(folder, named_identity(folder)))
