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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lsn: str
    system: str
    slot: str


def capture(source: Postgres, table: str) -> int:
    """Write to the journal all that has been committed to a table; return how many changes.

    Raises:
        DataError: The database is not set up for it, the columns differ from the catalogue's, or changes were
            lost for good.
        TransientError: The database or the lake cannot be reached, or another process reads the slot.
    """
    captured = 0
    newest = journal.last(source.usecase, source.source, table)
    if newest is None:
        newest = _copy(source, table)
        captured += newest.rows
    with source.connected(options=SESSION, autocommit=True) as connection:
        while True:
            position = Position.model_validate_json(newest.position)
            _check_slot(source, table, connection, position)
            _drop_others(source, table, connection, position.slot)
            end = _one(connection, "select pg_current_wal_flush_lsn()::text")
            found = _next(source, table, connection, position, end)
            if found.lsn or _number(end) - _number(position.lsn) > _IDLE_BYTES:
                lsn = _text(found.lsn) if found.lsn else end
                changes = _as_changes(source, table, found)
                written = journal.append(
                    source.usecase,
                    source.source,
                    table,
                    newest.number,
                    changes,
                    position=position.model_copy(update={"lsn": lsn}).model_dump_json(),
                    query=f"slot {position.slot}, {position.lsn} to {lsn}",
                )
                captured += written.rows if written else 0
                newest = written or journal.last(source.usecase, source.source, table)
                assert newest is not None  # nosec B101  # it had begun
            # Also when a killed process had not come to it.
            reached = Position.model_validate_json(newest.position).lsn
            connection.execute("select pg_replication_slot_advance(%s, %s)", [position.slot, reached])
            if not found.lsn:
                return captured


def _copy(source: Postgres, table: str) -> journal.Batch:
    """Begin the journal: make the slot, and write the rows that were there at that very moment.

    Raises:
        DataError: The database is not set up for it.
        TransientError: Another process has just begun.
    """
    chosen = source.options.tables[table]
    # One for each try, of 63 characters at most: what a killed one left is known by what it wrote down before.
    slot = f"nightshift_{table[:38]}_{secrets.token_hex(6)}"
    open_store().put(f"{_tries(source, table)}{slot}", b"")
    with source.connected(autocommit=True) as connection:
        _check_setup(source, table, connection)
        system = _one(connection, "select system_identifier::text from pg_control_system()")
    # The snapshot lasts until the next command of the connection that made the slot.
    with source.connected(autocommit=True, replication="database") as maker:
        # The commands of replication are known in capitals only.
        made = maker.execute(
            f'CREATE_REPLICATION_SLOT "{slot}" LOGICAL pgoutput (SNAPSHOT "export")'
        ).fetchone()
        assert made is not None  # nosec B101  # the command answers with one row
        _, lsn, snapshot, _ = made
        with source.connected(options=SESSION) as connection:
            from psycopg import sql

            connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
            source.check_columns(connection, table)
            names = list(source.declared(table).columns)
            query = sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
                sql.Identifier(*chosen.relation.split(".")),
            )
            rows = [dict(zip(names, row, strict=True)) for row in connection.execute(query).fetchall()]
            now = connection.execute("select clock_timestamp()").fetchone()
            assert now is not None  # nosec B101  # the query has one row
    found = _Found(rows=rows, kinds=[journal.UPSERT] * len(rows), known_at=[now[0]] * len(rows))
    batch = journal.append(
        source.usecase,
        source.source,
        table,
        0,
        _as_changes(source, table, found, copied=True),
        position=Position(lsn=lsn, system=system, slot=slot).model_dump_json(),
        query=f"copy of {chosen.relation} at {lsn}",
    )
    if batch is None:
        raise TransientError(f"{source.source}.{table}: another process has begun the journal just now")
    return batch


def _drop_others(source: Postgres, table: str, connection: psycopg.Connection, slot: str) -> None:
    """Drop the slots of tries that did not begin the journal: the server keeps its log for them, too."""
    store = open_store()
    for key in store.list(_tries(source, table)):
        if (name := key.rpartition("/")[2]) != slot:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where slot_name = %s and not active",
                [name],
            )
            store.delete(key)


def _tries(source: Postgres, table: str) -> str:
    return f"slots/{source.usecase.name}/{source.source}/{table}/"


def _check_setup(source: Postgres, table: str, connection: psycopg.Connection) -> None:
    chosen = source.options.tables[table]
    published = connection.execute(
        "select c.relreplident from pg_publication_tables p"
        " join pg_class c on c.oid = format('%%I.%%I', p.schemaname, p.tablename)::regclass"
        " join pg_publication b on b.pubname = p.pubname"
        " where p.pubname = %s and p.schemaname || '.' || p.tablename = %s"
        " and b.pubinsert and b.pubupdate and b.pubdelete and b.pubtruncate and p.rowfilter is null",
        [chosen.publication, chosen.relation],
    ).fetchone()
    if _one(connection, "show server_encoding") != "UTF8":
        raise _not_set_up(source, table, "the database is not in UTF-8", "use `capture: watermark`")
    if (level := _one(connection, "show wal_level")) != "logical":
        cure = "set wal_level = logical in postgresql.conf and restart the server"
        raise _not_set_up(source, table, f"wal_level is {level}", cure)
    if published is None:
        wrong = f"the publication {chosen.publication} does not have every change of {chosen.relation}"
        cure = f"as its owner: create publication {chosen.publication} for table {chosen.relation}"
        raise _not_set_up(source, table, wrong, cure)
    if published[0] not in ("f", b"f"):
        raise _not_set_up(source, table, *_partial(chosen.relation))


