"""Quarantined rows again: after a rule or a row was mended, judge a partition anew, without its source."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from nightshift.errors import TransientError
from nightshift.ingestion.fixes import as_table, quarantined_rows
from nightshift.ingestion.land import judge, land_judged
from nightshift.ingestion.suites import suite_of
from nightshift.lake import raw
from nightshift.lake.raw import RawManifest
from nightshift.sources.base import Extract
from nightshift.usecase import UseCase


def replay(uc: UseCase, source: str, table: str, partition: date) -> dict[str, int]:
    """Judge the current version of a partition by today's rules, quarantined rows as fixed, and land it.

    The new version is as of the same moment as the one it replaces. Where rules and fixes say what they said
    before, nothing changes. Of a slow table, the snapshot in force on ``partition`` is judged.

    Returns:
        Rows that were quarantined before (``replayed``), and rows ``accepted`` and ``quarantined`` now; all
        zero where nothing was landed.

    Raises:
        DataError: The partition breaks a batch-level rule of today.
        TransientError: The quarantine is not that of the current version: a landing is under way, or was
            killed and did not run again.
    """
    slow = uc.sources[source].tables[table].refresh == "slow"
    find = raw.newest_snapshot if slow else raw.current
    manifest = find(uc, source, table, partition)
    if manifest is None:
        return {"replayed": 0, "accepted": 0, "quarantined": 0}
    day = manifest.partition
    rows = quarantined_rows(uc, suite_of(table), day)
    base = _version_of(uc, manifest, len(rows))
    again = pa.concat_tables(
        [raw.read(base), as_table(uc, source, table, day, rows)], promote_options="default"
    )
    judged = judge(uc, source, table, {day: Extract(again, base.query)})
    land_judged(uc, source, table, judged, {day: manifest.as_of}, quarantine_last=True)
    return {
        "replayed": len(rows),
        "accepted": judged[day].accepted.num_rows,
        "quarantined": judged[day].quarantined.num_rows,
    }


def _version_of(uc: UseCase, current: RawManifest, quarantined: int) -> RawManifest:
    """Return the version whose quarantine is kept: the current one, or the one before a killed replay.

    Such a replay has landed rows as a new version, and did not come to take them out of the quarantine.
    """
    for manifest in reversed(raw.versions(uc, current.source, current.table, current.partition)):
        if manifest.as_of == current.as_of and manifest.rows_quarantined == quarantined:
            return manifest
    raise TransientError(
        f"{uc.name}, {current.source}.{current.table}, partition {current.partition}: {quarantined} rows are "
        f"in quarantine, but version {current.version} put {current.rows_quarantined} aside. A landing was "
        "killed or is not finished: ingest the partition again, then replay it"
    )
