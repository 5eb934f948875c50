"""Champion and challenger on the same truth: what the challenger would have scored beside what was published.

Only rows that both scored and whose label is known count, and both are judged on the very same ones. Each
judged day is a partition of ``monitoring_shadow``. Over several days the difference is paired: every resample
draws whole days for both, as the gate does on the holdout.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.intervals import MIN_DAYS, Interval, differences, draw_days, resampled_metrics
from nightshift.lake import tables
from nightshift.metrics import forecast_metrics
from nightshift.monitoring import truth
from nightshift.usecase import Metric, UseCase

LAYER = "monitoring_shadow"
_SCORES = "shadow_predictions"
_METRICS: tuple[Metric, ...] = ("roc_auc", "pr_auc", "brier", "log_loss", "ece", "cost")
# A challenger waits for hours or days; what is older says nothing about this one.
_HORIZON = timedelta(days=28)


class Comparison(BaseModel):
    """A challenger beside the champion on the days that both scored.

    Attributes:
        champion: Metrics of what was published.
        challenger: Metrics of the shadow scores on the same rows.
        differences: (challenger - champion) by metric, with paired intervals; none of fewer than three days.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    version: str
    challenger_hash: str
    champion_hash: str
    days: tuple[date, ...]
    rows: int
    confidence: float
    champion: dict[str, float]
    challenger: dict[str, float]
    differences: dict[str, Interval]


def judge(uc: UseCase, day: date) -> dict[str, Any] | None:
    """Judge the shadow scores of a day whose truth is known, and keep the figures of both models.

    Returns:
        What is kept; None when nobody scored that day in shadow, or its truth is not judged yet.
    """
    inputs = [tables.partition_version(uc, layer, day) for layer in (_SCORES, truth.OUTCOMES)]
    if None in inputs:
        return None
    hashes = [version.content_hash for version in inputs if version is not None]
    kept: list[dict[str, Any]] = tables.read_partitions(uc, LAYER, day, day).to_pylist()
    for row in kept:
        if [row["shadow_hash"], row["outcomes_hash"]] == hashes:
            return row
    pairs = _pairs(uc, day, day)
    if pairs.num_rows == 0:
        return None
    figures = {
        f"{role}_{name}": value
        for role in ("champion", "challenger")
        for name, value in _metrics(uc, pairs, role).items()
        if name in _METRICS
    }
    row = {
        "partition": day,
        "challenger_version": pairs["version"][0].as_py(),
        "challenger_hash": pairs["challenger_hash"][0].as_py(),
        "champion_hash": pairs["champion_hash"][0].as_py(),
        "rows": pairs.num_rows,
        **figures,
        "shadow_hash": hashes[0],
        "outcomes_hash": hashes[1],
    }
    tables.replace_partition(uc, LAYER, day, pa.Table.from_pylist([row]), ["partition"])
    return row