def _partial(relation: str) -> tuple[str, str]:
    cure = f"as its owner: alter table {relation} replica identity full"
    return f"{relation} does not log whole rows", cure


def _not_set_up(source: Postgres, table: str, wrong: str, cure: str) -> DataError:
    return DataError(
        wrong,
        rule="change data capture needs wal_level = logical, a publication of every change of the table, "
        "and whole rows of what is changed or deleted, to know which day they were of",
        where=f"{source.place}.tables.{table}",
        cure=cure,
    )


def _check_slot(source: Postgres, table: str, connection: psycopg.Connection, position: Position) -> None:
    """Stop where changes after ``position`` cannot be read any more."""
    slot = position.slot
    system = _one(connection, "select system_identifier::text from pg_control_system()")
    row = connection.execute(
        "select plugin, database = current_database(), confirmed_flush_lsn::text, wal_status"
        " from pg_replication_slots where slot_name = %s",
        [slot],
    ).fetchone()
    if system != position.system:
        wrong = "this is another server than the one that was read before"
    elif row is None:
        wrong = f"the replication slot {slot} is gone"
    elif row[0] != "pgoutput" or not row[1]:
        wrong = f"the replication slot {slot} is another one's: of {row[0]}"
    elif row[3] == "lost":
        wrong = f"the replication slot {slot} needed more than max_slot_wal_keep_size, and was given up"
    elif _number(row[2]) > _number(position.lsn):
        wrong = f"the replication slot {slot} stands at {row[2]}, and the journal ends at {position.lsn}"
    else:
        return
    raise DataError(
        f"{wrong}: what was changed since {position.lsn} cannot be read any more",
        rule="every change is read once; a new copy of the table would hide those that were lost",
        where=f"{source.usecase.name}/{source.source}/{table}",
        cure="bring the slot back with a backup of the server; if that cannot be, declare the table under a "
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
    columns_of: dict[int, list[str]] = {}
    committed_at, waiting = _EPOCH, _Found()
    for (message,) in messages:
        kind, reader = chr(message[0]), _Reader(bytes(message))
        if kind == "B":
            reader.integer(8)
            committed_at, waiting = reader.moment(), _Found()
        elif kind == "R":
            identity, relation = reader.integer(4), f"{reader.text()}.{reader.text()}"
            whole = reader.character() == "f"
            if relation == chosen.relation:
                if not whole:
                    raise _not_set_up(source, table, *_partial(chosen.relation))
                columns_of[identity] = list(reader.columns())
        elif kind in "IUD" and (columns := columns_of.get(reader.integer(4))):
            if not found.rows:
                source.compare_columns(table, columns)
            elif set(columns) != set(found.rows[0]):
                return found  # the next batch says what has changed
            waiting.changed(reader, columns, _place(source, table), committed_at)
        elif kind == "T" and not columns_of.keys().isdisjoint(reader.relations()):
            if found.rows:
                return found  # of what the journal holds by then
            waiting.emptied(_present(source, table), list(source.declared(table).key), committed_at)
        elif kind == "C":
            reader.integer(1 + 8)
            ended = reader.integer(8)
            if ended > _number(position.lsn):
                found.extend(waiting)
                found.lsn = ended
    return found


@dataclass
class _Found:
    """Changes in their order, of transactions that end before ``lsn``."""

    lsn: int = 0
    rows: list[Row] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    known_at: list[datetime] = field(default_factory=list)

    def add(self, kind: str, row: Row, at: datetime) -> None:
        self.rows.append(row)
        self.kinds.append(kind)
        self.known_at.append(at)

    def extend(self, other: _Found) -> None:
        self.rows += other.rows
        self.kinds += other.kinds
        self.known_at += other.known_at

    def changed(self, reader: _Reader, columns: Sequence[str], place: Sequence[str], at: datetime) -> None:
        """Add what an insert, update or delete did. A row that is elsewhere now is there no more, too."""
        old: Row | None = None
        mark = reader.character()
        if mark in "KO":
            old = reader.row(columns, {})
            mark = reader.character()
        new = reader.row(columns, old or {}) if mark == "N" else None
        if old is not None and (new is None or any(old[name] != new[name] for name in place)):
            self.add(journal.DELETE, old, at)
        if new is not None:
            self.add(journal.UPSERT, new, at)

    def emptied(self, present: Iterable[Row], key: Sequence[str], at: datetime) -> None:
        """Add the end of every row that was ``present``, or that is by these changes."""
        rows = {tuple(row[name] for name in key): row for row in present}
        for kind, row in zip(self.kinds, self.rows, strict=True):
            rows.pop(tuple(row[name] for name in key), None)
            if kind == journal.UPSERT:
                rows[tuple(row[name] for name in key)] = row
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
