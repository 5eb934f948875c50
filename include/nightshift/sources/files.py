"""Files under a prefix, in an S3 bucket or in a folder: what all kinds of sources that read files share.

They are found by listing. A file is read when it is there for the first time, and again when it has changed:
what it says then takes the place of what it said before. What is still being written is left for the next
night.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.lake.store import open_store
from nightshift.sources.captured import CapturedConnector
from nightshift.usecase import UseCase

# Of a listing: markers and what programs call a file that they have not finished.
_UNFINISHED = re.compile(r"(^|/)[._]|\.(tmp|temp|part|partial|crdownload|filepart|inprogress)$|/$")
_READERS = 8


def _known_encoding(value: str) -> str:
    try:
        "".encode(value)  # as codecs.lookup, but only what text is written in
    except LookupError as error:
        raise ValueError(f"there is no encoding {value!r}") from error
    return value


Encoding = Annotated[str, AfterValidator(_known_encoding)]
"""Any encoding that Python knows."""


class FilesOfTable(BaseModel):
    """Which files a table is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str = Field(
        min_length=1,
        description="Which files, below the prefix: `*` is any name, `**` any folders; but for "
        "documents, `{day}` is a day as 2013-07-01 or 20130701.",
    )
    settle_seconds: float = Field(
        60,
        ge=0,
        description="In a folder: a file that changed less than this ago is left for the next night.",
    )

    @model_validator(mode="after")
    def _ends_in_a_name(self) -> FilesOfTable:
        if "**" in self.files.replace("**/", ""):
            raise ValueError("** stands for folders, and a / comes after it: visits/**/*.csv")
        return self

    @property
    def pattern(self) -> re.Pattern[str]:
        """The files as a pattern of whole keys below the prefix."""
        found = re.escape(self.files)
        for written, means in (
            (r"\*\*/", r"(?:.+/)?"),
            (r"\*", r"[^/]*"),
            (r"\{day\}", r"(?P<day>\d{4}-\d\d-\d\d|\d{8})"),
        ):
            found = found.replace(written, means, 1 if "day" in written else -1)
        return re.compile(found)

    @property
    def max_bytes(self) -> float:
        """The size of the largest file that is read."""
        return math.inf

    @property
    def how(self) -> str:
        """How the files are read, for people; empty where there is one way only."""
        return ""


class PrefixOptions(BaseModel):
    """Where the files are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(description="`s3://bucket/folder/` or `file:///folder/`.")
    profile: str | None = Field(
        None, description="Profile of ~/.aws with other credentials or another endpoint than the lake's."
    )
    tables: Mapping[str, FilesOfTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(200_000, ge=1, description="Rows held in memory, but for one file at least.")

    @model_validator(mode="after")
    def _has_a_scheme(self) -> PrefixOptions:
        parts = urlsplit(self.prefix)
        if not (
            self.prefix.endswith("/") and (parts.scheme == "file" or (parts.scheme == "s3" and parts.netloc))
        ):
            raise ValueError("prefix is s3://bucket/folder/ or file:///folder/, with a slash at its end")
        return self


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it: ``mark`` differs once its content does; ``size`` is in bytes."""

    name: str
    mark: str
    changed_at: datetime
    size: int


