"""What features looked like in training, kept small enough to compare every night with.

A profile is a few numbers a column, named by the training snapshot they come from. Suites read them as
``{"$PARAMETER": "reference.$column.<number>"}``.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import append_log
from nightshift.usecase import UseCase

Profile = dict[str, dict[str, float]]

# A day's mean scatters far less than single values, so three standard deviations of the values is a wide
# band: it lets seasons pass and finds a changed unit or a join that lost its rows. Drift has its own room.
_DEVIATIONS = 3.0
_FILLED_TOLERANCE = 0.2


def profile(uc: UseCase, training: pa.Table) -> Profile:
    """Return, for each numeric feature that has values in ``training``, the bounds a day is compared with.

    ``mean_low`` and ``mean_high``: the training mean minus and plus three standard deviations.
    ``filled_low``: the training share of values that are not null, less 0.2.
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
    return found


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
