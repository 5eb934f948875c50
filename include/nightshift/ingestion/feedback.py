"""From landed feedback to labels: what users said of an entity is recorded, as what people import is.

What counts is what was landed, without what is in quarantine and with what was fixed. A label is known from
the first night that may know it, and never by a night that the lake has features of already. One about an
entity that was not predicted waits: each night looks at what was landed in the days before it, too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from nightshift.lake import journal, raw, tables
from nightshift.sources.feedback import Feedback, FeedbackTable
from nightshift.training.feedback import Said, first_night, record_said
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """What became of landed labels: recorded now, waiting for a prediction, neither 0 nor 1."""

    recorded: int
    waiting: int
    odd: int


def record_feedback(uc: UseCase, source: str, table: str, landed: Collection[date]) -> Heard | None:
    """Record the labels of landed feedback, and those that waited; None if the table has no labels.

    The last label of an entity counts, by the moment at which it was said. Calling again changes nothing.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        landed: The partitions that were landed. Those of ``labelling.horizon_days`` before them are looked
            at, too.

    Raises:
        DataError: An object of the lake is damaged.
        TransientError: The lake cannot be reached.
    """
    if uc.sources[source].kind != "feedback" or not landed:
        return None
    chosen = Feedback(uc, source).feedback(table)
    if chosen.label is None:
        return None
    first = min(landed) - timedelta(days=uc.labelling.horizon_days)
    # No earlier result may change.
    next_night = max(tables.partition_versions(uc, "features"), default=date.min) + timedelta(days=1)
    found = [
        one
        for manifest in raw.current_many(uc, source, table, first, max(landed)).values()
        for one in _of_partition(uc, manifest, chosen, next_night)
    ]
    said, odd = _last_words(found)
    name = f"{source}.{table}"
    recorded, waiting = record_said(uc, name, said, at=datetime.now(UTC))
    if odd:
        log.warning("%s: %d rows of %s have a label that is neither 0 nor 1", uc.name, odd, name)
    return Heard(recorded, waiting, odd)


@dataclass(frozen=True)
class _Row:
    """A landed row with a label, and where it stands in the order of the journal."""

    entity: str
    label: Any
    at: datetime
    place: int
    by: str | None
    known_from: date


def _of_partition(
    uc: UseCase, manifest: raw.RawManifest, chosen: FeedbackTable, next_night: date
) -> list[_Row]:
    """Return the rows of a partition that have an entity and a label."""
    label, declared = str(chosen.label), uc.sources[manifest.source].tables[manifest.table]
    rows = [
        row for row in raw.read(manifest).to_pylist() if row[uc.entity] is not None and row[label] is not None
    ]
    if not rows:
        return []
    identity = [*declared.key, chosen.time, label]
    changes, _ = journal.changes_of(uc, manifest.source, manifest.table, manifest.partition)
    said: dict[tuple[Any, ...], list[tuple[int, datetime]]] = {}
    for place, change in enumerate(changes.select([*identity, journal.KNOWN_AT]).to_pylist()):
        said.setdefault(tuple(change[name] for name in identity), []).append(
            (place, change[journal.KNOWN_AT])
        )
    # The night of a partition's day reads it first.
    first_read = max(next_night, manifest.partition + timedelta(days=declared.lag_days))
    found = []
    for row in rows:
        # What a person fixed may not have come so.
        came = said.get(tuple(row[name] for name in identity), [(-1, manifest.as_of)])
        found.append(
            _Row(
                entity=row[uc.entity],
                label=row[label],
                at=row[chosen.time] or came[-1][1],
                place=came[-1][0],
                by=row[chosen.by] if chosen.by else None,
                known_from=max(first_read, first_night(uc, min(moment for _, moment in came))),
            )
        )
    return found


def _last_words(rows: list[_Row]) -> tuple[list[Said], int]:
    """Return the last label of each entity, and how many rows have one that is neither 0 nor 1."""
    labels = [row for row in rows if row.label in (0, 1)]
    last: dict[str, _Row] = {}
    for row in sorted(labels, key=lambda row: (row.at, row.place)):
        last[row.entity] = row
    said = [Said(one.entity, int(one.label), one.at, one.by, one.known_from) for one in last.values()]
    return said, len(rows) - len(labels)
