"""Is the day like the days the champion learned from? Features and scores against the model's baseline.

The day, and the windows of 7 and 28 days that end with it, are held against what is ordinary for windows of
their length (``calibration``). A day *signals* when a column, or the correlation of a pair, lies beyond it.

The verdict is ``drift`` when the day signals and so do enough of the days before (``drift.confirm``),
``watch`` when it signals alone or its data have a finding (an outage is no drift), else ``quiet``.

A result follows from what was read, whatever the order of nights: a day that comes late, or again, has the
days after it judged again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.lake import tables
from nightshift.monitoring import baseline as baselines
from nightshift.monitoring import comparison, findings
from nightshift.monitoring.baseline import SCORE, Baseline, NoBaselineError
from nightshift.monitoring.comparison import Window
from nightshift.monitoring.findings import Finding
from nightshift.monitoring.sketches import Grid, Sketches
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "monitoring"

Verdict = Literal["quiet", "watch", "drift"]

# Raised when what a result holds, or how it is reached, changes.
_FORM = 4
# A window that lacks more of the days that it should have is not judged.
_DAYS_NEEDED = 6 / 7
# Days that are not there are told of for so long.
_RECENT = timedelta(days=3)


class DriftResult(BaseModel):
    """What was found for one day.

    Attributes:
        columns: What moved, over all windows, the furthest beyond its limit first. A pair counts by both of
            its columns.
        windows: What was found for each window that could be judged, the shortest first.
        findings: What is wrong with the day's data.
        signal: Whether a window has signals.
        note: Why nothing was compared, in words; empty when it was. Such a day is judged again when it is
            checked again.
        rows: Rows of the day.
        features_hash: Content hash of the features that were looked at.
        predictions_hash: Content hash of the predictions that were looked at.
        inputs: Hash of all that decides this result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: date
    verdict: Verdict
    columns: tuple[str, ...]
    windows: tuple[Window, ...]
    findings: tuple[Finding, ...]
    signal: bool
    note: str
    rows: int
    model_hash: str
    features_hash: str
    predictions_hash: str
    inputs: str

    @property
    def reason(self) -> str:
        """What the verdict rests on, in words; empty for a quiet day."""
        moved = {signal.title: f"{signal.effect:.2g}" for window in self.windows for signal in window.signals}
        parts = [self.note] if self.note else []
        parts += [finding.message for finding in self.findings]
        if moved:
            named = [f"{title} ({effect})" for title, effect in list(moved.items())[:3]]
            more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
            parts.append(f"moved: {', '.join(named)}{more}")
        return "; ".join(parts)


def check(uc: UseCase, partition: date, deployed: Sequence[Deployment] | None = None) -> DriftResult:
    """Judge one day as ``check_through`` does, and return its result."""
    return check_through(uc, partition, deployed)[0]


def check_through(
    uc: UseCase, partition: date, deployed: Sequence[Deployment] | None = None
) -> list[DriftResult]:
    """Judge ``partition`` by the baseline of the champion in force on it, and keep the result in the lake.

    Nothing is computed again while features, predictions, model and policy are those of the kept result.
    Results of later days that the day is part of are renewed where it changes them.

    Args:
        uc: The use case.
        partition: The day.
        deployed: ``deployments.history``, for who checks many days; read anew by default.

    Returns:
        The result of the day, then those of later days that were renewed.

    Raises:
        DataError: No champion is in force on that day.
        TransientError: Features or predictions of the day are not published yet.
    """
    entries = list(deployments.history(uc) if deployed is None else deployed)
    back = timedelta(days=max(*uc.drift.windows, uc.drift.confirm.of) - 1)
    # The day is part of windows that end later, and what those signal confirms later days still.
    ahead = timedelta(days=max(uc.drift.windows) + uc.drift.confirm.of - 2)
    found: dict[date, DriftResult] = {}
    while True:
        # Nights that are checked at once see each other here: whoever writes last looks at what others wrote.
        lake = _Lake(uc, partition - back, partition + ahead)
        later = (day for day in sorted(lake.results) if day > partition and lake.is_there(day))
        written = {}
        for day in (partition, *later):
            if day != partition and deployments.champion_at(uc, day, entries) is None:
                continue
            result, is_new = _check(uc, day, entries, lake)
            if is_new:
                written[day] = result
            if day == partition:
                found[day] = result
        found |= written
        if not written:
            return [found[day] for day in sorted(found)]


def results(uc: UseCase, start: date, end: date) -> dict[date, DriftResult]:
    """Return the kept results of ``start`` to ``end``, by day."""
    rows = tables.read_partitions(uc, LAYER, start, end).to_pylist()
    # A row that an earlier version kept, without some field, counts as not there: its day is checked again.
    found = {}
    for row in rows:
        if all(row.get(name) is not None for name in DriftResult.model_fields):
            try:
                result = DriftResult.model_validate(
                    {
                        name: json.loads(row[name]) if name in _JSON else row[name]
                        for name in DriftResult.model_fields
                    }
                )
            except ValueError:
                log.info("the drift of %s %s was kept in another form", uc.name, row["partition"])
            else:
                found[result.partition] = result
    return found


