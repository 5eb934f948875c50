"""Validation between two stages: staged rows in, staged accepted rows out, the rest quarantined.

The suite is named as the layer. Predictions are compared with the published features of the same days
(every entity that has features must be scored exactly once), features with what they were in training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.lake.raw import check_conserved
from nightshift.lake.staging import Staged, read_staged, stage
from nightshift.quality.personal import require_purpose
from nightshift.quality.quarantine import kept, quarantine
from nightshift.quality.reference import compare, recall, unlike
from nightshift.quality.schema import check_schema, feature_columns
from nightshift.quality.validate import by_size, validate
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)


def validate_staged(
    uc: UseCase, staged: Sequence[Staged], *, snapshot_of: Callable[[date], str | None] | None = None
) -> list[Staged]:
    """Judge staged partitions of one layer together, quarantine bad rows, and return what may be published.

    A partition that a run beside this one published from newer raw versions is left out.

    Args:
        uc: The use case.
        staged: Partitions of one layer.
        snapshot_of: Hash of the training snapshot behind the champion of a day. Without it, or before the
            first champion, features are not compared with training.

    Raises:
        DataError: A batch-level rule is broken.
        TransientError: A staged object is gone: the task that staged it has to run again.
    """
    if not staged:
        return []
    layer = staged[0].layer
    items = {item.partition: item for item in staged}
    accepted: dict[date, Staged] = {}
    bad: dict[date, pa.Table] = {}
    for group in by_size({day: item.rows for day, item in items.items()}):
        _judge(uc, [items[day] for day in group], snapshot_of, accepted, bad)
    # What stands from a newer build keeps its quarantine too: of two nights at once, one may be slow.
    outdated = tables.outdated(uc, layer, {item.partition: item.build for item in staged if item.build})
    # Only now that no batch stops: a partition that fails leaves the quarantine of the others as it was.
    aside = kept(uc, layer)
    for day, rows in bad.items():
        if day not in outdated and (rows.num_rows or day in aside):
            quarantine(uc, layer, day, rows)
    return [accepted[item.partition] for item in staged if item.partition not in outdated]


def _judge(
    uc: UseCase,
    staged: Sequence[Staged],
    snapshot_of: Callable[[date], str | None] | None,
    accepted: dict[date, Staged],
    bad: dict[date, pa.Table],
) -> None:
    """Judge some partitions together; add to ``accepted`` what may be published, to ``bad`` what may not."""
    layer = staged[0].layer
    rows = {item.partition: read_staged(item) for item in staged}
    together = pa.concat_tables(rows.values(), promote_options="permissive")
    if layer in ("features", "labels"):
        relation = uc.features.relation if layer == "features" else uc.label.relation
        require_purpose(uc, relation, together.column_names)
    if layer == "features":
        check_schema(
            together,
            feature_columns(uc),
            rule="features.columns",
            place=f"{uc.name}/{layer}, partitions {min(rows)} to {max(rows)}",
            exact=False,
        )
    validated = validate(
        uc,
        layer,
        together,
        partition_column="partition",
        where=layer,
        context={"entities": _entities(uc, sorted(rows))} if layer == "predictions" else {},
        partitions=rows,
    )
    if layer == "features" and snapshot_of is not None:
        _compare_with_training(uc, together, snapshot_of)
    for item in staged:
        day = item.partition
        good = validated.accepted.filter(
            pc.equal(validated.accepted["partition"], pa.scalar(day, pa.date32()))
        )
        bad[day] = validated.quarantined.filter(pc.equal(validated.quarantined["partition"], day.isoformat()))
        where = f"{uc.name}/{layer}, partition {day}"
        check_conserved(item.rows, good.num_rows, bad[day].num_rows, where)
        accepted[day] = (
            stage(uc, layer, day, good, item.key_columns, item.build) if bad[day].num_rows else item
        )


def _entities(uc: UseCase, days: Sequence[date]) -> dict[date, list[str]]:
    """Return the entities that have published features, by day."""
    found: dict[date, list[str]] = {}
    for day in days:
        published = tables.read_partitions(uc, "features", day, day, columns=[uc.entity])
        found[day] = published[uc.entity].to_pylist() if published.num_rows else []
    return found


def _compare_with_training(
    uc: UseCase, features: pa.Table, snapshot_of: Callable[[date], str | None]
) -> None:
    profiles = {}
    for day in features["partition"].unique().to_pylist():
        snapshot = snapshot_of(day)
        if snapshot and (known := recall(uc, snapshot)):
            profiles[day] = known
    if profiles:
        compared = compare(features, profiles)
        validate(
            uc,
            "features_profile",
            compared,
            partition_column="partition",
            where="features/profile",
            partitions=profiles,
        )
        # The rules count features; a person wants to know which.
        for day, named in unlike(compared).items():
            log.warning(
                "%s, features of %s unlike what the champion learnt from: %s", uc.name, day, "; ".join(named)
            )
