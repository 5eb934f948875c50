"""Puts a model to the edge cases of the use case's stress.yml, which are kept and extended like tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.registry.model import Model
from nightshift.usecase import Change, MonotonicCase, StressCase, UseCase


class StressResult(BaseModel):
    """How a model behaved in one case.

    Attributes:
        case: The case as declared.
        rows: How many rows took part.
        share: Share of them that behaved; None where none took part.
        worst: Largest change of a score that the case forbids, beyond no tolerance.
        note: Why no row took part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: StressCase
    rows: int
    share: float | None = None
    worst: float = 0.0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether enough rows behaved; a case that no row could be put to passes."""
        return self.share is None or self.share >= self.case.min_share


def stress(uc: UseCase, model: Model, rows: pa.Table) -> list[StressResult]:
    """Put ``model`` to every case of the use case, on the rows that each takes."""
    sample = rows.select([name for name in rows.column_names if name in model.feature_columns])
    score = model.predict_proba(sample) if uc.stress else np.empty(0)
    return [_put_to(case, model, sample, score) for case in uc.stress]


def _put_to(case: StressCase, model: Model, rows: pa.Table, score: npt.NDArray[np.float64]) -> StressResult:
    if unread := sorted({*case.change, *case.only} - set(model.feature_columns)):
        return StressResult(case=case, rows=0, note=f"the model does not read {', '.join(unread)}")
    for name, values in case.only.items():
        inside = pc.is_in(pc.cast(rows[name], pa.string()), value_set=pa.array(values, pa.string()))
        rows, score = rows.filter(inside), score[inside.to_numpy()]
    if rows.num_rows == 0:
        return StressResult(case=case, rows=0, note="no row is one of those named under `only`")
    changed = rows
    for name, change in case.change.items():
        position = changed.schema.get_field_index(name)
        changed = changed.set_column(position, name, _changed(changed[name], change))
    moved = model.predict_proba(changed) - score
    if isinstance(case, MonotonicCase):
        wrong = np.maximum(-moved if case.score == "up" else moved, 0)
    else:
        wrong = np.abs(moved)
    return StressResult(
        case=case,
        rows=rows.num_rows,
        share=float(np.mean(wrong <= case.tolerance)),
        worst=float(wrong.max()),
    )


def _changed(column: pa.ChunkedArray, change: Change) -> Any:
    """Return the column after the change; what is missing stays missing unless it is set."""
    if isinstance(change.set, str):
        return pa.repeat(change.set, len(column))
    numbers = pc.cast(column, pa.float64())
    if change.set is not None:
        return pa.repeat(float(change.set), len(column))
    return pc.add(numbers, change.add) if change.add is not None else pc.multiply(numbers, change.multiply)
