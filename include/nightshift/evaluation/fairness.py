"""Whether groups are treated alike: rates of decisions and mistakes, and calibration, by group.

Groups differ in how often the event happens to them, so equal selection rates are not the aim in themselves;
the limits of the gate say how far apart is too far. What thresholds per group would change is measured beside
it, on rows they were not fitted on. They are not applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.usecase import Costs, UseCase

Floats = npt.NDArray[np.float64]

RATES = ("selection_rate", "false_positive_rate", "false_negative_rate", "calibration")


class Group(BaseModel):
    """One group's figures; a rate is missing where the group has no row that it is of.

    ``calibration`` is the mean score less the observed rate: positive where the group is thought worse than
    it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    base_rate: float
    rates: dict[str, float]


class Mitigation(BaseModel):
    """What thresholds per group would change, fitted on validation rows for equal false positive rates.

    Attributes:
        thresholds: Per group; groups too small for one keep the model's.
        differences: Largest difference between two groups, after.
        cost_before: Mean cost of a row with the model's one threshold.
        cost_after: The same with thresholds per group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: dict[str, float]
    differences: dict[str, float]
    cost_before: float
    cost_after: float


class Parity(BaseModel):
    """The groups of one column.

    ``differences`` holds the largest difference of each rate between two groups of ``min_rows`` rows or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    min_rows: int
    groups: dict[str, Group]
    differences: dict[str, float]
    mitigation: Mitigation | None = None


@dataclass(frozen=True)
class Scored:
    """Rows with label (0 or 1) and score, both of shape (rows,)."""

    rows: pa.Table
    label: npt.NDArray[Any]
    score: Floats


def fairness(uc: UseCase, judged: Scored, validation: Scored, threshold: float) -> list[Parity]:
    """Return the parity of each declared column on ``judged``; thresholds are fitted on ``validation``."""
    return [
        _parity(uc, name, judged, validation, threshold)
        for name in uc.evaluation.fairness.groups
        if name in judged.rows.column_names
    ]


def group_thresholds(
    group: npt.NDArray[np.object_], label: npt.NDArray[Any], score: Floats, threshold: float, min_rows: int
) -> dict[str, float]:
    """Return a threshold per group with the false positive rate that ``threshold`` has over all rows.

    A post-processing for equal opportunity (Hardt, Price and Srebro 2016, "Equality of Opportunity in
    Supervised Learning", section 3), here of the negative class. Groups with fewer than ``min_rows`` rows
    without the event get none.
    """
    negative = np.asarray(label) < 0.5
    overall = float(np.mean(score[negative] >= threshold))
    found = {}
    for value in sorted({item for item in group if item is not None}):
        scores = score[negative & (group == value)]
        if scores.size >= min_rows:
            found[str(value)] = float(np.quantile(scores, 1 - overall, method="higher"))
    return found


def _parity(uc: UseCase, column: str, judged: Scored, validation: Scored, threshold: float) -> Parity:
    min_rows = uc.evaluation.fairness.min_rows
    group = _values(judged.rows, column)
    decided = judged.score >= threshold
    groups = _groups(group, judged.label, judged.score, decided)
    thresholds = group_thresholds(
        _values(validation.rows, column), validation.label, validation.score, threshold, min_rows
    )
    mitigation = None
    if thresholds:
        own = np.array([thresholds.get(str(value), threshold) for value in group])
        redecided = judged.score >= own
        after = _groups(group, judged.label, judged.score, redecided)
        mitigation = Mitigation(
            thresholds=thresholds,
            differences=_differences(after, min_rows),
            cost_before=_cost(judged.label, decided, uc.costs),
            cost_after=_cost(judged.label, redecided, uc.costs),
        )
    return Parity(
        column=column,
        min_rows=min_rows,
        groups=groups,
        differences=_differences(groups, min_rows),
        mitigation=mitigation,
    )


def _values(rows: pa.Table, column: str) -> npt.NDArray[np.object_]:
    return np.array(pc.cast(rows[column], pa.string()).to_pylist(), dtype=object)


def _groups(
    group: npt.NDArray[np.object_],
    label: npt.NDArray[Any],
    score: Floats,
    decided: npt.NDArray[np.bool_],
) -> dict[str, Group]:
    from fairlearn.metrics import false_negative_rate, false_positive_rate, selection_rate

    positive = np.asarray(label) > 0.5
    made = {}
    for value in sorted({item for item in group if item is not None}):
        inside = group == value
        truth, chosen = positive[inside].astype(int), decided[inside].astype(int)
        rates = {
            "selection_rate": selection_rate(truth, chosen),
            "calibration": np.mean(score[inside]) - np.mean(truth),
        }
        if truth.min() == 0:
            rates["false_positive_rate"] = false_positive_rate(truth, chosen)
        if truth.max() == 1:
            rates["false_negative_rate"] = false_negative_rate(truth, chosen)
        made[str(value)] = Group(
            rows=truth.size,
            base_rate=float(np.mean(truth)),
            rates={name: float(rates[name]) for name in RATES if name in rates},
        )
    return made


def _differences(groups: dict[str, Group], min_rows: int) -> dict[str, float]:
    found = {}
    for name in RATES:
        values = [
            item.rates[name] for item in groups.values() if item.rows >= min_rows and name in item.rates
        ]
        if len(values) > 1:
            found[name] = max(values) - min(values)
    return found


def _cost(label: npt.NDArray[Any], decided: npt.NDArray[np.bool_], costs: Costs) -> float:
    positive = np.asarray(label) > 0.5
    alarms, misses = np.count_nonzero(decided & ~positive), np.count_nonzero(~decided & positive)
    return float((costs.false_positive * alarms + costs.false_negative * misses) / max(positive.size, 1))