def outdated(uc: UseCase, kept: Mapping[date, DriftResult]) -> dict[date, str]:
    """Return which of the kept results rest on something else than counts now, and why, in words."""
    if not kept:
        return {}
    entries = deployments.history(uc)
    back = timedelta(days=max(*uc.drift.windows, uc.drift.confirm.of) - 1)
    lake = _Lake(uc, min(kept) - back, max(kept))
    found = {}
    for day, result in kept.items():
        deployment = deployments.champion_at(uc, day, entries)
        if deployment is None or not lake.is_there(day):
            continue
        before = _signals_before(uc, day, deployment, lake)
        if result.inputs != _inputs(uc, day, deployment, lake, before):
            found[day] = "days of its windows, the champion or the policy are others now"
    return found


# Stored as JSON text, so that the table's schema does not follow the features.
_JSON = ("columns", "windows", "findings")


class _Lake:
    """What is published, and what was found before, around one day."""

    def __init__(self, uc: UseCase, start: date, end: date) -> None:
        versions = {
            layer: {
                day: version
                for day, version in tables.partition_versions(uc, layer).items()
                if start <= day <= end
            }
            for layer in ("features", "predictions")
        }
        self.features = {day: version.content_hash for day, version in versions["features"].items()}
        self.predictions = {day: version.content_hash for day, version in versions["predictions"].items()}
        self.rows = {day: version.rows for day, version in versions["features"].items()}
        self.results = results(uc, start, end)

    def is_there(self, day: date) -> bool:
        """Tell whether features and predictions of a day are published."""
        return day in self.features and day in self.predictions


def _check(
    uc: UseCase, partition: date, entries: Sequence[Deployment], lake: _Lake
) -> tuple[DriftResult, bool]:
    """Return the result of a day, and whether it was made now."""
    deployment = deployments.champion_at(uc, partition, entries)
    if deployment is None:
        raise DataError(
            f"no champion of {uc.name} is in force on {partition}, so there is nothing to compare with",
            rule="drift is measured against the baseline of the champion",
            where=f"{uc.name}, drift, partition {partition}",
            cure=f"run the {uc.name}.bootstrap DAG through a day before {partition}, or {uc.name}.train",
        )
    for layer, published in (("features", lake.features), ("predictions", lake.predictions)):
        if partition not in published:
            raise TransientError(f"{layer} of {uc.name} {partition} are not published yet")
    before = _signals_before(uc, partition, deployment, lake)
    inputs = _inputs(uc, partition, deployment, lake, before)
    kept = lake.results.get(partition)
    # What could not be judged is tried again: what kept it from that may have been mended.
    if kept is not None and kept.inputs == inputs and not kept.note:
        return kept, False
    result = _judged(uc, partition, deployment, lake, before, inputs)
    lake.results[partition] = result
    if result == kept:
        return result, False
    tables.replace_partition(uc, LAYER, partition, _to_table(result), ["partition"])
    log.info("drift of %s %s: %s %s", uc.name, partition, result.verdict, result.reason)
    return result, True


def _window_days(partition: date, length: int) -> list[date]:
    return list(days(partition - timedelta(days=length - 1), partition))


def _signals_before(uc: UseCase, partition: date, deployment: Deployment, lake: _Lake) -> dict[date, bool]:
    """Return which of the days that confirm a signal signalled, judged by the same model."""
    earlier = _window_days(partition, uc.drift.confirm.of)[:-1]
    return {
        day: lake.results[day].signal
        for day in earlier
        if day in lake.results and lake.results[day].model_hash == deployment.model_hash
    }