class Known(BaseModel):
    """What was read of a file. JSON-able."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mark: str
    sha256: str
    days: tuple[date | None, ...]


class Files(Protocol):
    """Where the files are."""

    def listed(self) -> list[Listed]:
        """Return every file below the prefix."""

    def content(self, file: Listed) -> bytes | None:
        """Return what a file holds; None if it is another one by now."""


class Memory:
    """Which files were read, as one object of the lake; a batch's position is its name.

    Attributes:
        files: What was read of each file, by its name.
        began: When the first file was about to be read.
        looked: No file that changed before this moment was unread when it was listed last; None while the
            files that were there at the beginning are still being read.
        now: When it was remembered, just before the files are listed again.
    """

    def __init__(
        self, name: str, before: str, files: dict[str, Known], began: datetime, looked: datetime | None
    ) -> None:
        self.files = files
        self.began = began
        self.looked = looked
        self.now = datetime.now(UTC)
        self._name = name
        self._before = before

    @classmethod
    def of(cls, batch: journal.Batch | None) -> Memory:
        """Return what was known once ``batch`` was written; nothing before the first one."""
        if batch is None:
            return cls("", "", {}, datetime.now(UTC), None)
        position = json.loads(batch.position)
        held = json.loads(open_store().get(position["files"]))
        known = {name: Known.model_validate(one) for name, one in held.items()}
        began, looked = position["began"], position.get("looked")
        return cls(
            position["files"],
            position["before"],
            known,
            datetime.fromisoformat(began),
            datetime.fromisoformat(looked) if looked else None,
        )

    def mark(self, name: str) -> str | None:
        """Return the mark of a file as it was read; None if it was not."""
        known = self.files.get(name)
        return known.mark if known else None

    def kept(self, uc: UseCase, source: str, table: str, after: int) -> str:
        """Write the memory to the lake, for the batch that follows ``after``; return its position."""
        content = json.dumps(
            {name: one.model_dump(mode="json") for name, one in sorted(self.files.items())}
        ).encode()
        # With its number, for a file that changes back leaves the same memory as before.
        folder = journal.memory_folder(uc, source, table)
        key = f"{folder}{after + 1:09d}-{hashlib.sha256(content).hexdigest()}.json"
        open_store().put(key, content)
        position = {"files": key, "before": self._name, "began": self.began.isoformat()}
        if self.looked:
            position["looked"] = self.looked.isoformat()
        return json.dumps(position)

    def forget_older(self) -> None:
        """Remove what no batch but an older one than the last two names."""
        if self._before:
            open_store().delete(self._before)


class FilesConnector(CapturedConnector):
    """Captures files as they come and change; a subclass says what a file means.

    Attributes:
        options: Where the files are, and which of them each table is made of.
        retires: Whether a file that is gone takes with it what it said; then all it said is of no day.
    """

    options: PrefixOptions
    retires: ClassVar[bool] = False

    def _capture(self, table: str) -> int:
        """Write to the journal what files have come, changed or gone since; as ``capture``."""
        files = self._files()
        captured = 0
        newest = journal.last(self.usecase, self.source, table)
        while True:
            memory = Memory.of(newest)
            found = self._next(files, table, memory)
            if found is None:
                return captured
            changes, query = found
            after = newest.number if newest else 0
            written = journal.append(
                self.usecase,
                self.source,
                table,
                after,
                changes,
                position=memory.kept(self.usecase, self.source, table, after),
                query=query,
            )
            if written:
                captured += written.rows
                memory.forget_older()
            newest = written or journal.last(self.usecase, self.source, table)

    @abstractmethod
    def changes_of_file(self, table: str, file: Listed, content: bytes, memory: Memory) -> Iterable[pa.Table]:
        """Return the changes that a file makes, and remember it.

        Args:
            table: A table of the source.
            file: One of its files, new or changed.
            content: What it holds.
            memory: What was read so far.

        Raises:
            DataError: The file cannot be read, or its columns differ from the catalogue's.
        """

    def wanted(self, table: str, listed: Sequence[Listed]) -> list[Listed]:
        """Return those files that are of a table, and finished.

        Raises:
            DataError: The name of one is not UTF-8, so nothing can be written down of it.
        """
        pattern = self.options.tables[table].pattern
        found = [
            file for file in listed if pattern.fullmatch(file.name) and not _UNFINISHED.search(file.name)
        ]
        for file in found:
            try:
                file.name.encode()
            except UnicodeEncodeError as error:
                raise self.defect(
                    table,
                    ascii(file.name),
                    "its name is not UTF-8",
                    rule="names of files are UTF-8",
                    cure="have it renamed or taken away",
                ) from error
        return found

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
        """Return the error of a file."""
        return DataError(
            message,
            rule=rule,
            where=f"{self.usecase.name}/{self.source}/{table}: {self.options.prefix}{name}",
            cure=f"{cure}; files after it wait",
        )

    def _files(self) -> Files:
        if self.options.prefix.startswith("file:"):
            return _Folder(Path(unquote(urlsplit(self.options.prefix).path)))
        from nightshift.sources.s3_files import S3Files

        return S3Files(self.options.prefix, self.options.profile)

    def _next(self, files: Files, table: str, memory: Memory) -> tuple[pa.Table, str] | None:
        """Return the next changes and what was read for them; None when there are none.

        They are those of files that are gone, and of the next files that are new or have changed.
        """
        chosen = self.options.tables[table]
        unsettled = timedelta(seconds=chosen.settle_seconds if isinstance(files, _Folder) else 0)
        listed = self.wanted(table, files.listed())
        gone = self._gone(table, listed, memory) if self.retires else []
        new = self._new(table, listed, memory, memory.now - unsettled)
        parts = [journal.schema(self.usecase, self.source, table).empty_table()]
        parts += [self.ended(table, name, None, memory.now) for name in gone]
        names: list[str] = []
        size = 1 if self.is_dump(table) else _READERS
        for first in range(0, len(new), size):
            some = new[first : first + size]
            with ThreadPoolExecutor(_READERS) as readers:
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

    def _new(self, table: str, listed: Sequence[Listed], memory: Memory, settled: datetime) -> list[Listed]:
        """Return the files that were not read as they are now, in the order to read them in."""
        found = [
            file for file in listed if memory.mark(file.name) != file.mark and file.changed_at <= settled
        ]
        found.sort(key=lambda file: (file.changed_at, file.name))
        if self.is_dump(table):
            found.sort(key=lambda file: str(self.day_of(table, file.name)))
        return found

    def _gone(self, table: str, listed: Sequence[Listed], memory: Memory) -> list[str]:
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


class _Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listed(self) -> list[Listed]:
        if not self._root.is_dir():
            raise DataError(
                f"there is no folder {self._root}",
                rule="prefix is a folder that this machine can read",
                where=str(self._root),
                cure="mount or make it, or correct prefix in sources.yml",
            )
        found = []
        for folder, _, names in os.walk(self._root, onerror=self._unreadable):
            for name in sorted(names):
                with suppress(FileNotFoundError):  # gone since
                    found.append(self._seen(Path(folder) / name))
        return found

    def _unreadable(self, error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}",
            rule="every folder and file below the prefix can be read",
            where=str(self._root),
            cure="mend its owner or mode",
        ) from error

    def content(self, file: Listed) -> bytes | None:
        path = self._root / file.name
        try:
            content = path.read_bytes()
            return content if self._seen(path).mark == file.mark else None
        except FileNotFoundError:
            return None
        except PermissionError as error:
            self._unreadable(error)
        except OSError as error:
            raise TransientError(f"{path} cannot be read: {error}") from error
        return None

    def _seen(self, path: Path) -> Listed:
        found = path.stat()
        name = path.relative_to(self._root).as_posix()
        changed_at = datetime.fromtimestamp(found.st_mtime, UTC)
        return Listed(name, f"{found.st_ino} {found.st_mtime_ns} {found.st_size}", changed_at, found.st_size)


def few(names: Sequence[str]) -> str:
    """Return names as a list for people that stays short."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
