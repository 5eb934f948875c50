"""The leak alarm: stops a training by the name of what no honest feature or model could do.

A feature that tells the label nearly alone was most likely made from it, or from what came after it. Each
feature is asked alone, before anything is trained: its values are put into bins, and the label's rate of a
bin on some days scores the rows of the other days. That finds numbers, categories and telling gaps alike,
whatever the shape of the relation; and a category of a single row tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.evaluation.backtest import recorded
from nightshift.registry.records import Candidate
from nightshift.training.snapshot import labels_of
from nightshift.usecase import UseCase

_BINS = 64
_FOLDS = 2
# Plenty for a ROC AUC to two digits, and a second for a hundred features.
_ROWS = 40_000
# A bin's rate is drawn towards the overall one by so many rows, so that rare values do not claim certainty.
_PRIOR_ROWS = 5
_NAMED = 5
# Of one or two cut-offs nobody can tell how much cut-offs differ.
_MIN_FOLDS = 3


def feature_aucs(uc: UseCase, rows: pa.Table, label: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return the ROC AUC that each feature reaches alone on days it was not asked about, highest first.

    Args:
        uc: Says which columns are features.
        rows: Features and ``partition``; of more than 40,000 rows, evenly spaced ones are used.
        label: 0 or 1, of shape (rows,).
    """
    taken = np.unique(np.linspace(0, rows.num_rows - 1, min(rows.num_rows, _ROWS)).astype(np.int64))
    sample, positive = rows.take(pa.array(taken)), label[taken] > 0.5
    if positive.all() or not positive.any():
        return {}
    fold = np.unique(sample["partition"].to_numpy(), return_inverse=True)[1] % _FOLDS
    found = {}
    for name in uc.features.columns:
        bins = _binned(sample[name], is_number=name in uc.features.numeric)
        found[name] = _auc_on_other_days(bins, fold, positive)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def refuse_leaks(uc: UseCase, night: date, rows: pa.Table) -> dict[str, float]:
    """Return ``feature_aucs`` of the labelled training ``rows``, if none is implausible.

    Raises:
        DataError: A feature alone reaches more than ``evaluation.leaks.max_feature_auc``.
    """
    limit = uc.evaluation.leaks.max_feature_auc
    found = feature_aucs(uc, rows, labels_of(uc, rows).to_numpy(zero_copy_only=False))
    leaks = {name: value for name, value in found.items() if value > limit}
    if leaks:
        named = ", ".join(f"{name} ({value:.3f})" for name, value in leaks.items())
        raise DataError(
            f"too good to be true: alone, {named} reaches a ROC AUC above {limit:g} of {uc.label.column}",
            rule=f"evaluation.leaks.max_feature_auc: {limit:g}",
            where=f"{uc.name}, training of {night}, relation {uc.features.relation}",
            cure="find out how the feature knows the outcome and take it out of features; if it is known "
            "before the event in truth, raise the limit in usecase.yml",
        )
    return found


def refuse_implausible(
    uc: UseCase, candidates: Sequence[Candidate], rows: pa.Table, label: npt.NDArray[np.float32]
) -> None:
    """Check what ``candidates`` reached on validation, whose ``rows`` and ``label`` are given.

    Raises:
        DataError: One reaches more than ``evaluation.leaks.max_validation_auc``, or more than its trainer's
            backtest makes plausible; the features that say most alone are named.
    """
    limit = uc.evaluation.leaks.max_validation_auc
    reached = {item.trainer: item.metrics.get("roc_auc", 0.0) for item in candidates}
    high = {name: value for name, value in reached.items() if value > limit}
    if high:
        raise DataError(
            "too good to be true: "
            + ", ".join(
                f"{name} reaches a ROC AUC of {value:.4f} on validation" for name, value in high.items()
            )
            + f"; {_said_by(uc, rows, label)}",
            rule=f"evaluation.leaks.max_validation_auc: {limit:g}",
            where=f"{uc.name}, snapshot {candidates[0].snapshot_hash[:12]}",
            cure="look for what these features know of the outcome; if the task is that easy in truth, raise "
            "the limit in usecase.yml",
        )
    refuse_beyond_backtest(uc, candidates, "validation", reached, rows, label)


