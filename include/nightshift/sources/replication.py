"""Change data capture from PostgreSQL: every insert, update and delete, in the order of their commits.

The server keeps what has changed in a replication slot until it is told that it was read. The order of the
steps makes each change count once: what is found is first written to the journal, with the place in the
server's log where it ends, and only then is the slot moved there. Who is killed in between finds the same
changes again, and leaves out those that the journal ends behind.

A slot that is gone, or has moved on without the journal, means changes that nobody can read any more. That is
an error: a new copy of the table would hide them.

Messages are those of ``pgoutput``, version 1 (PostgreSQL's documentation, "Logical Replication Message
Formats").
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.lake.store import open_store
from nightshift.sources.postgres import SESSION, Postgres

if TYPE_CHECKING:
    import psycopg

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# What the server keeps for a slot whose table rests: as much as one file of its log.
_IDLE_BYTES = 16 * 2**20

Row = dict[str, str | None]


class Position(BaseModel):
    """How far a table was read: all that is committed up to a place in the log of one server. JSON-able.

    Attributes:
        lsn: The place in the log.
        system: The server's own identity.
        slot: The replication slot that belongs to this journal, and to no other: another lake that reads the
            same table has its own.
        relation: The table and its publication, by their numbers in the server: what has another name, or was
            made anew under the same, is another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lsn: str
    system: str
    slot: str
    relation: str


def capture(source: Postgres, table: str) -> int:
    """Write to the journal all that has been committed to a table; return how many changes.

    Raises:
        DataError: The database is not set up for it, the columns differ from the catalogue's, or changes were
            lost for good.
        TransientError: The database or the lake cannot be reached, or another process reads the slot.
    """
    captured = 0
    if journal.last(source.usecase, source.source, table) is None:
        captured = _copy(source, table).rows
    with source.connected(options=SESSION, autocommit=True) as connection:
        relation = _check_setup(source, table, connection)
        # What is committed while this reads is for the next time, or it might never end.
        end = _one(connection, "select pg_current_wal_flush_lsn()::text")
        while True:
            newest, position = _newest(source, table, connection, relation)
            # A killed process may not have come to it; read from there on, or old changes fill the batch.
            connection.execute("select pg_replication_slot_advance(%s, %s)", [position.slot, position.lsn])
            found = _next(source, table, connection, position, end)
            rests = not found.seen and _number(end) - _number(position.lsn) > _IDLE_BYTES
            if not found.lsn and not rests:
                _drop_others(source, table, connection, position.slot)
                return captured
            lsn = _text(found.lsn) if found.lsn else end
            written = journal.append(
                source.usecase,
                source.source,
                table,
                newest.number,
                _as_changes(source, table, found),
                position=position.model_copy(update={"lsn": lsn}).model_dump_json(),
                query=f"slot {position.slot}, {position.lsn} to {lsn}",
            )
            captured += written.rows if written else 0


def _copy(source: Postgres, table: str) -> journal.Batch:
    """Begin the journal: make the slot, and write the rows that were there at that very moment.

    Raises:
        DataError: The database is not set up for it.
        TransientError: Another process has just begun.
    """
    with source.connected(options=SESSION, autocommit=True) as connection:
        relation = _check_setup(source, table, connection)
        system = _one(connection, "select system_identifier::text from pg_control_system()")
        # One for each try, of at most 63 characters. What a killed one leaves is known by what it wrote down.
        slot = f"nightshift_{table[:38]}_{secrets.token_hex(6)}"
        open_store().put(f"{_tries(source, table)}{slot}", b"")
        try:
            lsn, found = _copied(source, table, slot)
            position = Position(lsn=lsn, system=system, slot=slot, relation=relation)
            batch = journal.append(
                source.usecase,
                source.source,
                table,
                0,
                _as_changes(source, table, found, copied=True),
                position=position.model_dump_json(),
                query=f"copy of {source.options.tables[table].relation} at {lsn}",
            )
            if batch is None:
                raise TransientError(
                    f"{source.source}.{table}: another process has begun the journal just now"
                )
        except BaseException:
            _drop(source, table, connection, slot)
            raise
        return batch


