"""Quarantined rows again: after a rule or a row was mended, judge a partition anew, without its source."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date

from nightshift.ingestion.fixes import as_table, in_quarantine
from nightshift.ingestion.land import Judged, judge, land_judged
from nightshift.ingestion.suites import suite_of
from nightshift.lake import audit, raw
from nightshift.lake.hashing import content_hash
from nightshift.lake.raw import RawManifest
from nightshift.quality.quarantine import rows_hash
from nightshift.sources.base import Extract
from nightshift.usecase import UseCase


def replay(uc: UseCase, source: str, table: str, partition: date, *, by: str = "operator") -> dict[str, int]:
    """Judge the current version of a partition by today's rules, quarantined rows as fixed, and land it.

    The new version is as of the same moment as the one it replaces. Where rules and fixes say what they said
    before, nothing changes. Of a slow table, the snapshot in force on ``partition`` is judged.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        partition: The day.
        by: Who asks, for the audit log.

    Returns:
        Rows that were quarantined before (``replayed``), and rows ``accepted`` and ``quarantined`` now; all
        zero where nothing was landed.

    Raises:
        DataError: The partition breaks a batch-level rule of today.
        TransientError: The quarantine is not that of the current version: a landing is under way, or was
            killed and did not run again.
    """
    slow = uc.sources[source].tables[table].refresh == "slow"
    snapshot = raw.newest_snapshot(uc, source, table, partition) if slow else None
    day = snapshot.partition if snapshot else partition
    version = in_quarantine(uc, source, table, day)
    if version is None:
        return {"replayed": 0, "accepted": 0, "quarantined": 0}
    again = as_table(uc, source, table, day, [*version.accepted, *version.rows])
    judged = judge(uc, source, table, {day: Extract(again, version.manifest.query)})
    counts = {
        "replayed": len(version.rows),
        "accepted": judged[day].accepted.num_rows,
        "quarantined": judged[day].quarantined.num_rows,
    }
    with (
        audit.recorded(
            "replay",
            usecase=uc.name,
            subject=f"{suite_of(table)} {day}",
            who=by,
            details={**counts, "from_version": version.manifest.version},
            identity=[version.manifest.version, counts],
        )
        if _changes(judged[day], version.manifest)
        else nullcontext()
    ):
        land_judged(uc, source, table, judged, {day: version.manifest.as_of}, quarantine_last=True)
    return counts


def _changes(judged: Judged, landed: RawManifest) -> bool:
    """Return whether what is about to be landed is other than what lies there."""
    return (
        content_hash(judged.accepted, landed.key_columns, exact=True) != landed.content_hash
        or rows_hash(judged.quarantined) != landed.quarantine_hash
        or dict(judged.fixed) != dict(landed.fixed)
    )
