"""The reasons of a prediction: the features that moved its score most, stored with it as JSON text.

JSON and not a nested column: the lake hashes and sorts flat columns only, PostgreSQL makes ``jsonb`` of it,
and every engine can read text.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.registry.model import Model

# Of log-odds: finer than anyone acts on, and coarser than what rounding in float32 disturbs.
_DECIMALS = 4


def reasons(model: Model, rows: pa.RecordBatch | pa.Table, count: int) -> pa.Array:
    """Return of each row the ``count`` features that moved its log-odds most, strongest first, as JSON text.

    A list of ``{"feature", "value", "contribution"}``: the value as text (null where it is missing), the
    contribution to the log-odds before calibration, to four decimals. Features that contribute alike stand in
    the order of the model.
    """
    if count == 0:
        return pa.repeat("[]", rows.num_rows)
    values = rounded(model.contributions(rows).values)
    strongest = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :count]
    texts = np.empty(strongest.shape, dtype=object)
    for position, name in enumerate(model.feature_columns):
        chosen = np.nonzero(strongest == position)
        if chosen[0].size:
            texts[chosen] = [text(value) for value in rows.column(name).take(pa.array(chosen[0])).to_pylist()]
    names = np.array(model.feature_columns, dtype=object)
    found = zip(names[strongest], texts, np.take_along_axis(values, strongest, axis=1).tolist(), strict=True)
    return pa.array([_json(*row) for row in found], pa.string())


def rounded(contributions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return contributions as they are stored."""
    # Adding zero makes 0 of -0.
    return np.round(contributions, _DECIMALS) + 0.0


def text(value: Any) -> str | None:
    """Return a feature's value as people read it; None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _json(names: Any, texts: Any, values: list[float]) -> str:
    found = [
        {"feature": name, "value": value, "contribution": contribution}
        for name, value, contribution in zip(names, texts, values, strict=True)
    ]
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)
