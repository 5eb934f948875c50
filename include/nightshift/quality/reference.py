"""What features looked like in training, kept small enough to compare every night with.

A profile is a few numbers a feature, named by the training snapshot they come from. A night is compared
with the profile behind its champion: ``compare`` puts both side by side, one row a feature, and the suite
``features_profile`` says what is worth a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import append_log
from nightshift.usecase import UseCase

Profile = dict[str, dict[str, float]]

COMPARED = pa.schema(
    [("partition", pa.date32()), ("feature", pa.string())]
    + [
        (name, pa.float64())
        for name in ("mean", "mean_low", "mean_high", "filled", "filled_low", "outliers", "outliers_high")
    ]
)
"""``filled`` is the share of values that are not null, ``outliers`` the share of those that lie outside the
fences of training; ``_low`` and ``_high`` come from training."""

# A day's mean scatters far less than single values, so three standard deviations of the values is a wide
# band: it lets seasons pass and finds a changed unit or a join that lost its rows. Drift has its own room.
_DEVIATIONS = 3.0
_FILLED_TOLERANCE = 0.2
# Tukey's outer fences (1977): beyond three interquartile ranges a value is far out.
_FENCES = 3.0
# How much more of a day than of training may lie far out: single outliers are life, a cluster is not.
# docs/validation.md says on how many real days more of them did.
_OUTLIERS_TOLERANCE = 0.3
# A feature of the whole day, or of a few large groups, lies far out wholly or not at all: that is a shift,
# for the mean to find, not a cluster.
_CLUSTER_VALUES = 10


def profile(uc: UseCase, training: pa.Table) -> Profile:
    """Return, for each numeric feature that has values in ``training``, the bounds a day is compared with.

    ``mean_low`` and ``mean_high``: the training mean minus and plus three standard deviations.
    ``filled_low``: the training share of values that are not null, less 0.2.
    ``fence_low`` and ``fence_high``: the quartiles minus and plus three times their distance; absent where
    they are equal, for then most values are one and any other would be far out.
    ``outliers_high``: the training share of values outside these fences, plus 0.3.
    """
    found: Profile = {}
    for name in uc.features.numeric:
        column = pc.cast(training[name], pa.float64())
        values = column.drop_null()
        if not len(values):
            continue
        mean, spread = pc.mean(values).as_py(), pc.stddev(values).as_py()
        found[name] = {
            "mean_low": mean - _DEVIATIONS * spread,
            "mean_high": mean + _DEVIATIONS * spread,
            "filled_low": max(0.0, len(values) / len(column) - _FILLED_TOLERANCE),
        }
        first, third = pc.quantile(values, [0.25, 0.75]).to_pylist()
        if third > first:
            reach = _FENCES * (third - first)
            fences = {"fence_low": first - reach, "fence_high": third + reach}
            found[name] |= fences | {"outliers_high": _outliers(values, fences) + _OUTLIERS_TOLERANCE}
    return found


def compare(features: pa.Table, profiles: Mapping[date, Profile]) -> pa.Table:
    """Return one row a partition and feature, as ``COMPARED``: what the day says beside what training said.

    Args:
        features: Feature rows with their ``partition`` (date32).
        profiles: The profile each partition is compared with; partitions without one are left out.
    """
    rows: list[dict[str, Any]] = []
    for day, known in profiles.items():
        part = features.filter(pc.equal(features["partition"], pa.scalar(day, pa.date32())))
        for name, bounds in known.items():
            # A feature that training had and the table lacks is the contract of the model to refuse.
            if name in part.column_names and part.num_rows:
                rows.append({"partition": day, "feature": name} | side_by_side(part[name], bounds))
    return pa.Table.from_pylist(rows, schema=COMPARED)


def unlike(compared: pa.Table) -> dict[date, list[str]]:
    """Return which features of each partition of ``compare`` lie outside a bound, and how, in words."""
    found: dict[date, list[str]] = {}
    for row in compared.to_pylist():
        outside = [
            f"{name} {row[name]:.4g}"
            for name in ("mean", "filled", "outliers")
            if row[name] is not None
            and (
                (row.get(f"{name}_low") is not None and row[name] < row[f"{name}_low"])
                or (row.get(f"{name}_high") is not None and row[name] > row[f"{name}_high"])
            )
        ]
        if outside:
            found.setdefault(row["partition"], []).append(f"{row['feature']} ({', '.join(outside)})")
    return found


def side_by_side(column: pa.ChunkedArray, bounds: Mapping[str, float]) -> dict[str, float | None]:
    """Return what a column of at least one row says (mean, filled, outliers), and the bounds of training."""
    values = pc.cast(column, pa.float64())
    known = values.drop_null()
    clusters = "fence_low" in bounds and pc.count_distinct(known).as_py() >= _CLUSTER_VALUES
    return {
        "mean": pc.mean(values).as_py(),
        "filled": 1 - values.null_count / len(values),
        "outliers": _outliers(known, bounds) if clusters else None,
        **{name: bounds.get(name) for name in ("mean_low", "mean_high", "filled_low", "outliers_high")},
    }


def _outliers(values: pa.ChunkedArray, fences: Mapping[str, float]) -> float:
    """Return the share of values outside the fences."""
    outside = pc.or_(pc.less(values, fences["fence_low"]), pc.greater(values, fences["fence_high"]))
    return float(pc.sum(outside).as_py() / len(values))


def remember(uc: UseCase, snapshot_hash: str, training: pa.Table) -> None:
    """Keep the profile of a training snapshot; one that is known already is left alone."""
    if recall(uc, snapshot_hash) is None:
        append_log.append(_log(uc), {"snapshot_hash": snapshot_hash, "profile": profile(uc, training)})


def recall(uc: UseCase, snapshot_hash: str) -> Profile | None:
    """Return the profile of a training snapshot; None when it was never kept."""
    for record in reversed(append_log.read_log(_log(uc))):
        if record["snapshot_hash"] == snapshot_hash:
            kept: Profile = record["profile"]
            return kept
    return None


def _log(uc: UseCase) -> str:
    return f"feature_profiles/{uc.name}"
