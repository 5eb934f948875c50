"""Labels that people gave, recorded once and in order, each known from a night on.

The record is an append-only log of imports: who, when, which labels, and the first night that knows them. A
person imports a file; a source of feedback is imported by the night that lands it.
The Delta table ``feedback``, a partition a day of the entities, is made from the log and can be made again at
any time, of the days that retention keeps: what it removed stays removed. An import is one record, so all of
it counts or nothing. A correction is a row with the next version; what was said before stays. A night sees
what was known by it and nothing later, however late it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import append_log, audit, tables
from nightshift.lake.canonical import arrow_schema
from nightshift.lake.hashing import content_hash
from nightshift.lake.retention import oldest_kept
from nightshift.usecase import UseCase

LAYER = "feedback"
LABEL_AVAILABLE_ON = "label_available_on"

# So many contradictions are named; whoever has more of them has one cause.
_NAMED = 5


@dataclass(frozen=True)
class Label:
    """One label that a person gave: of which entity, of which day, 0 or 1, and where it was written."""

    entity: str
    day: date
    value: int
    where: str


@dataclass(frozen=True)
class Said:
    """One label as a source has it.

    Attributes:
        entity: Of which entity.
        value: 0 or 1.
        at: When it was said (aware).
        by: Who said so; None: the source does not tell.
        known_from: The first night that may know it.
    """

    entity: str
    value: int
    at: datetime
    by: str | None
    known_from: date


class _Said(BaseModel):
    """``by`` and ``at`` are of labels that a source has; else they are those of the import."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entity: str
    day: date
    value: int
    by: str | None = None
    at: AwareDatetime | None = None


