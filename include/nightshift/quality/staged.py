"""Validation between two stages: staged rows in, staged accepted rows out, the rest quarantined.

The suite is named as the layer. Predictions are compared with the published features of the same days:
every entity that has features must be scored exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.lake.staging import Staged, read_staged, stage
from nightshift.quality.quarantine import quarantine
from nightshift.quality.reference import Profile, recall
from nightshift.quality.validate import check_conserved, validate
from nightshift.usecase import UseCase


def validate_staged(
    uc: UseCase, staged: Sequence[Staged], *, snapshot_of: Callable[[date], str | None] | None = None
) -> list[Staged]:
    """Judge staged partitions of one layer together, quarantine bad rows, and return what may be published.

    Args:
        uc: The use case.
        staged: Partitions of one layer.
        snapshot_of: Hash of the training snapshot behind the champion of a day, for the rules that compare
            with training; without it, or before the first champion, those rules are not judged.

    Raises:
        DataError: A batch-level rule is broken.
        TransientError: A staged object is gone: the task that staged it has to run again.
    """
    if not staged:
        return []
    layer = staged[0].layer
    rows = {item.partition: read_staged(item) for item in staged}
    validated = validate(
        uc,
        layer,
        pa.concat_tables(rows.values(), promote_options="permissive"),
        partition_column="partition",
        where=layer,
        context=_context(uc, layer, sorted(rows), snapshot_of),
        partitions=rows,
    )
    accepted = []
    for item in staged:
        day = pa.scalar(item.partition, pa.date32())
        good = validated.accepted.filter(pc.equal(validated.accepted["partition"], day))
        bad = validated.quarantined.filter(
            pc.equal(validated.quarantined["partition"], item.partition.isoformat())
        )
        check_conserved(
            item.rows, good.num_rows, bad.num_rows, f"{uc.name}/{layer}, partition {item.partition}"
        )
        quarantine(uc, layer, item.partition, bad)
        accepted.append(stage(uc, layer, item.partition, good, item.key_columns) if bad.num_rows else item)
    return accepted


def _context(
    uc: UseCase, layer: str, days: Sequence[date], snapshot_of: Callable[[date], str | None] | None
) -> dict[str, Any]:
    context: dict[str, Any] = {}
    if layer == "predictions":
        published = tables.read_partitions(
            uc, "features", days[0], days[-1], columns=[uc.entity, "partition"]
        )
        entities: dict[date, list[str]] = {day: [] for day in days}
        if published.num_rows:
            for entity, day in zip(
                published[uc.entity].to_pylist(), published["partition"].to_pylist(), strict=True
            ):
                entities.setdefault(day, []).append(entity)
        context["entities"] = entities
    if snapshot_of is not None:
        context["reference"] = _by_day({day: _profile(uc, snapshot_of(day)) for day in days})
    return context


def _profile(uc: UseCase, snapshot_hash: str | None) -> Profile:
    return (recall(uc, snapshot_hash) if snapshot_hash else None) or {}


def _by_day(profiles: dict[date, Profile]) -> dict[str, dict[str, dict[date, float]]]:
    """Return column -> number -> day -> value, the way a suite's parameter walks into it."""
    turned: dict[str, dict[str, dict[date, float]]] = {}
    for day, profile in profiles.items():
        for column, numbers in profile.items():
            for name, value in numbers.items():
                turned.setdefault(column, {}).setdefault(name, {})[day] = value
    return turned
