"""What a source has sent, change by change: the memory of connectors whose upstream forgets.

A journal belongs to one source table and only grows. It is written in batches, numbered from 1 without gaps;
each says how far upstream was read, so that whoever reads on begins there. A batch is one object for each day
that its changes belong to, and one record in a log, written last and only right after the record before. Of
two processes that read the same stretch of upstream one is recorded, and nobody reads the other's objects: a
change is there once, whoever was killed when.

What a table looked like follows from its changes: of each key the last one that was known by a moment. Rows
that come and go together, as those of a file do, are of one unit instead: what a batch says of a unit takes
the place of all that was said of it before.

Beside it stands which night read it last. What comes later was not to be seen by that night, whatever
upstream says of when it came about, and is not known to it: a night that is run again finds what it found the
first time.

What retention removes, it removes day by day. What is said later of such a day is not taken up any more, and
who asks for it is told so: half of its changes would give rows that never were.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.lake import append_log
from nightshift.lake.canonical import arrow_schema
from nightshift.lake.encryption import NoKeyError
from nightshift.lake.hashing import content_hash
from nightshift.lake.objects import object_key, read_object, write_object
from nightshift.lake.protection import protect
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.usecase import UseCase

# No column of a catalogue has a colon.
KIND, KNOWN_AT, DAY, UNIT = "change:kind", "change:known_at", "change:day", "change:unit"
_ORDER, _BATCH = "change:order", "change:batch"
MOMENT = pa.timestamp("us", tz="UTC")
_FIELDS = [
    pa.field(KIND, pa.string()),
    pa.field(KNOWN_AT, MOMENT),
    pa.field(DAY, pa.date32()),
    pa.field(UNIT, pa.string()),
]

UPSERT: Literal["upsert"] = "upsert"
"""The row is there, and as it is said here."""
DELETE: Literal["delete"] = "delete"
"""The row of this key is there no more; its other columns may be null."""

_NO_DAY = "none"
_NIGHT = "%Y%m%dT%H%M%S.%fZ"
_EVER = datetime.max.replace(tzinfo=UTC)


class Batch(BaseModel):
    """What one process found upstream at once. JSON-able.

    Attributes:
        number: Its place in the journal, from 1 on.
        position: How far upstream had been read by then, in the connector's own words.
        captured_at: When it was read.
        query: What was asked, for people.
        rows: How many changes.
        contents: Content hashes of the changes by the day they belong to; ``none`` for those of no day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    position: str
    captured_at: AwareDatetime
    query: str
    rows: int
    contents: dict[str, str]


def schema(uc: UseCase, source: str, table: str) -> pa.Schema:
    """Return the columns of changes: the catalogue's, and ``KIND``, ``KNOWN_AT``, ``DAY`` and ``UNIT``."""
    return pa.schema([*arrow_schema(uc.sources[source].tables[table]), *_FIELDS])


def last(uc: UseCase, source: str, table: str) -> Batch | None:
    """Return the batch that was written last; None when the journal has not begun."""
    log = _log(uc, source, table)
    newest = append_log.length(log)
    return Batch.model_validate(append_log.read_numbers(log, [newest])[0]) if newest else None


def batches(uc: UseCase, source: str, table: str) -> list[Batch]:
    """Return every batch, oldest first."""
    return [Batch.model_validate(record) for record in append_log.read_log(_log(uc, source, table))]