def _copied(source: Postgres, table: str, slot: str) -> tuple[str, _Found]:
    """Make a slot, and return its place in the log and the rows that were there then."""
    from psycopg import sql

    # The snapshot lasts until the next command of the connection that made the slot.
    with source.connected(autocommit=True, replication="database") as maker:
        # The commands of replication are known in capitals only.
        made = maker.execute(
            f'CREATE_REPLICATION_SLOT "{slot}" LOGICAL pgoutput (SNAPSHOT "export")'
        ).fetchone()
        assert made is not None  # nosec B101  # the command answers with one row
        _, lsn, snapshot, _ = made
        with source.connected(options=SESSION) as connection:
            connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
            names = list(source.declared(table).columns)
            query = sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
                sql.Identifier(*source.options.tables[table].relation.split(".")),
            )
            rows = [dict(zip(names, row, strict=True)) for row in connection.execute(query).fetchall()]
            now = connection.execute("select clock_timestamp()").fetchone()
            assert now is not None  # nosec B101  # the query has one row
    return lsn, _Found(rows=rows, kinds=[journal.UPSERT] * len(rows), known_at=[now[0]] * len(rows))


def _drop(source: Postgres, table: str, connection: psycopg.Connection, slot: str) -> bool:
    """Drop the slot of a try that did not begin the journal, if it is there and nobody uses it."""
    dropped = connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        " where slot_name = %s and not active",
        [slot],
    ).fetchall()
    if dropped:
        open_store().delete(f"{_tries(source, table)}{slot}")
    return bool(dropped)


def _drop_others(source: Postgres, table: str, connection: psycopg.Connection, slot: str) -> None:
    """Drop the slots of tries that did not begin the journal: the server keeps its log for them, too."""
    store = open_store()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for key, written in store.modified(_tries(source, table)).items():
        name = key.rpartition("/")[2]
        # The slot of a try that has just begun may not be there yet.
        if name != slot and not _drop(source, table, connection, name) and written < yesterday:
            store.delete(key)


def _tries(source: Postgres, table: str) -> str:
    return f"slots/{source.usecase.name}/{source.source}/{table}/"


def _check_setup(source: Postgres, table: str, connection: psycopg.Connection) -> str:
    """Return what ``Position.relation`` says of the table as it is now.

    Raises:
        DataError: The database is not set up to tell every change of it.
    """
    chosen = source.options.tables[table]
    if connection.info.server_version < 150_000:
        raise _not_set_up(source, table, "the server is older than PostgreSQL 15", "use `capture: watermark`")
    if _one(connection, "show server_encoding") != "UTF8":
        raise _not_set_up(source, table, "the database is not in UTF-8", "use `capture: watermark`")
    if (level := _one(connection, "show wal_level")) != "logical":
        cure = "set wal_level = logical in postgresql.conf and restart the server"
        raise _not_set_up(source, table, f"wal_level is {level}", cure)
    source.check_columns(connection, table)
    published = connection.execute(
        "select c.oid, b.oid, coalesce(r.oid, 0) from pg_publication_tables p"
        " join pg_class c on c.oid = format('%%I.%%I', p.schemaname, p.tablename)::regclass"
        " join pg_publication b on b.pubname = p.pubname"
        " left join pg_publication_rel r on r.prpubid = b.oid and r.prrelid = c.oid"
        " where p.pubname = %s and p.schemaname || '.' || p.tablename = %s"
        " and b.pubinsert and b.pubupdate and b.pubdelete and b.pubtruncate and p.rowfilter is null",
        [chosen.publication, chosen.relation],
    ).fetchone()
    if published is None:
        wrong = f"the publication {chosen.publication} does not have every change of {chosen.relation}"
        cure = f"as its owner: create publication {chosen.publication} for table {chosen.relation}"
        raise _not_set_up(source, table, wrong, cure)
    relation, *publication = published
    # The partitions of a table do not have its identity by themselves.
    partial = connection.execute(
        "select c.oid::regclass::text from pg_class c where c.relreplident <> 'f'"
        " and (c.oid = %s or c.oid in (select relid from pg_partition_tree(%s)))",
        [relation, relation],
    ).fetchone()
    if partial is not None:
        raise _not_set_up(source, table, *_partial(str(partial[0])))
    names = [*_place(source, table), *source.declared(table).columns]
    loose = connection.execute(
        "select attname::text, attgenerated from pg_attribute where attrelid = %s and attname = any(%s)"
        " and (attgenerated <> '' or (not attnotnull and attname = any(%s)))",
        [relation, names, _place(source, table)],
    ).fetchone()
    if loose is not None and loose[1] not in ("", b""):
        cure = "leave it out of the catalogue, under `ignore`"
        raise _not_set_up(source, table, f"{loose[0]} is generated, and not in the log", cure)
    if loose is not None:
        cure = f"as its owner: alter table {chosen.relation} alter column {loose[0]} set not null"
        raise _not_set_up(source, table, f"{loose[0]} may be null", cure)
    return "/".join(map(str, (relation, *publication)))


