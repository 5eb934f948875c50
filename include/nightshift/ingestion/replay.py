"""Quarantined rows again: after a rule was mended, judge a partition anew without asking the source."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa

from nightshift.ingestion.land import judge, land_judged, suite_of
from nightshift.lake import raw
from nightshift.quality.quarantine import read_quarantine
from nightshift.sources.base import Extract
from nightshift.sources.contract import arrow_schema
from nightshift.usecase import UseCase


def replay(uc: UseCase, source: str, table: str, partition: date) -> dict[str, int]:
    """Judge the current version of a partition by today's rules, quarantined rows included, and land it.

    The new version is as of the same moment as the one it replaces. Where the rules say what they said
    before, nothing changes. Of a slow table, the snapshot in force on ``partition`` is judged.

    Returns:
        Rows that were quarantined before (``replayed``), and rows ``accepted`` and ``quarantined`` now; all
        zero where nothing was landed.

    Raises:
        DataError: The partition breaks a batch-level rule of today.
    """
    slow = uc.sources[source].tables[table].refresh == "slow"
    find = raw.newest_snapshot if slow else raw.current
    manifest = find(uc, source, table, partition)
    if manifest is None:
        return {"replayed": 0, "accepted": 0, "quarantined": 0}
    day = manifest.partition
    schema = arrow_schema(uc.sources[source].tables[table])
    kept = read_quarantine(uc, suite_of(table), day, day)
    rows = [json.loads(row) for row in kept["row"].to_pylist()] if kept.num_rows else []
    again = pa.concat_tables([raw.read(manifest), _as_table(rows, schema)], promote_options="default")
    judged = judge(uc, source, table, {day: Extract(again, manifest.query)})
    land_judged(uc, source, table, judged, {day: manifest.as_of})
    return {
        "replayed": len(rows),
        "accepted": judged[day].accepted.num_rows,
        "quarantined": judged[day].quarantined.num_rows,
    }


def _as_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows kept as JSON in the catalogue's types; times and infinities were text in it."""
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_temporal(field.type):
            columns.append(pa.array(values, pa.string()).cast(field.type))
        elif pa.types.is_floating(field.type):
            columns.append(
                pa.array([None if value is None else float(value) for value in values], field.type)
            )
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)