def append(
    uc: UseCase, source: str, table: str, after: int, changes: pa.Table, *, position: str, query: str
) -> Batch | None:
    """Write the changes that follow batch ``after`` (0: the first ones) as the next batch.

    One that upstream dates before the last night (``note_night``) counts as known just after it.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        after: Number of the batch that ended where these changes begin.
        changes: The changes in their order, with the columns of ``schema``.
        position: How far upstream is read with them.
        query: What was asked, for people.

    Returns:
        The batch; None when another process has read on from there first, and nothing of this one counts.

    Raises:
        DataError: The changes have other columns.
    """
    if changes.schema != (wanted := schema(uc, source, table)):
        raise DataError(
            f"the changes have the columns {', '.join(changes.schema.names)}",
            rule=f"changes have the columns {', '.join(wanted.names)}, in the catalogue's types",
            where=f"{uc.name}/{source}/{table}, batch {after + 1}",
            cure="have the connector check them with sources.contract.check_columns",
        )
    number = after + 1
    if (oldest := kept_from(uc, source, table)) is not None:
        changes = changes.filter(pc.fill_null(pc.greater_equal(changes[DAY], pa.scalar(oldest)), True))
    if (night := last_night(uc, source, table)) is not None:
        known_at, then = changes[KNOWN_AT], pa.scalar(night, MOMENT)
        next_to_it = pa.scalar(night + timedelta(microseconds=1), MOMENT)
        known_at = pc.if_else(pc.less_equal(known_at, then), next_to_it, known_at)
        changes = changes.set_column(changes.schema.get_field_index(KNOWN_AT), KNOWN_AT, known_at)
    declared = uc.sources[source].tables[table].columns
    encrypted = [name for name, column in declared.items() if column.encrypt]
    ordered = changes.append_column(_ORDER, pa.array(range(changes.num_rows), pa.int64()))
    contents = {}
    for day in sorted(pc.unique(ordered[DAY]).to_pylist(), key=str):
        condition = pc.is_null(ordered[DAY]) if day is None else pc.equal(ordered[DAY], pa.scalar(day))
        part = ordered.filter(condition)
        digest = content_hash(part, [_ORDER], exact=True)
        write_object(_folder(uc, source, table, day), part, f"{number:09d}-{digest}", encrypted)
        contents[_name(day)] = digest
    batch = Batch(
        number=number,
        position=position,
        captured_at=datetime.now(UTC),
        query=query,
        rows=changes.num_rows,
        contents=contents,
    )
    record = batch.model_dump(mode="json")
    return batch if append_log.append_next(_log(uc, source, table), after, record) else None


def note_night(uc: UseCase, source: str, table: str, as_of: datetime) -> None:
    """Record that the night of ``as_of`` (aware) is about to read all that upstream has shown by now."""
    store = open_store()
    store.put(f"{_nights(uc, source, table)}{as_of.astimezone(UTC).strftime(_NIGHT)}", b"")
    # Of several that come here at once the latest counts, in whatever order they do.
    for older in sorted(store.list(_nights(uc, source, table)))[:-1]:
        store.delete(older)


def last_night(uc: UseCase, source: str, table: str) -> datetime | None:
    """Return the latest moment that ``note_night`` was given; None when it was given none."""
    if noted := open_store().list(_nights(uc, source, table)):
        return datetime.strptime(max(noted).rpartition("/")[2], _NIGHT).replace(tzinfo=UTC)
    return None