def _partial(relation: str) -> tuple[str, str]:
    cure = f"as its owner: alter table {relation} replica identity full"
    return f"{relation} does not log whole rows", cure


def _not_set_up(source: Postgres, table: str, wrong: str, cure: str) -> DataError:
    return DataError(
        wrong,
        rule="change data capture needs PostgreSQL 15, wal_level = logical, a publication of every change of "
        "the table, whole rows of what is changed or deleted, and a key and a day that are not null",
        where=f"{source.place}.tables.{table}",
        cure=cure,
    )


def _newest(
    source: Postgres, table: str, connection: psycopg.Connection, relation: str
) -> tuple[journal.Batch, Position]:
    """Return the last batch and its position, if what comes after it can be read.

    Raises:
        DataError: Changes after it are lost for good.
    """
    newest = journal.last(source.usecase, source.source, table)
    assert newest is not None  # nosec B101  # it has begun
    slot = Position.model_validate_json(newest.position).slot
    system = _one(connection, "select system_identifier::text from pg_control_system()")
    row = connection.execute(
        "select plugin, database = current_database(), confirmed_flush_lsn::text, wal_status"
        " from pg_replication_slots where slot_name = %s",
        [slot],
    ).fetchone()
    # Looked at after the slot: another process writes first, and then moves it.
    newest = journal.last(source.usecase, source.source, table)
    assert newest is not None  # nosec B101  # it has begun
    position = Position.model_validate_json(newest.position)
    if system != position.system:
        wrong = "this is another server than the one that was read before"
    elif relation != position.relation:
        wrong = f"{source.options.tables[table].relation}, or its publication, was made anew"
    elif row is None:
        wrong = f"the replication slot {slot} is gone"
    elif row[0] != "pgoutput" or not row[1]:
        wrong = f"the replication slot {slot} is another one's: of {row[0]}"
    elif row[3] == "lost":
        wrong = f"the replication slot {slot} needed more than max_slot_wal_keep_size, and was given up"
    elif _number(row[2]) > _number(position.lsn):
        wrong = f"the replication slot {slot} stands at {row[2]}, and the journal ends at {position.lsn}"
    elif _number(_one(connection, "select pg_current_wal_flush_lsn()::text")) < _number(position.lsn):
        wrong = f"the server's log ends before {position.lsn}: it was restored from an older backup"
    else:
        return newest, position
    raise DataError(
        f"{wrong}: what was changed since {position.lsn} cannot be read any more",
        rule="every change is read once; a new copy of the table would hide those that were lost",
        where=f"{source.usecase.name}/{source.source}/{table}",
        cure="bring back what is gone with its slot, as it was; if that cannot be, declare the table under a "
        "new name in sources.yml: its journal begins with a new copy",
    )


def _next(
    source: Postgres, table: str, connection: psycopg.Connection, position: Position, end: str
) -> _Found:
    """Return the changes of the next transactions after ``position``: about a batch of them."""
    chosen = source.options.tables[table]
    messages = connection.execute(
        "select data from pg_logical_slot_peek_binary_changes(%s, %s, %s, 'proto_version', '1',"
        " 'publication_names', %s)",
        [position.slot, end, source.options.batch_rows, f'"{chosen.publication}"'],
    )
    found = _Found()
    ours = int(position.relation.partition("/")[0])
    columns: list[str] = []
    committed_at, waiting = _EPOCH, _Found()
    for (message,) in messages:
        found.seen = True
        kind, reader = chr(message[0]), _Reader(bytes(message))
        if kind == "B":
            reader.integer(8)
            committed_at, waiting = reader.moment(), _Found()
        elif kind == "R" and reader.integer(4) == ours:
            reader.text(), reader.text(), reader.integer(1)
            columns = list(reader.columns())
        elif kind in "IUD" and reader.integer(4) == ours:
            if not found.rows:
                source.compare_columns(table, columns)
            elif set(columns) != set(found.rows[0]):
                return found  # the next batch says what has changed
            if kind != "I" and reader.following() != "O":
                raise _not_set_up(source, table, *_partial(chosen.relation))
            if not waiting.changed(reader, columns, _place(source, table), committed_at):
                raise _not_set_up(source, table, *_partial(chosen.relation))
        elif kind == "T" and ours in reader.relations():
            if found.rows:
                return found  # of what the journal holds by then
            waiting.emptied(_present(source, table), _place(source, table), committed_at)
        elif kind == "C":
            reader.integer(1 + 8)
            ended = reader.integer(8)
            # The slot may not move to the very end of a transaction.
            if ended > _number(position.lsn):
                found.extend(waiting)
                found.lsn = ended
    return found