def compare(uc: UseCase, version: str) -> Comparison | None:
    """Compare a version with the champion on the judged days that it scored in shadow, at most 28 of them.

    Where the champion changed in between, only days of the newer one count.

    Returns:
        None while there is no such day.
    """
    scored = tables.constants(uc, _SCORES, date.min, date.max, ["model_version"])
    judged = tables.partition_versions(uc, truth.OUTCOMES)
    days = sorted(day for day, row in scored.items() if row["model_version"] == version and day in judged)
    if not days:
        return None
    pairs = _pairs(uc, max(days[0], days[-1] - _HORIZON + timedelta(days=1)), days[-1])
    pairs = pairs.filter(pc.equal(pairs["version"], version))
    if pairs.num_rows == 0:
        return None
    champion_hash = pairs["champion_hash"][-1].as_py()
    pairs = pairs.filter(pc.equal(pairs["champion_hash"], champion_hash))
    of_day, position = np.unique(pairs["partition"].to_numpy(), return_inverse=True)
    found = {role: _metrics(uc, pairs, role) for role in ("champion", "challenger")}
    gaps: dict[str, Interval] = {}
    if of_day.size >= MIN_DAYS:
        drawn = draw_days(of_day.size, uc.evaluation.resamples, uc.training.seed)
        resampled = {
            role: resampled_metrics(
                pairs["label"].to_numpy(),
                pairs[f"{role}_score"].to_numpy(),
                position.astype(np.int64),
                drawn,
                threshold=_threshold(pairs, role),
                costs=uc.costs,
                names=_METRICS,
            )
            for role in found
        }
        gaps = differences(
            found["challenger"],
            resampled["challenger"],
            found["champion"],
            resampled["champion"],
            uc.gate.confidence,
        )
    return Comparison(
        usecase=uc.name,
        version=version,
        challenger_hash=pairs["challenger_hash"][0].as_py(),
        champion_hash=champion_hash,
        days=tuple(of_day.tolist()),
        rows=pairs.num_rows,
        confidence=uc.gate.confidence,
        champion={name: found["champion"][name] for name in _METRICS if name in found["champion"]},
        challenger={name: found["challenger"][name] for name in _METRICS if name in found["challenger"]},
        differences=gaps,
    )


def in_words(compared: Comparison | None, version: str) -> str:
    """Return, as Markdown, how a challenger did beside the champion on live nights."""
    if compared is None:
        return (
            f"**In shadow:** nothing is known yet of nights that version {version} scored beside the "
            "champion. `nightshift shadow` shows them as their truth comes in."
        )
    first, last = compared.days[0], compared.days[-1]
    lines = [
        f"**In shadow**, on {compared.rows:,} rows of {len(compared.days)} nights, {first} to {last}, that "
        "both scored:",
        "",
        f"| metric | version {version} | champion | difference ({compared.confidence:.0%} interval) |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, value in compared.challenger.items():
        if name in compared.champion:
            other = compared.champion[name]
            lines.append(f"| {name} | {value:.4f} | {other:.4f} | {difference(compared, name)} |")
    return "\n".join(lines)


def difference(compared: Comparison, metric: str) -> str:
    """Return (challenger - champion) of a metric with its interval, as text."""
    gap = f"{compared.challenger[metric] - compared.champion[metric]:+.4f}"
    between = compared.differences.get(metric)
    return f"{gap} ({between.low:+.4f} to {between.high:+.4f})" if between else f"{gap} (too few nights)"


def _pairs(uc: UseCase, start: date, end: date) -> pa.Table:
    """Return the rows that both scored and whose label is known, in order of partition and entity."""
    shadow = tables.read_partitions(
        uc, _SCORES, start, end, [uc.entity, "partition", "score", "decision", "model_version", "model_hash"]
    ).rename_columns(
        [uc.entity, "partition", "challenger_score", "challenger_acts", "version", "challenger_hash"]
    )
    outcomes = tables.read_partitions(
        uc, truth.OUTCOMES, start, end, [uc.entity, "partition", "score", "decision", "model_hash", "label"]
    ).rename_columns([uc.entity, "partition", "champion_score", "champion_acts", "champion_hash", "label"])
    known = outcomes.filter(pc.is_valid(outcomes["label"]))
    keys = ["partition", uc.entity]
    return known.join(shadow, keys=keys, join_type="inner").sort_by([(key, "ascending") for key in keys])


def _metrics(uc: UseCase, pairs: pa.Table, role: str) -> dict[str, float]:
    return forecast_metrics(
        pairs["label"].to_numpy(),
        pairs[f"{role}_score"].to_numpy(),
        threshold=_threshold(pairs, role),
        costs=uc.costs,
    )


def _threshold(pairs: pa.Table, role: str) -> float:
    """Return a score that separates the rows a model would act on; the lowest of them."""
    acted_on: npt.NDArray[np.bool_] = pairs[f"{role}_acts"].to_numpy()
    return float(pairs[f"{role}_score"].to_numpy()[acted_on].min()) if acted_on.any() else float(np.inf)