def changes_of(uc: UseCase, source: str, table: str, day: date | None) -> tuple[pa.Table, list[Batch]]:
    """Return the changes that belong to a day (None: to no day), in their order, and the batches they are of.

    The number of its batch is beside each change. Costs what belongs to that day, whatever the journal has.
    Columns that the catalogue has gained since are null, those that it has lost are left out.

    Raises:
        DataError: An object was changed or damaged, a column is of another type than it was, retention has
            removed what was captured of the day, or there is no key to protect what was captured before it
            was to be protected.
    """
    oldest = kept_from(uc, source, table)
    if day is not None and oldest is not None and day < oldest:
        raise DataError(
            f"what was captured of {day} has been removed",
            rule=f"retention: the journal is kept from {oldest} on",
            where=f"{uc.name}/{source}/{table}, day {day}",
            cure=f"ask for {oldest} or later; retention.raw_days in usecase.yml says how long it is kept",
        )
    log = _log(uc, source, table)
    folder = _folder(uc, source, table, day)
    written = {_parsed(key)[1] for key in open_store().list(f"{folder}/")}
    newest = append_log.length(log) if written else 0
    numbers = sorted(number for number in written if number <= newest)
    records = append_log.read_numbers(log, numbers)
    # A batch that was overtaken left objects, too: its number is another's.
    found = [batch for batch in map(Batch.model_validate, records) if _name(day) in batch.contents]
    wanted = schema(uc, source, table)
    parts = [wanted.empty_table().append_column(_BATCH, pa.array([], pa.int64()))]
    for batch in found:
        digest = batch.contents[_name(day)]
        where = f"{uc.name}/{source}/{table}, day {_name(day)}, batch {batch.number}"
        key = object_key(folder, f"{batch.number:09d}-{digest}")
        try:
            part = read_object(key, digest, [_ORDER], exact=True)
        except NoKeyError:
            raise
        except (NoSuchObjectError, DataError) as error:
            raise DataError(
                f"an object of the journal is damaged or gone: {getattr(error, 'message', error)}",
                rule="what was captured is kept as it was",
                where=where,
                cure="bring the object back from a backup of the lake",
            ) from error
        numbers_of = pa.array([batch.number] * part.num_rows, pa.int64())
        parts.append(_as_declared(part.sort_by(_ORDER), wanted, where).append_column(_BATCH, numbers_of))
    # What was captured before the catalogue wanted a column protected.
    return protect(uc, source, table, pa.concat_tables(parts)), found


def _as_declared(part: pa.Table, wanted: pa.Schema, where: str) -> pa.Table:
    columns = []
    for field in wanted:
        if field.name not in part.column_names:
            columns.append(pa.nulls(part.num_rows, field.type))
            continue
        column = part[field.name]
        if column.type != field.type and column.null_count < len(column):
            raise DataError(
                f"column {field.name!r} was captured as {column.type}, the catalogue has {field.type}",
                rule="a column that was captured keeps its type",
                where=where,
                cure="give the column its type back in sources.yml, and declare a new column for the new one",
            )
        empty = column.null_count == len(column)
        columns.append(pa.nulls(len(column), field.type) if empty else column)
    return pa.table(columns, schema=wanted)


def kept_from(uc: UseCase, source: str, table: str) -> date | None:
    """Return the first day that retention has left; None when it has removed none."""
    try:
        return date.fromisoformat(open_store().get(_floor(uc, source, table)).decode())
    except NoSuchObjectError:
        return None


def expire(uc: UseCase, source: str, table: str, before: date) -> int:
    """Remove what was captured of days before ``before``; return how many objects.

    What belongs to no day, as the changes of a slow table, stays.
    """
    old = [day for day in _folders(uc, source, table) if day is not None and day < before]
    if not old:
        return 0
    store = open_store()
    # First this, for who is killed in between must not leave half a day to be read.
    oldest = max(before, kept_from(uc, source, table) or before)
    store.put(_floor(uc, source, table), oldest.isoformat().encode())
    gone = [key for day in old for key in store.list(f"{_folder(uc, source, table, day)}/")]
    for key in gone:
        store.delete(key)
    return len(gone)


def sweep(uc: UseCase, source: str, table: str, older_than_days: int) -> int:
    """Remove what no batch names: of processes that were killed or overtaken. Return how many objects.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        older_than_days: What is younger may just be read.
    """
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    written = batches(uc, source, table)
    if not written:
        return 0
    named = {
        f"{day}/{batch.number:09d}-{digest}" for batch in written for day, digest in batch.contents.items()
    }
    unwanted = []
    for key, changed in store.modified(f"journal/{uc.name}/{source}/{table}/").items():
        day, number, name = _parsed(key)
        # Whoever writes the next batch may find there what another one has left of it.
        if changed < limit and number <= written[-1].number and f"{day}/{name}" not in named:
            unwanted.append(key)
    for key, changed in store.modified(memory_folder(uc, source, table)).items():
        # What connectors keep beside, the last batch's position names.
        number = int(key.rpartition("/")[2].partition("-")[0])
        if changed < limit and number <= written[-1].number and key not in written[-1].position:
            unwanted.append(key)
    for key in unwanted:
        store.delete(key)
    return len(unwanted)