@dataclass
class _Found:
    """Changes in their order, of transactions that end at ``lsn`` or before; ``seen``: there were any."""

    lsn: int = 0
    seen: bool = False
    rows: list[Row] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    known_at: list[datetime] = field(default_factory=list)
    _taken: dict[tuple[str | None, ...], Row] = field(default_factory=dict)

    def add(self, kind: str, row: Row, at: datetime) -> None:
        self.rows.append(row)
        self.kinds.append(kind)
        self.known_at.append(at)

    def extend(self, other: _Found) -> None:
        self.rows += other.rows
        self.kinds += other.kinds
        self.known_at += other.known_at

    def changed(self, reader: _Reader, columns: Sequence[str], place: Sequence[str], at: datetime) -> bool:
        """Add what an insert, update or delete did; return whether the log has enough of the row before.

        A row that is elsewhere now is there no more, too.
        """
        old: Row | None = None
        mark = reader.character()
        if mark in "KO":
            old = reader.row(columns, {})
            mark = reader.character()
        new = reader.row(columns, old or {}) if mark == "N" else None
        if old is not None and (new is None or any(old[name] != new[name] for name in place)):
            was = tuple(old[name] for name in place)
            if None in was:
                return False
            # Rows that change places: another one is there by now.
            if self._taken.get(was, old) == old:
                self.add(journal.DELETE, old, at)
                self._taken.pop(was, None)
        if new is not None:
            self._taken[tuple(new[name] for name in place)] = new
            self.add(journal.UPSERT, new, at)
        return True

    def emptied(self, present: Iterable[Row], place: Sequence[str], at: datetime) -> None:
        """Add the end of every row that was ``present``, or that is by these changes."""
        rows = {tuple(row[name] for name in place): row for row in present}
        for kind, row in zip(self.kinds, self.rows, strict=True):
            rows.pop(tuple(row[name] for name in place), None)
            if kind == journal.UPSERT:
                rows[tuple(row[name] for name in place)] = row
        for row in rows.values():
            self.add(journal.DELETE, row, at)


class _Reader:
    """A message of the server, read from its second byte on."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 1

    def integer(self, size: int) -> int:
        return int.from_bytes(self._bytes(size))

    def character(self) -> str:
        return self._bytes(1).decode() if self._at < len(self._message) else ""

    def following(self) -> str:
        return chr(self._message[self._at])

    def text(self) -> str:
        end = self._message.index(0, self._at)
        found = self._message[self._at : end].decode()
        self._at = end + 1
        return found

    def moment(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.integer(8))

    def columns(self) -> Iterator[str]:
        for _ in range(self.integer(2)):
            self.integer(1)
            yield self.text()
            self.integer(4 + 4)

    def relations(self) -> list[int]:
        count = self.integer(4)
        self.integer(1)
        return [self.integer(4) for _ in range(count)]

    def row(self, columns: Sequence[str], old: Row) -> Row:
        """Return a row; what is stored apart and did not change is not sent again, and is that of ``old``."""
        self.integer(2)
        found: Row = {}
        for name in columns:
            kind = self.character()
            if kind == "n":
                found[name] = None
            elif kind == "u":
                found[name] = old[name]
            else:
                found[name] = self._bytes(self.integer(4)).decode()
        return found

    def _bytes(self, size: int) -> bytes:
        found = self._message[self._at : self._at + size]
        self._at += size
        return found


def _place(source: Postgres, table: str) -> list[str]:
    """Return the columns that say which row a change is of, and on which day."""
    day = source.day_columns.get(table)
    return [*source.declared(table).key, *([day] if day else [])]


def _present(source: Postgres, table: str) -> Iterator[Row]:
    """Yield every row that is there by the journal, as text."""
    for day in journal.days(source.usecase, source.source, table):
        for row in journal.present(source.usecase, source.source, table, day):
            yield {name: None if value is None else _as_text(value) for name, value in row.items()}


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_changes(source: Postgres, table: str, found: _Found, *, copied: bool = False) -> pa.Table:
    names = list(source.declared(table).columns)
    rows = source.from_text(
        table, pa.table({name: pa.array([row[name] for row in found.rows], pa.string()) for name in names})
    )
    known_at = pa.chunked_array([pa.array(found.known_at, journal.MOMENT)])
    return source.changes(table, rows, known_at=known_at, kinds=found.kinds, copied=copied)


def _one(connection: psycopg.Connection, query: LiteralString) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None  # nosec B101  # these queries have one row
    return str(row[0])


def _number(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