class _Import(BaseModel):
    """One record of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    at: AwareDatetime
    known_from: date
    labels: tuple[_Said, ...]


def first_night(uc: UseCase, moment: datetime) -> date:
    """Return the first night that runs after ``moment`` (aware), and so may know what was said then."""
    day = moment.astimezone(uc.zone).date()
    return day if uc.as_of(day) > moment else day + timedelta(days=1)


def record(
    uc: UseCase, labels: Sequence[Label], *, by: str, at: datetime, known_from: date, correct: bool = False
) -> int:
    """Record what a person said; what has been said already is not recorded again.

    Args:
        uc: The use case.
        labels: Each entity once.
        by: Who says so.
        at: When (aware).
        known_from: The first night that knows it.
        correct: Whether a label may take the place of another one that was given before.

    Returns:
        How many labels were recorded; 0 leaves the log as it was.

    Raises:
        DataError: An entity was labelled differently before. Then nothing is recorded.
    """
    while True:
        said = _imports(uc)
        before = {label.entity: (label.value, entry) for entry in said for label in entry.labels}
        if not correct:
            _refuse_contradictions(uc, labels, before)
        new = [
            label for label in labels if label.entity not in before or before[label.entity][0] != label.value
        ]
        if not new:
            break
        entry = _Import(
            by=by,
            at=at,
            # A correction is never known before what it corrects: the highest version counts.
            known_from=max(
                [known_from, *(before[one.entity][1].known_from for one in new if one.entity in before)]
            ),
            labels=tuple(_Said(entity=one.entity, day=one.day, value=one.value) for one in new),
        )
        audit.record(
            "label",
            usecase=uc.name,
            subject=f"{len(new)} labels",
            who=by,
            details={"known_from": entry.known_from.isoformat(), "correct": correct},
            identity=[len(said), [(one.entity, one.value) for one in new]],
        )
        # Somebody else's import in between may contradict this one: then all is looked at again.
        if append_log.append_next(_log(uc), len(said), _record(entry)):
            break
    publish(uc, (label.day for label in labels))
    return len(new)


def record_said(uc: UseCase, source: str, said: Sequence[Said], *, at: datetime) -> tuple[int, int]:
    """Record labels of a source; the last one by the moment at which it was said counts.

    Of one moment, what the source says now takes the place of what it said before. An import by a person
    counts as said when it was imported. Recording again changes nothing.

    Args:
        uc: The use case.
        source: What the labels are of, such as ``source.table``: it is recorded as who imported them.
        said: Each entity once.
        at: Now (aware).

    Returns:
        How many labels were recorded, and how many wait because their entities were never predicted.
    """
    recorded = 0
    days: dict[str, date] | None = None
    while True:
        imports = _imports(uc)
        before = {label.entity: (label, entry) for entry in imports for label in entry.labels}
        later = [one for one in said if _is_later(one, source, before.get(one.entity))]
        if days is None:
            days = predicted_on(uc, [one.entity for one in later])
        new = [one for one in later if one.entity in days]
        if not new:
            break
        # A correction is never known before what it corrects: the highest version counts.
        nights = {
            one.entity: max(one.known_from, before[one.entity][1].known_from)
            if one.entity in before
            else one.known_from
            for one in new
        }
        night = min(nights.values())
        labels = tuple(
            _Said(entity=one.entity, day=days[one.entity], value=one.value, by=one.by, at=one.at)
            for one in new
            if nights[one.entity] == night
        )
        entry = _Import(by=source, at=at, known_from=night, labels=labels)
        if append_log.append_next(_log(uc), len(imports), _record(entry)):
            recorded += len(labels)
    # Also of what was recorded before: by whoever was killed then, it was not published.
    publish(uc, [before[one.entity][0].day for one in said if one.entity in before])
    return recorded, len(later)


def predicted_on(uc: UseCase, entities: Sequence[str]) -> dict[str, date]:
    """Return of each entity the newest day of its predictions; without those that were never predicted."""
    nights = set(tables.partition_versions(uc, "predictions"))
    return {
        row[uc.entity]: row["partition"]
        for table in tables.newest_rows(uc, "predictions", nights, uc.entity, entities)
        for row in table.select([uc.entity, "partition"]).to_pylist()
    }


def labelled(uc: UseCase) -> dict[str, int]:
    """Return the label that counts now of each entity that a person labelled, whatever night knows it."""
    return {label.entity: label.value for entry in _imports(uc) for label in entry.labels}


def publish(uc: UseCase, days: Iterable[date]) -> None:
    """Bring the partitions of ``days`` in the lake in line with the log; a killed import is made good so.

    Days that retention keeps no more stay away.
    """
    oldest = oldest_kept(uc, date.today())
    wanted = {day for day in days if day >= oldest}
    while True:
        said = _imports(uc)
        by_day: dict[date, list[dict[str, Any]]] = {}
        versions: dict[str, int] = {}
        for entry in said:
            for label in entry.labels:
                versions[label.entity] = versions.get(label.entity, 0) + 1
                if label.day in wanted:
                    by_day.setdefault(label.day, []).append(
                        {
                            uc.entity: label.entity,
                            "version": versions[label.entity],
                            uc.label.column: label.value,
                            LABEL_AVAILABLE_ON: entry.known_from,
                            "labelled_by": label.by or entry.by,
                            "imported_at": entry.at,
                        }
                    )
        if by_day:
            schema = arrow_schema(uc.feedback_table)
            contents = {day: pa.Table.from_pylist(rows, schema=schema) for day, rows in by_day.items()}
            tables.replace_partitions(uc, LAYER, contents, uc.feedback_table.key)
        # Who imports at the same moment may have published first, and what stands now lacks it.
        if len(_imports(uc)) == len(said):
            return


def known(uc: UseCase, night: date, start: date, end: date) -> pa.Table:
    """Return what people had said by ``night`` about entities of ``start`` to ``end``: entity and label.

    Of a label that was corrected, the newest version that the night knew. No rows where nobody said anything,
    and none of days that retention keeps no more.
    """
    start = max(start, oldest_kept(uc, date.today()))
    days = {label.day for entry in _imports(uc) for label in entry.labels if start <= label.day <= end}
    columns = [uc.entity, uc.label.column]
    if not days:
        return arrow_schema(uc.feedback_table).empty_table().select(columns)
    publish(uc, days)
    rows = tables.read_partitions(uc, LAYER, start, end)
    rows = rows.filter(pc.less_equal(rows[LABEL_AVAILABLE_ON], pa.scalar(night, pa.date32())))
    newest = rows.group_by(uc.entity).aggregate([("version", "max")])
    rows = rows.join(
        newest, keys=[uc.entity, "version"], right_keys=[uc.entity, "version_max"], join_type="left semi"
    )
    return rows.select(columns).sort_by(uc.entity)


def version(uc: UseCase, said: pa.Table) -> str | None:
    """Return the content hash of what ``known`` gave; None when people had said nothing."""
    return content_hash(said, [uc.entity]) if said.num_rows else None


def undefined(uc: UseCase, labels: pa.Table, night: date) -> pa.Array:
    """Return the entities of which the pipeline had said by ``night`` that they have no outcome.

    None where the use case takes a label without a value for one that nobody has told yet.
    """
    if uc.labelling.null_label == "unknown":
        return pa.array([], pa.string())
    since = pc.cast(labels[LABEL_AVAILABLE_ON], pa.date32())
    by_night = pc.fill_null(pc.less_equal(since, pa.scalar(night, pa.date32())), True)
    said = pc.and_(pc.is_null(labels[uc.label.column]), by_night)
    return labels.filter(said)[uc.entity].combine_chunks()


def fill(uc: UseCase, known: pa.Table, labels: pa.Table, said: pa.Table, night: date) -> pa.Table:
    """Return the labels that the pipeline knew by ``night``, and those of people for what it lacks.

    The pipeline's label wins, and so does its word that an entity has no outcome.

    Args:
        uc: The use case.
        known: Rows of ``labels`` that the night knew.
        labels: The pipeline's labels, whatever night knows them.
        said: What ``known`` gave.
        night: The night.
    """
    taken = pa.chunked_array([known[uc.entity].combine_chunks(), undefined(uc, labels, night)])
    more = said.filter(pc.invert(pc.is_in(said[uc.entity], value_set=taken.combine_chunks())))
    columns = [uc.entity, uc.label.column]
    known = known.select(columns)
    return pa.concat_tables([known, more.select(columns).cast(known.schema)])


def _refuse_contradictions(
    uc: UseCase, labels: Sequence[Label], before: dict[str, tuple[int, _Import]]
) -> None:
    found = [
        f"{label.where}: {label.entity} was labelled {before[label.entity][0]} by "
        f"{before[label.entity][1].by} at {before[label.entity][1].at:%Y-%m-%d %H:%M} UTC, now {label.value}"
        for label in labels
        if label.entity in before and before[label.entity][0] != label.value
    ]
    if found:
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise DataError(
            "; ".join(found[:_NAMED]) + more,
            rule="an entity keeps the label that it was given",
            where=f"{uc.name}, {LAYER}",
            cure="talk to who gave the other label; take the rows out of the file, or, if they are "
            "corrections, import it with --correct. Nothing was imported",
        )


def _is_later(said: Said, source: str, before: tuple[_Said, _Import] | None) -> bool:
    if before is None:
        return True
    label, entry = before
    moment = label.at or entry.at
    again = said.at == moment and entry.by == source and label.value != said.value
    return said.at > moment or again


def _record(entry: _Import) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude_none=True)


def _imports(uc: UseCase) -> list[_Import]:
    return [_Import.model_validate(entry) for entry in append_log.read_log(_log(uc))]


def _log(uc: UseCase) -> str:
    return f"feedback/{uc.name}"
