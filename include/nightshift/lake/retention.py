"""Deletes what a use case's retention no longer keeps, and what killed writers left behind.

Everything is kept by its own day, and its age is counted from the newest day that data are published for: a
lake that was left alone for years, or that replays the past, is not emptied by its first sweep. Monitoring's
tables do not count. They can hold a day that was mistyped, and no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from nightshift.lake import audit, checkpoints, journal, lineage, raw, staging, tables
from nightshift.usecase import UseCase


def oldest_kept(uc: UseCase, today: date) -> date:
    """Return the first day whose tables are kept as of ``today``."""
    return _now(uc, today) - timedelta(days=uc.retention.table_days)


def sweep(uc: UseCase, today: date, *, by: str = audit.SCHEDULE) -> dict[str, int]:
    """Apply the retention of ``uc`` as of ``today``; a second call deletes nothing.

    The audit log says before it begins which published partitions and how many raw files go, and before which
    days all else does. A sweep that is run again for the same day and the same days kept has its entry.

    Returns:
        Number of things deleted, by kind: raw files, table partitions, table files, objects of journals,
        staged objects, checkpoints of trainings, records of lineage.
    """
    layers = tables.layers(uc)
    now = _now(uc, today)
    oldest = oldest_kept(uc, today)
    expired = [
        (layer, day) for layer in layers for day in tables.partition_versions(uc, layer) if day < oldest
    ]
    raw_from = now - timedelta(days=uc.retention.raw_days)
    kept_from = {"tables": oldest.isoformat(), "raw": raw_from.isoformat()}
    with audit.recorded(
        "remove",
        usecase=uc.name,
        subject=f"what retention keeps no more as of {today}",
        who=by,
        details={
            "kept_from": kept_from,
            "retention": uc.retention.model_dump(mode="json"),
            "partitions": {layer: [f"{day}" for name, day in expired if name == layer] for layer in layers},
            "raw_files": len(raw.expired(uc, raw_from)),
        },
        identity=[kept_from, uc.retention.model_dump(mode="json")],
    ):
        return _sweep(uc, layers, expired, raw_from)


def _sweep(
    uc: UseCase, layers: Sequence[str], expired: Sequence[tuple[str, date]], raw_from: date
) -> dict[str, int]:
    for layer, day in expired:
        tables.delete_partition(uc, layer, day)
    return {
        "raw_files": raw.expire(uc, raw_from) + raw.sweep_orphans(uc),
        "table_partitions": len(expired),
        "table_files": sum(
            tables.vacuum(uc, layer, retention_days=uc.retention.version_days) for layer in layers
        ),
        "journal_objects": _sweep_journals(uc, raw_from),
        "staged_objects": staging.sweep(uc, older_than_days=uc.retention.staging_days),
        "checkpoints": checkpoints.sweep(uc, older_than_days=uc.retention.staging_days),
        "lineage_records": lineage.sweep(
            uc,
            {
                layer: [
                    (day, version.content_hash)
                    for day, version in tables.partition_versions(uc, layer).items()
                ]
                for layer in layers
            },
            # As long as a partition can be rolled back to the content they speak of.
            keep_days=uc.retention.table_days,
        ),
    }


def _sweep_journals(uc: UseCase, raw_from: date) -> int:
    """Keep what was captured of a day for as long as the raw partition that is made of it."""
    swept = 0
    for source, table, declared in uc.tables():
        if source in uc.captured_sources:
            before = raw_from + timedelta(days=uc.retention.raw_days - uc.raw_days(declared))
            swept += journal.expire(uc, source, table, before)
            swept += journal.sweep(uc, source, table, older_than_days=uc.retention.staging_days)
    return swept


def _now(uc: UseCase, today: date) -> date:
    """Return the day that ages are counted from; with nothing published, nothing has an age."""
    published = (tables.partition_versions(uc, layer) for layer in ("features", "predictions"))
    return min(today, max((day for days in published for day in days), default=uc.history_start))