def _inputs(
    uc: UseCase, partition: date, deployment: Deployment, lake: _Lake, before: Mapping[date, bool]
) -> str:
    longest = _window_days(partition, max(uc.drift.windows))
    decides = {
        "form": _FORM,
        "baseline": baselines.identity(uc, deployment.model_hash, deployment.snapshot_hash),
        "policy": uc.drift.model_dump(mode="json", exclude={"reference_rows"}),
        "read": [[str(day), lake.features.get(day), lake.predictions.get(day)] for day in longest],
        "before": {str(day): signal for day, signal in before.items()},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _judged(
    uc: UseCase,
    partition: date,
    deployment: Deployment,
    lake: _Lake,
    before: Mapping[date, bool],
    inputs: str,
) -> DriftResult:
    note = ""
    judged: list[Window] = []
    found: list[Finding] = []
    try:
        baseline = baselines.of_model(uc, deployment.version, deployment.model_hash, deployment.snapshot_hash)
    except NoBaselineError as error:
        note = f"not judged: {error.message}"
    else:
        judged, found = _judge(uc, baseline, partition, deployment.model_hash, lake)
    signal = any(window.signals for window in judged)
    confirmed = signal + sum(before.values()) >= uc.drift.confirm.signals
    verdict: Verdict = "quiet"
    if signal and confirmed:
        verdict = "drift"
    elif signal or found or note:
        verdict = "watch"
    moved = sorted(
        (one for window in judged for one in window.signals), key=lambda one: -one.value / one.limit
    )
    named = [name for one in moved for name in (one.column, one.other) if name]
    return DriftResult(
        partition=partition,
        verdict=verdict,
        columns=tuple(dict.fromkeys(named)),
        windows=tuple(judged),
        findings=tuple(found),
        signal=signal,
        note=note,
        rows=lake.rows[partition],
        model_hash=deployment.model_hash,
        features_hash=lake.features[partition],
        predictions_hash=lake.predictions[partition],
        inputs=inputs,
    )


def _judge(
    uc: UseCase, baseline: Baseline, partition: date, model_hash: str, lake: _Lake
) -> tuple[list[Window], list[Finding]]:
    longest = [day for day in _window_days(partition, max(uc.drift.windows)) if day >= uc.history_start]
    there = [day for day in longest if day in lake.features]
    sketches, scored_by = _sketches(uc, baseline.grid, there)
    own = np.array([scored_by.get(day) == model_hash for day in there])
    # Days that the reference has none of, such as Sundays of a shop that is closed, are not waited for.
    expected = [day for day in longest if baseline.weekdays[day.weekday()] or day in lake.features]
    recent = [day for day in expected if day not in lake.features and partition - day <= _RECENT]
    by_day = [findings.of_columns(baseline, sketches.take([place])) for place in range(len(there))]
    found = [*by_day[-1], *findings.of_rows(baseline, partition, int(sketches.rows[-1]), recent)]
    judged = []
    for length in sorted(uc.drift.windows):
        stratum = baselines.stratum_of(baseline, partition, length)
        first = partition - timedelta(days=length - 1)
        chosen = np.array([place for place, day in enumerate(there) if day >= first], dtype=np.intp)
        needed = _DAYS_NEEDED * sum(day >= first for day in expected)
        if length not in baseline.strata[stratum].calibrations or chosen.size < max(1.0, needed):
            continue
        # What was wrong with a column on any day of the window would pass for drift of the whole.
        unusable = {
            one.column
            for place in chosen
            for one in by_day[place]
            if one.kind != "new_category" and one.column
        }
        mine = chosen[own[chosen]]
        if mine.size < max(1.0, needed):
            unusable.add(SCORE)
        judged.append(
            comparison.judge(
                baseline,
                sketches.take(chosen),
                length,
                stratum,
                min_effect=uc.drift.min_effect,
                skip=frozenset(unusable),
                scored=None if mine.size == chosen.size else sketches.take(mine),
                score=SCORE,
            )
        )
    return judged, found


def _sketches(uc: UseCase, grid: Grid, there: Sequence[date]) -> tuple[Sketches, dict[date, str]]:
    """Return a sketch a day, and by which model each day was scored."""
    # A column of the grid that the table does not have counts as missing.
    present = tables.columns(uc, "features")
    columns = [uc.entity, "partition", *(name for name in grid.columns if name in present and name != SCORE)]
    features = tables.read_partitions(uc, "features", there[0], there[-1], columns=columns)
    scores = tables.read_partitions(
        uc, "predictions", there[0], there[-1], columns=[uc.entity, "partition", SCORE, "model_hash"]
    )
    scored_by = {}
    if scores.num_columns:
        features = features.join(
            scores.drop_columns(["model_hash"]), keys=["partition", uc.entity], join_type="left outer"
        )
        pairs = scores.select(["partition", "model_hash"]).group_by(["partition", "model_hash"]).aggregate([])
        scored_by = dict(zip(pairs["partition"].to_pylist(), pairs["model_hash"].to_pylist(), strict=True))
    ordinals = np.array([day.toordinal() for day in there])
    day_of = features["partition"].to_numpy().astype("datetime64[D]").astype(np.int64)
    offset = np.datetime64(there[0], "D").astype(np.int64) - there[0].toordinal()
    return grid.sketch(features, np.searchsorted(ordinals, day_of - offset), len(there)), scored_by


def _to_table(result: DriftResult) -> pa.Table:
    row = result.model_dump(mode="json") | {"partition": result.partition}
    return pa.Table.from_pylist(
        [{name: json.dumps(value, sort_keys=True) if name in _JSON else value for name, value in row.items()}]
    )
