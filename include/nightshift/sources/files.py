"""Files that are read as a whole: when one is there for the first time, and again when it has changed.

What it says then takes the place of what it said before. What is still being written is left for the next
night.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import AfterValidator, Field

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.sources.captured import ALWAYS
from nightshift.sources.prefix import (
    READERS,
    Files,
    Folder,
    Listed,
    Memory,
    NamedFiles,
    PrefixConnector,
    PrefixOptions,
    Seen,
)


def _known_encoding(value: str) -> str:
    try:
        "".encode(value)  # as codecs.lookup, but only what text is written in
    except LookupError as error:
        raise ValueError(f"there is no encoding {value!r}") from error
    return value


Encoding = Annotated[str, AfterValidator(_known_encoding)]
"""Any encoding that Python knows."""


class FilesOfTable(NamedFiles):
    """Which files a table is made of, and when they are read."""

    settle_seconds: float = Field(
        60,
        ge=0,
        description="In a folder: a file that changed less than this ago is left for the next night.",
    )

    @property
    def max_bytes(self) -> float:
        """The size of the largest file that is read."""
        return math.inf

    @property
    def how(self) -> str:
        """How the files are read, for people; empty where there is one way only."""
        return ""


class WholeFilesOptions(PrefixOptions):
    """Where the files are."""

    tables: Mapping[str, FilesOfTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(200_000, ge=1, description="Rows held in memory, but for one file at least.")


class Known(Seen):
    """What was read of a file. JSON-able."""

    sha256: str
    days: tuple[date | None, ...]


class FilesConnector(PrefixConnector[Known]):
    """Captures files as they come and change; a subclass says what a file means.

    Attributes:
        options: As of every kind that reads files; and when a file is finished.
        retires: Whether a file that is gone takes with it what it said; then all it said is of no day.
    """

    options: WholeFilesOptions
    remembers = Known
    retires: ClassVar[bool] = False

    @abstractmethod
    def changes_of_file(
        self, table: str, file: Listed, content: bytes, memory: Memory[Known]
    ) -> Iterable[pa.Table]:
        """Return the changes that a file makes, and remember it.

        Args:
            table: A table of the source.
            file: One of its files, new or changed.
            content: What it holds.
            memory: What was read so far.

        Raises:
            DataError: The file cannot be read, or its columns differ from the catalogue's.
        """

    def is_dump(self, table: str) -> bool:
        """Tell whether each file is the whole table as it was on its day."""
        return self.declared(table).refresh == "slow" and "{day}" in self.options.tables[table].files

    def day_of(self, table: str, name: str) -> date | None:
        """Return the day in the name of a file; None where names have none.

        Raises:
            DataError: It is no day of the calendar.
        """
        found = self.options.tables[table].pattern.fullmatch(name)
        if found is None or "day" not in found.groupdict():
            return None
        try:
            return date.fromisoformat(found["day"])
        except ValueError as error:
            raise self.defect(
                table,
                name,
                f"{found['day']!r} is no day of the calendar",
                rule="{day} in `files` stands for a day as 2013-07-01 or 20130701",
                cure="have the file renamed or taken away, or correct `files` in sources.yml",
            ) from error

    def ended(self, table: str, unit: str, day: date | None, at: datetime) -> pa.Table:
        """Return the change that a unit, such as a file, has nothing of a day (None: of no day) any more."""
        said = {journal.KIND: journal.DELETE, journal.KNOWN_AT: at, journal.DAY: day, journal.UNIT: unit}
        wanted = journal.schema(self.usecase, self.source, table)
        return pa.Table.from_pylist([{field.name: said.get(field.name) for field in wanted}], schema=wanted)

    def defect(self, table: str, name: str, message: str, *, rule: str, cure: str) -> DataError:
        """Return the error of a file; those after it in order are not read until it is mended."""
        return super().defect(table, name, message, rule=rule, cure=f"{cure}; files after it wait")

    def _next(self, files: Files, table: str, memory: Memory[Known]) -> tuple[pa.Table, str] | None:
        """Return the next changes and what was read for them; None when there are none.

        They are those of files that are gone, and of the next files that are new or have changed.
        """
        chosen = self.options.tables[table]
        unsettled = timedelta(seconds=chosen.settle_seconds if isinstance(files, Folder) else 0)
        listed = self.wanted(table, files.listed())
        gone = self._gone(table, listed, memory) if self.retires else []
        new = self._new(table, listed, memory, memory.now - unsettled)
        parts = [journal.schema(self.usecase, self.source, table).empty_table()]
        # While those of the beginning are still being read, nobody has relied on what is gone.
        ended_at = memory.now if memory.looked else ALWAYS
        parts += [self.ended(table, name, None, ended_at) for name in gone]
        names: list[str] = []
        size = 1 if self.is_dump(table) else READERS
        for first in range(0, len(new), size):
            some = new[first : first + size]
            with ThreadPoolExecutor(READERS) as readers:
                contents = list(
                    readers.map(lambda one: b"" if one.size > chosen.max_bytes else files.content(one), some)
                )
            for file, content in zip(some, contents, strict=True):
                if content is None:
                    continue  # changed since it was listed: it is for the next time
                try:
                    self._check_size(table, file)
                    parts += self.changes_of_file(table, file, content, memory)
                except DataError:
                    if not (names or gone):
                        raise
                    return pa.concat_tables(parts), self._asked(table, names, gone)  # and next time the error
                names.append(file.name)
            full = self.is_dump(table) or sum(part.num_rows for part in parts) >= self.options.batch_rows
            if names and full and first + size < len(new):
                return pa.concat_tables(parts), self._asked(table, names, gone)
        if not (names or gone):
            return None
        memory.looked = memory.now - unsettled
        return pa.concat_tables(parts), self._asked(table, names, gone)

    def _new(
        self, table: str, listed: Sequence[Listed], memory: Memory[Known], settled: datetime
    ) -> list[Listed]:
        """Return the files that were not read as they are now, in the order to read them in."""
        found = [
            file for file in listed if memory.mark(file.name) != file.mark and file.changed_at <= settled
        ]
        found.sort(key=lambda file: (file.changed_at, file.name))
        if self.is_dump(table):
            found.sort(key=lambda file: str(self.day_of(table, file.name)))
        return found

    def _gone(self, table: str, listed: Sequence[Listed], memory: Memory[Known]) -> list[str]:
        """Return the names of the files that were read and are there no more, and forget them."""
        if memory.files and not listed and not self.declared(table).allow_empty:
            raise DataError(
                f"{table} has no file any more, and had {len(memory.files)}",
                rule="a table has files, unless it is declared allow_empty",
                where=f"{self.usecase.name}/{self.source}/{table}: {self.options.prefix}",
                cure="see that the place is mounted, and that `prefix` and `files` are right; if all files "
                "may go, set allow_empty in sources.yml",
            )
        gone = sorted(memory.files.keys() - {file.name for file in listed})
        for name in gone:
            del memory.files[name]
        return gone

    def _check_size(self, table: str, file: Listed) -> None:
        most = self.options.tables[table].max_bytes
        if file.size > most:
            raise self.defect(
                table,
                file.name,
                f"it has {file.size / 1e6:.1f} MB",
                rule=f"a file has at most {most / 1e6:g} MB",
                cure="have it made smaller or taken away, or set max_megabytes in sources.yml",
            )

    def _asked(self, table: str, names: Sequence[str], gone: Sequence[str]) -> str:
        """Return what was read, for people."""
        said = [few(names)] if names else []
        said += [f"gone: {few(gone)}"] if gone else []
        said += [how] if (how := self.options.tables[table].how) else []
        return f"{self.options.prefix}: {'; '.join(said)}"


def few(names: Sequence[str]) -> str:
    """Return names as a list for people that stays short."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