def memory_folder(uc: UseCase, source: str, table: str) -> str:
    """Return the folder of what a connector remembers of upstream, as ``<number of its batch>-<content>``.

    The position of a batch names what of it counts.
    """
    return f"seen/{uc.name}/{source}/{table}/"


def days(uc: UseCase, source: str, table: str) -> list[date | None]:
    """Return the days that changes may belong to, oldest first, and last None if some belong to none.

    Without those that retention has removed.
    """
    oldest = kept_from(uc, source, table) or date.min
    return [day for day in _folders(uc, source, table) if day is None or day >= oldest]


def _folders(uc: UseCase, source: str, table: str) -> list[date | None]:
    names = open_store().folders(f"journal/{uc.name}/{source}/{table}/")
    found = [name.removeprefix("day=") for name in names]
    return [None if day == _NO_DAY else date.fromisoformat(day) for day in found]


def present(uc: UseCase, source: str, table: str, day: date | None) -> list[dict[str, Any]]:
    """Return the rows of a day by all that was ever said of them."""
    changes, _ = changes_of(uc, source, table, day)
    rows: list[dict[str, Any]] = known(changes, uc.sources[source].tables[table].key, _EVER).to_pylist()
    return rows


def known(changes: pa.Table, key: Sequence[str], by: datetime) -> pa.Table:
    """Return the rows that follow from changes (of ``changes_of``) that were known ``by`` a moment.

    Rows without a whole key, and of no unit, cannot be told from each other, and all stay.
    """
    seen = changes.filter(pc.less_equal(changes[KNOWN_AT], pa.scalar(by, MOMENT)))
    seen = seen.append_column(_ORDER, pa.array(range(seen.num_rows), pa.int64()))
    of_unit = seen.filter(pc.is_valid(seen[UNIT]))
    newest = of_unit.group_by(UNIT).aggregate([(_BATCH, "max")])
    newest = of_unit.join(newest, UNIT).filter(pc.equal(pc.field(_BATCH), pc.field(f"{_BATCH}_max")))
    keyed = seen.filter(pc.is_null(seen[UNIT]))
    whole = pa.chunked_array([pa.repeat(pa.scalar(True), keyed.num_rows)])
    for name in key:
        whole = pc.and_(whole, pc.is_valid(keyed[name]))
    last = keyed.filter(whole).group_by(list(key)).aggregate([(_ORDER, "max")])[f"{_ORDER}_max"]
    stays = pa.concat_arrays(
        part.combine_chunks() for part in (newest[_ORDER], keyed.filter(pc.invert(whole))[_ORDER], last)
    )
    rows = seen.filter(pc.and_(pc.is_in(seen[_ORDER], stays), pc.equal(seen[KIND], UPSERT)))
    return rows.drop_columns([KIND, KNOWN_AT, DAY, UNIT, _BATCH, _ORDER])


def _log(uc: UseCase, source: str, table: str) -> str:
    return f"captures/{uc.name}/{source}/{table}"


def _nights(uc: UseCase, source: str, table: str) -> str:
    return f"nights/{uc.name}/{source}/{table}/"


def _floor(uc: UseCase, source: str, table: str) -> str:
    return f"kept/{uc.name}/{source}/{table}"


def _folder(uc: UseCase, source: str, table: str, day: date | None) -> str:
    return f"journal/{uc.name}/{source}/{table}/day={_name(day)}"


def _parsed(key: str) -> tuple[str, int, str]:
    """Return the day of an object of the journal, the number of its batch, and its name."""
    folder, _, file = key.rpartition("/")
    name = file.removesuffix(".parquet")
    return folder.rpartition("day=")[2], int(name.partition("-")[0]), name


def _name(day: date | None) -> str:
    return _NO_DAY if day is None else day.isoformat()
