"""Observed quality over the last 7 and 28 days, and by slice: what a single day is too small to tell.

A judged day is the end of its windows. They are partitions of ``monitoring_windows`` (a row a window) and of
``monitoring_slices`` (a row for each window, a day's own among them, slice and value) and follow from the
outcomes of at most 28 days. A day that is judged anew moves the windows of at most 28 days that exist; the
newest night has only its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.lake.hashing import combine_hashes
from nightshift.monitoring.figures import MIN_JUDGED_DAYS, Figures, figures, labelled, rows_table
from nightshift.monitoring.truth import OUTCOMES, SLICE, model_of
from nightshift.registry import card, deployments
from nightshift.usecase import Metric, UseCase

log = logging.getLogger(__name__)

WINDOWS = "monitoring_windows"
SLICES = "monitoring_slices"
WINDOW_DAYS = (7, 28)

LONGEST = timedelta(days=max(WINDOW_DAYS) - 1)

_WINDOW_COLUMNS = {
    "partition": pa.date32(),
    "window_days": pa.int64(),
    "start": pa.date32(),
    "days": pa.int64(),
    "rows": pa.int64(),
    "model_hash": pa.string(),
    "inputs": pa.string(),
    "slices_hash": pa.string(),
}
_SLICE_COLUMNS = {
    "partition": pa.date32(),
    "window_days": pa.int64(),
    "slice": pa.string(),
    "value": pa.string(),
    "days": pa.int64(),
    "rows": pa.int64(),
    "baseline": pa.float64(),
    "verdict": pa.string(),
}


def update(uc: UseCase, first: date, last: date) -> list[date]:
    """Make the windows with a day of ``first`` to ``last`` follow its outcomes; see ``update_ending``.

    Returns:
        The last days of the windows that changed.
    """
    return update_ending(uc, first, last + LONGEST)


def update_ending(uc: UseCase, first: date, last: date) -> list[date]:
    """Make the windows that end on a day of ``first`` to ``last`` follow their outcomes.

    Days that others judge meanwhile are seen: what was made of them as they were before is made anew, so
    whoever ends last leaves windows that fit the outcomes, whatever others wrote in between.

    Returns:
        The last days of the windows that changed. Windows whose outcomes are as they were are not read.
    """
    deployed = deployments.history(uc)

    @cache
    def baseline_of(run_id: str) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        return card.holdout_slices(uc, run_id)

    changed: set[date] = set()
    while True:
        outcomes = _contents(uc, OUTCOMES)
        slices = _contents(uc, SLICES)
        ends = [day for day in outcomes if first <= day <= last]
        kept = tables.read_partitions(uc, WINDOWS, min(ends), max(ends)).to_pylist() if ends else []
        known = {row["partition"]: (row["inputs"], row.get("slices_hash")) for row in kept}
        written = set()
        for end in ends:
            champion = deployments.champion_at(uc, end, deployed)
            inside = {day: outcomes[day] for day in outcomes if end - LONGEST <= day <= end}
            inputs = _inputs(uc, inside, champion.model_hash if champion else "")
            if known.get(end) != (inputs, slices.get(end, "")):
                _update(uc, end, inputs, baseline_of(champion.run_id) if champion else {})
                written.add(end)
        changed |= written
        if not written:
            return sorted(changed)


def _contents(uc: UseCase, layer: str) -> dict[date, str]:
    """Return the content hash of each published partition of a layer."""
    return {day: version.content_hash for day, version in tables.partition_versions(uc, layer).items()}


def read(uc: UseCase, start: date, end: date) -> list[dict[str, Any]]:
    """Return a row for each window that ends on ``start`` to ``end``, by day, then length."""
    rows: list[dict[str, Any]] = tables.read_partitions(uc, WINDOWS, start, end).to_pylist()
    return rows


def read_slices(uc: UseCase, start: date, end: date) -> list[dict[str, Any]]:
    """Return a row for each window, slice and value, of windows that end on ``start`` to ``end``.

    ``verdict`` is ``worse`` where the primary metric lies below ``baseline``, the figure of the same slice on
    the champion's holdout, by more than ``gate.slices.max_loss`` even at the upper end of its interval; else
    ``ok``; empty where there is no such figure, or there are fewer rows than ``gate.slices.min_rows`` or
    fewer days than ``MIN_JUDGED_DAYS``.
    """
    rows: list[dict[str, Any]] = tables.read_partitions(uc, SLICES, start, end).to_pylist()
    return rows


def _inputs(uc: UseCase, outcomes: Mapping[date, str], model_hash: str) -> str:
    rules = {
        "costs": uc.costs.model_dump(),
        "gate": [uc.gate.primary, uc.gate.confidence, uc.gate.slices.model_dump(), MIN_JUDGED_DAYS],
        "draws": [uc.evaluation.resamples, uc.training.seed],
        "slices": uc.slices,
    }
    contents = [(day.isoformat(), content) for day, content in outcomes.items()]
    return combine_hashes([*contents, ("rules", json.dumps(rules, sort_keys=True)), ("model", model_hash)])


def _update(
    uc: UseCase, end: date, inputs: str, baseline: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    outcomes = labelled(tables.read_partitions(uc, OUTCOMES, end - LONGEST, end))
    windows, slices = [], []
    for length in (1, *WINDOW_DAYS):
        start = end - timedelta(days=length - 1)
        inside = outcomes.filter(pc.greater_equal(outcomes.column("partition"), start))
        named = {"partition": end, "window_days": length}
        if length in WINDOW_DAYS:
            found = figures(uc, inside)
            windows.append(
                found.as_row()
                | named
                | {"start": start, "days": found.days, "model_hash": model_of(inside), "inputs": inputs}
            )
        slices += [named | row for row in _by_slice(uc, inside, baseline)]
    # Windows name what they rest on, and the slices that were made with them: a run killed in between, or
    # another one's slices in between, finds the two unlike, and does both again.
    table = rows_table(slices, _SLICE_COLUMNS)
    with_slices = tables.replace_partition(uc, SLICES, end, table, ["window_days", "slice", "value"])
    named_hash = {"slices_hash": with_slices.content_hash if table.num_rows else ""}
    table = rows_table([window | named_hash for window in windows], _WINDOW_COLUMNS)
    tables.replace_partition(uc, WINDOWS, end, table, ["window_days"])


def _by_slice(
    uc: UseCase, outcomes: pa.Table, baseline: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    limits, primary = uc.gate.slices, uc.gate.primary
    rows = []
    for name in uc.slices:
        if SLICE + name not in outcomes.column_names:
            continue
        column = outcomes.column(SLICE + name)
        for value in sorted(pc.unique(column.drop_null()).to_pylist()):
            inside = outcomes.filter(pc.equal(column, value))
            names: tuple[Metric, ...] = (
                (primary, "brier", "cost") if inside.num_rows >= limits.min_rows else ()
            )
            found = figures(uc, inside, names)
            before = baseline.get(name, {}).get(value, {}).get(primary)
            rows.append(
                found.as_row()
                | {"slice": name, "value": value, "days": found.days, "baseline": before}
                | {"verdict": _verdict(found, primary, before, limits.max_loss)}
            )
    return rows


def _verdict(found: Figures, primary: Metric, baseline: float | None, max_loss: float) -> str:
    interval = found.intervals.get(primary)
    if found.days < MIN_JUDGED_DAYS or interval is None or baseline is None:
        return ""
    return "worse" if interval.high < baseline - max_loss else "ok"
