"""Files under a prefix, in an S3 bucket or in a folder: what every kind of source that reads files shares.

They are found by listing. What was read of each is one object of the lake, and a batch of the journal names
it: so it counts together with what was read, whoever was killed when.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.sources.captured import CapturedConnector
from nightshift.usecase import UseCase

READERS = 8
"""How many files are read at once."""

# Of a listing: markers and what programs call a file that they have not finished.
_UNFINISHED = re.compile(r"(^|/)[._]|\.(tmp|temp|part|partial|crdownload|filepart|inprogress)$|/$")


class NamedFiles(BaseModel):
    """Which files a table is made of, by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str = Field(
        min_length=1,
        description="Which files, below the prefix: `*` is any name, `**` any folders; but for "
        "documents and logs, `{day}` is a day as 2013-07-01 or 20130701.",
    )

    @model_validator(mode="after")
    def _ends_in_a_name(self) -> NamedFiles:
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


class PrefixOptions(BaseModel):
    """Where the files are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(description="`s3://bucket/folder/` or `file:///folder/`.")
    profile: str | None = Field(
        None, description="Profile of ~/.aws with other credentials or another endpoint than the lake's."
    )
    tables: Mapping[str, NamedFiles] = Field(description="Every table of the source.")

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


class Seen(BaseModel):
    """What was read of a file. JSON-able. ``mark`` is that of its listing: another one says it changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mark: str


One = TypeVar("One", bound=Seen)


class Files(Protocol):
    """Where the files are."""

    def listed(self) -> list[Listed]:
        """Return every file below the prefix."""

    def content(self, file: Listed) -> bytes | None:
        """Return what a file holds; None if it is another one by now."""

    def part(self, name: str, start: int, end: int) -> bytes | None:
        """Return the bytes of a file from ``start`` to ``end``, as far as it has them; None if it is gone."""


class Memory(Generic[One]):
    """What was read of each file, as one object of the lake; a batch's position names it.

    Attributes:
        files: What was read of each file, by its name.
        began: When the first file was about to be read.
        looked: No file that changed before this moment was unread when it was listed last; None while the
            files that were there at the beginning are still being read.
        now: When it was remembered, just before the files are listed again.
    """

    def __init__(
        self, name: str, before: str, files: dict[str, One], began: datetime, looked: datetime | None
    ) -> None:
        self.files = files
        self.began = began
        self.looked = looked
        self.now = datetime.now(UTC)
        self._name = name
        self._before = before

    @classmethod
    def of(cls, batch: journal.Batch | None, model: type[One]) -> Memory[One]:
        """Return what was known once ``batch`` was written; nothing before the first one.

        Raises:
            NoSuchObjectError: It was forgotten, for others have read on since.
        """
        if batch is None:
            return cls("", "", {}, datetime.now(UTC), None)
        position = json.loads(batch.position)
        held = json.loads(open_store().get(position["files"]))
        known = {name: model.model_validate(one) for name, one in held.items()}
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


class PrefixConnector(CapturedConnector, Generic[One]):
    """Captures what is new in files, batch by batch; a subclass says what that is.

    Attributes:
        options: Where the files are, and which of them each table is made of.
        remembers: What is remembered of a file that was read.
    """

    options: PrefixOptions
    remembers: type[One]

    def _capture(self, table: str) -> int:
        """Write to the journal what is new in the files; as ``capture``."""
        files = self._files()
        captured = 0
        newest = journal.last(self.usecase, self.source, table)
        while True:
            # First what was read, then what is there: what others read in between is no surprise.
            newest, memory = self._remembered(table, newest)
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
    def _next(self, files: Files, table: str, memory: Memory[One]) -> tuple[pa.Table, str] | None:
        """Return the next changes, and what was read for them, for people; None when there are none.

        Args:
            files: Where the files are.
            table: A table of the source.
            memory: What was read so far; it is brought up to date.

        Raises:
            DataError: Something cannot be read, and nothing else is left to read.
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

    def defect(self, table: str, name: str, message: str, *, rule: str, cure: str) -> DataError:
        """Return the error of a file."""
        return DataError(
            message,
            rule=rule,
            where=f"{self.usecase.name}/{self.source}/{table}: {self.options.prefix}{name}",
            cure=cure,
        )

    def _remembered(
        self, table: str, newest: journal.Batch | None
    ) -> tuple[journal.Batch | None, Memory[One]]:
        """Return the newest batch of the journal, which was ``newest`` a while ago, and its memory."""
        while True:
            try:
                return newest, Memory.of(newest, self.remembers)
            except NoSuchObjectError as error:
                asked, newest = newest, journal.last(self.usecase, self.source, table)
                if newest == asked:
                    raise DataError(
                        "what was read of each file is not known any more",
                        rule="the object that a batch of the journal names is kept",
                        where=f"{self.usecase.name}/{self.source}/{table}: {error}",
                        cure="bring the object back from a backup of the lake",
                    ) from error

    def _files(self) -> Files:
        if self.options.prefix.startswith("file:"):
            return Folder(Path(unquote(urlsplit(self.options.prefix).path)))
        from nightshift.sources.s3_files import S3Files

        return S3Files(self.options.prefix, self.options.profile)


class Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        """Prepare to list ``root``."""
        self._root = root

    def listed(self) -> list[Listed]:
        """Return every file below the folder."""
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
        """Return what a file holds; None if it is another one by now."""
        path = self._root / file.name
        with self._explained(path):
            content = path.read_bytes()
            return content if self._seen(path).mark == file.mark else None
        return None

    def part(self, name: str, start: int, end: int) -> bytes | None:
        """Return the bytes of a file from ``start`` to ``end``, as far as it has them; None if it is gone."""
        path = self._root / name
        with self._explained(path), path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
        return None

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Tell what can be mended from bad luck, and go on where the file is gone."""
        try:
            yield
        except FileNotFoundError:
            return
        except PermissionError as error:
            self._unreadable(error)
        except OSError as error:
            raise TransientError(f"{path} cannot be read: {error}") from error

    def _seen(self, path: Path) -> Listed:
        found = path.stat()
        name = path.relative_to(self._root).as_posix()
        changed_at = datetime.fromtimestamp(found.st_mtime, UTC)
        return Listed(name, f"{found.st_ino} {found.st_mtime_ns} {found.st_size}", changed_at, found.st_size)