def refuse_beyond_backtest(
    uc: UseCase,
    candidates: Sequence[Candidate],
    part: Literal["validation", "holdout"],
    reached: Mapping[str, float],
    rows: pa.Table,
    label: npt.NDArray[np.float32],
) -> None:
    """Compare ROC AUCs with what backtests of the same trainers gave on days after their training.

    A trainer's limit is the mean over the cut-offs of its newest backtest plus
    ``evaluation.leaks.backtest_deviations`` standard deviations, the deviation being taken as
    ``backtest_min_deviation`` at least: a few cut-offs tell little about how much seasons differ. Backtests
    of later nights than the candidates', and of fewer than three cut-offs, are left aside. Without one there
    is no limit.

    Args:
        uc: The use case.
        candidates: Who is compared.
        part: Where they reached it.
        reached: ROC AUC by trainer.
        rows: The rows of that part.
        label: Their labels.

    Raises:
        DataError: One lies above its limit; it is named, with the features that say most alone, and those
            that the backtest did not have.
    """
    rules, known = uc.evaluation.leaks, recorded(uc)
    told, new = [], set()
    for item in candidates:
        backtest = next(
            (
                found
                for found in reversed(known)
                if found.night <= item.trained_night
                and (spread := found.spreads.get(item.trainer, {}).get("roc_auc")) is not None
                and spread.folds >= _MIN_FOLDS
            ),
            None,
        )
        if backtest is None or item.trainer not in reached:
            continue
        spread = backtest.spreads[item.trainer]["roc_auc"]
        deviation = max(spread.deviation or 0.0, rules.backtest_min_deviation)
        limit = spread.mean + rules.backtest_deviations * deviation
        if reached[item.trainer] <= limit:
            continue
        told.append(
            f"{item.trainer} reaches a ROC AUC of {reached[item.trainer]:.4f} on {part}, where its backtest "
            f"of {backtest.night} gave {spread.mean:.4f} (deviation {spread.deviation or 0.0:.4f}, highest "
            f"{spread.high:.4f}, {spread.folds} cut-offs) and makes {limit:.4f} plausible"
        )
        new |= set(uc.features.columns) - set(backtest.features)
    if told:
        since = f"; new since the backtest: {', '.join(sorted(new))}" if new else ""
        raise DataError(
            f"too good to be true: {'; '.join(told)}; {_said_by(uc, rows, label)}{since}",
            rule=f"evaluation.leaks.backtest_deviations: {rules.backtest_deviations:g} of at least "
            f"{rules.backtest_min_deviation:g} (backtest_min_deviation) above the mean of the backtest",
            where=f"{uc.name}, snapshot {candidates[0].snapshot_hash[:12]}",
            cure="look for what these features know of the outcome; if the gain is honest, run `nightshift "
            f"backtest --through {candidates[0].trained_night}`: from then on its figures are the measure",
        )


def _said_by(uc: UseCase, rows: pa.Table, label: npt.NDArray[np.float32]) -> str:
    strongest = list(feature_aucs(uc, rows, label).items())[:_NAMED]
    return f"most is said by {', '.join(f'{name} ({value:.3f} alone)' for name, value in strongest)}"


def _binned(column: pa.ChunkedArray, *, is_number: bool) -> npt.NDArray[np.int64]:
    """Return the bin of each row; null is a bin of its own, the first."""
    if not is_number:
        codes = pc.cast(column, pa.string()).combine_chunks().dictionary_encode().indices
        return np.asarray(pc.add(pc.fill_null(codes, -1), 1).to_numpy(zero_copy_only=False), dtype=np.int64)
    values = pc.cast(column, pa.float64()).to_numpy()
    present = ~np.isnan(values)
    bins = np.zeros(values.size, dtype=np.int64)
    if present.any():
        edges = np.unique(np.quantile(values[present], np.arange(1, _BINS) / _BINS, method="lower"))
        bins[present] = 1 + np.searchsorted(edges, values[present], side="right")
    return bins


def _auc_on_other_days(
    bins: npt.NDArray[np.int64], fold: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_]
) -> float:
    """Return the ROC AUC of scoring each row by the rate of positives of its bin in the other fold."""
    size = int(bins.max()) + 1
    cell = fold * size + bins
    hits = np.bincount(cell[positive], minlength=_FOLDS * size).reshape(_FOLDS, size)
    rest = np.bincount(cell[~positive], minlength=_FOLDS * size).reshape(_FOLDS, size)
    known, known_hits = (hits + rest)[::-1], hits[::-1]
    prior = known_hits.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    # Less the overall rate: days of the two folds may differ in it.
    score = (known_hits + _PRIOR_ROWS * prior) / (known + _PRIOR_ROWS) - prior
    # All rows of a cell have one score, so cells take the place of rows: pairs in order, ties counting half.
    rank = np.unique(score, return_inverse=True)[1].ravel()
    ups, downs = np.bincount(rank, weights=hits.ravel()), np.bincount(rank, weights=rest.ravel())
    pairs = (ups * (np.cumsum(downs) - downs / 2)).sum()
    return float(pairs / (ups.sum() * downs.sum()))
