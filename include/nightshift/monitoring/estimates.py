"""How good tonight's predictions are going to be, before any of their labels is known: an estimate.

If scores are calibrated, each row is positive with the probability that its score says, so every metric has
an expected value that needs no label: confidence-based performance estimation (Bialek et al. 2024,
"Estimating Model Performance Under Covariate Shift Without Labels", arXiv:2401.08348; known from NannyML as
CBPE). It sees that a day is harder than others. It cannot see that the world has changed under the model:
then the scores are no longer calibrated, the estimate stays good, and only the observed figure falls. The gap
between both, kept beside each other, is what to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.lake import tables
from nightshift.monitoring import truth
from nightshift.usecase import Costs, UseCase

LAYER = "monitoring_estimates"

METRICS = ("base_rate", "roc_auc", "brier", "log_loss", "cost")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The estimate of one day and, where its truth is known by now, what was observed.

    ``estimated`` is of all scored rows, ``observed`` of the labelled ones among them.
    """

    partition: date
    rows: int
    estimated: dict[str, float]
    observed: dict[str, float] | None


def estimate(uc: UseCase, partition: date) -> dict[str, float] | None:
    """Estimate the metrics of the predictions of ``partition``, and keep them in the lake.

    Nothing is computed again while the predictions are those of the kept estimate.

    Returns:
        The metrics of ``METRICS`` that the scores define; None where the day has no predictions.
    """
    version = tables.partition_version(uc, "predictions", partition)
    if version is None:
        return None
    kept = tables.read_partitions(uc, LAYER, partition, partition).to_pylist()
    inputs = f"{version.content_hash} {uc.costs.model_dump_json()}"
    if kept and kept[0]["inputs"] == inputs:
        return _metrics(kept[0])
    rows = tables.read_partitions(uc, "predictions", partition, partition, ["score", "decision"])
    score, acted_on = rows.column("score").to_numpy(), rows.column("decision").to_numpy()
    found = expected_metrics(score, acted_on, uc.costs)
    row = {"partition": partition, "rows": rows.num_rows, "inputs": inputs}
    schema = pa.schema(
        [("partition", pa.date32()), ("rows", pa.int64()), ("inputs", pa.string())]
        + [(name, pa.float64()) for name in METRICS]
    )
    tables.replace_partition(
        uc, LAYER, partition, pa.Table.from_pylist([row | found], schema=schema), ["partition"]
    )
    return found


def estimates(uc: UseCase, start: date, end: date) -> list[Estimate]:
    """Return the kept estimates of ``start`` to ``end``, each beside what was observed since."""
    observed = truth.observed_models(uc, start, end)
    return [
        Estimate(
            partition=row["partition"],
            rows=row["rows"],
            estimated=_metrics(row),
            observed={name: value for name, value in seen[1].items() if name in METRICS}
            if (seen := observed.get(row["partition"]))
            else None,
        )
        for row in tables.read_partitions(uc, LAYER, start, end).to_pylist()
    ]


def expected_metrics(score: Floats, acted_on: npt.NDArray[np.bool_], costs: Costs) -> dict[str, float]:
    """Return the metrics to expect of calibrated scores, each of shape (rows,).

    With p the score of a row: it is positive with p, so its squared error is p(1-p) on average and its log
    loss the entropy of p; acting on it is a mistake with 1-p, not acting with p. ROC AUC is the share of
    (positive, negative) pairs in order: the pair of rows i and j counts p_i (1-p_j), ties half. Its
    expectation is taken as the ratio of two.

    Returns:
        By name, as in ``METRICS``; ROC AUC only where positives and negatives are both to be expected.
    """
    if score.size == 0:
        return {}
    other = 1 - score
    inside = np.clip(score, np.finfo(float).tiny, 1)
    beside = np.clip(other, np.finfo(float).tiny, 1)
    found = {
        "base_rate": float(score.mean()),
        "brier": float(np.mean(score * other)),
        "log_loss": float(-np.mean(score * np.log(inside) + other * np.log(beside))),
        "cost": float(
            np.mean(np.where(acted_on, costs.false_positive * other, costs.false_negative * score))
        ),
    }
    # A row makes no pair with itself.
    itself = score * other
    pairs = score.sum() * other.sum() - itself.sum()
    if pairs > 0:
        values, place = np.unique(score, return_inverse=True)
        negatives = np.bincount(place, weights=other, minlength=values.size)
        below = np.cumsum(negatives) - negatives / 2
        found["roc_auc"] = float((np.sum(score * below[place]) - itself.sum() / 2) / pairs)
    return found


def _metrics(row: dict[str, float]) -> dict[str, float]:
    return {name: row[name] for name in METRICS if row.get(name) is not None}
