"""An append-only log of events: files of JSON lines that only grow, below a prefix.

Each capture reads on where the one before ended, in batches. A batch is written together with the byte up to
which each file was read, so every line is there once, whoever was killed when. Only whole lines are read. A
file that is not what it was is an error, for nobody can tell what of it was lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.protection import HIDDEN_TEXT
from nightshift.sources import json_lines
from nightshift.sources.contract import check_columns
from nightshift.sources.log_files import Chunk, Log, LogError, LogFiles
from nightshift.sources.options import checked
from nightshift.sources.prefix import Files, Memory, NamedFiles, PrefixConnector, PrefixOptions
from nightshift.usecase import ColumnName, UseCase

_BATCH_BYTES = 64 << 20
# Files that a batch names one by one.
_NAMED = 100


class EventsTable(NamedFiles):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    time: ColumnName = Field(
        description="Column with the moment of an event: the day that it is of, and since when it is known."
    )
    ignore: tuple[str, ...] = Field((), description="Fields of the lines that the catalogue leaves out.")
    skip: tuple[str, ...] = Field(
        (), description="Lines that are left out, each as the error named it: `clicks/p0.jsonl@18231`."
    )

    @field_validator("files")
    @classmethod
    def _are_names(cls, value: str) -> str:
        if "{day}" in value:
            raise ValueError("files has a {day}, but the day of an event is that of its `time`: write *")
        if value.endswith(".gz"):
            raise ValueError("a log that grows is not packed: read *.gz with the kind object_store")
        return value

    @field_validator("skip")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in value if not re.fullmatch(r".+@\d+", one)]:
            raise ValueError(f"{wrong[0]!r} is no file@offset, such as clicks/p0.jsonl@18231")
        return value


class EventsOptions(PrefixOptions):
    """``options`` of the source in ``sources.yml``."""

    tables: Mapping[str, EventsTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(200_000, ge=1, description="Most lines that are held in memory.")


@dataclass
class _Found:
    """What becomes the next batch."""

    changes: list[pa.Table]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def add(self, chunk: Chunk, changes: pa.Table) -> None:
        name = chunk.file.name
        self.changes.append(changes)
        self.rows += len(chunk.lines)
        self.size += chunk.end - chunk.start
        self.spans[name] = (self.spans.get(name, (chunk.start, 0))[0], chunk.end)
        if chunk.left_out:
            self.left_out.append(f"{name}@{chunk.start}")

    @property
    def query(self) -> str:
        named = [f"{name} {start}-{end}" for name, (start, end) in sorted(self.spans.items())]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        without = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return ", ".join(named[:_NAMED]) + more + without


class Events(PrefixConnector[Log]):
    """Yields tables of events; see the module."""

    Options: ClassVar[type[EventsOptions]] = EventsOptions
    options: EventsOptions
    remembers = Log

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is listed yet.

        Raises:
            DataError: An option is wrong or missing.
        """
        self.options = checked(usecase, source, self.Options)
        for name, table in usecase.sources[source].tables.items():
            time = self.options.tables[name].time
            column = table.columns.get(time)
            if table.refresh != "daily" or column is None or column.type != "timestamp":
                raise DataError(
                    f"{name} is `refresh: {table.refresh}`, and {time!r} is "
                    f"{f'a {column.type}' if column else 'no column'} of it",
                    rule="a table of a log is `refresh: daily`, and `time` is one of its timestamps",
                    where=f"{usecase.name}/sources.yml: sources.{source}.options.tables.{name}.time",
                    cure="name the column with the moment of the event there, and declare it a timestamp",
                )
        super().__init__(usecase, source, {name: one.time for name, one in self.options.tables.items()})

    def _next(self, files: Files, table: str, memory: Memory[Log]) -> tuple[pa.Table, str] | None:
        """Return the next lines as changes, and where they stand; None when there are none.

        Raises:
            DataError: A line is no JSON, or has other columns than the catalogue; or a file was rewritten.
                All that can be read, before it and in other files, was read.
        """
        found = _Found([journal.schema(self.usecase, self.source, table).empty_table()])
        log = LogFiles(files, self.wanted(table, files.listed()), self.options.tables[table].skip)
        for whole in log.chunks(memory):
            room = self.options.batch_rows - found.rows
            chunk = whole.first(room) if len(whole.lines) > room else whole
            try:
                changes = self._changes(table, chunk.lines, memory.now)
            except (DataError, ValueError) as error:
                chunk, message = self._before_bad(table, chunk, memory.now, error)
                log.faults[chunk.file.name] = LogError(message, chunk.end)
                if not chunk.lines:
                    continue
                changes = self._changes(table, chunk.lines, memory.now)
            memory.files[chunk.file.name] = chunk.log
            found.add(chunk, changes)
            if found.rows >= self.options.batch_rows or found.size >= _BATCH_BYTES:
                break
        if found.spans:
            return pa.concat_tables(found.changes), f"{self.options.prefix}: {found.query}"
        if log.faults:
            name = min(log.faults)
            raise self._fault(table, name, log.faults[name])
        return None

    def _changes(self, table: str, lines: Sequence[bytes], read_at: datetime) -> pa.Table:
        """Return lines as changes.

        Raises:
            DataError: Their columns differ from the catalogue's.
            ValueError: They are no JSON objects with such columns.
        """
        chosen = self.options.tables[table]
        rows = json_lines.parse(lines, self.declared(table).columns, chosen.ignore)
        rows = check_columns(self.usecase, self.source, table, rows)
        since = pc.fill_null(rows[chosen.time], pa.scalar(read_at, journal.MOMENT))
        return self.changes(table, rows, known_at=since)

    def _before_bad(self, table: str, chunk: Chunk, read_at: datetime, error: Exception) -> tuple[Chunk, str]:
        """Return the lines before the first one that cannot be read, and what is wrong with that one."""
        good, bad = 0, len(chunk.lines)
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._changes(table, chunk.lines[good:middle], read_at)
            except (DataError, ValueError) as found:
                bad, error = middle, found
            else:
                good = middle
        if isinstance(error, DataError):
            return chunk.first(good), error.message
        # A parser repeats the line that it does not understand.
        return chunk.first(good), HIDDEN_TEXT if self.hides(table) else str(error)

    def _fault(self, table: str, name: str, fault: LogError) -> DataError:
        if fault.offset is None:
            return self.defect(
                table,
                name,
                f"{name} was rewritten: {fault.message}",
                rule="the files of a log only grow, and keep their names",
                cure="bring the file back as it was; or give what took its place another name: it is read "
                "from its beginning then. What was written in between and never read is lost",
            )
        place = f"{name}@{fault.offset}"
        return self.defect(
            table,
            place,
            f"the line at byte {fault.offset} of {name}: {fault.message}",
            rule="each line of a log is a JSON object with fields of the catalogue",
            cure=f"declare what is new in {self.usecase.name}/sources.yml, under the table's columns or its "
            f'option `ignore`; or leave this line out, by its option skip: ["{place}"]. What comes after it '
            "in this file waits",
        )
