"""Files under a prefix, in an S3 bucket or in a folder: CSV, JSON lines or Parquet, found by listing.

A file is read when it is there for the first time, and again when it has changed: what it says then takes the
place of what it said before. A file that is gone upstream takes nothing with it. What is still being written
is left for the next night.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.lake.store import open_store
from nightshift.sources.captured import CapturedConnector
from nightshift.sources.options import checked
from nightshift.usecase import ColumnName, ColumnType, UseCase

# Of a listing: markers and what programs call a file that they have not finished.
_UNFINISHED = re.compile(r"(^|/)[._]|\.(tmp|temp|part|partial|crdownload|filepart|inprogress)$|/$")
_READERS = 8
_JSON_TYPES: dict[ColumnType, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
}


class CsvDialect(BaseModel):
    """How the CSV files of a table are written. They begin with the names of their columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str = Field("utf-8", description="Any encoding that Python knows.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Between the values of a line.")
    quote: str | None = Field('"', max_length=1, description="Around a value that holds a delimiter.")
    escape: str | None = Field(
        None, max_length=1, description="Before a quote within quotes, if not a quote."
    )
    newlines_in_values: bool = Field(False, description="Whether a value in quotes may hold a line break.")
    null_values: tuple[str, ...] = Field(("",), description="What stands for null, unless it is quoted.")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(f"there is no encoding {value!r}") from error
        return value


class FilesTable(BaseModel):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str = Field(
        min_length=1,
        description="Which files, below the prefix: `*` is any name, `**` any folders, `{day}` a day as "
        "2013-07-01 or 20130701.",
    )
    format: Literal["csv", "jsonl", "parquet"] = Field(description="May be packed by gzip, as *.gz.")
    day: ColumnName | None = Field(
        None, description="Column of the day a row is of; none if `files` has {day}, or the table is slow."
    )
    csv: CsvDialect = CsvDialect()
    ignore: tuple[str, ...] = Field((), description="Columns of the files that the catalogue leaves out.")
    known: Literal["upload", "night"] = Field(
        "upload",
        description="Since when a row counts as known: since its file was there; or, for an archive that was "
        "uploaded later, since the table's `available_at`, or else the night that would have read it.",
    )
    settle_seconds: float = Field(
        60,
        ge=0,
        description="In a folder: a file that changed less than this ago is left for the next night.",
    )

    @model_validator(mode="after")
    def _has_one_day(self) -> FilesTable:
        if self.day and "{day}" in self.files:
            raise ValueError("files has {day}, so `day` names no column")
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


class FilesOptions(BaseModel):
    """``options`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(description="`s3://bucket/folder/` or `file:///folder/`.")
    profile: str | None = Field(
        None, description="Profile of ~/.aws with other credentials or another endpoint than the lake's."
    )
    tables: dict[str, FilesTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(200_000, ge=1, description="Rows held in memory, but for one file at least.")

    @model_validator(mode="after")
    def _has_a_scheme(self) -> FilesOptions:
        parts = urlsplit(self.prefix)
        if not (
            self.prefix.endswith("/") and (parts.scheme == "file" or (parts.scheme == "s3" and parts.netloc))
        ):
            raise ValueError("prefix is s3://bucket/folder/ or file:///folder/, with a slash at its end")
        return self


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it: ``mark`` differs once its content does."""

    name: str
    mark: str
    changed_at: datetime


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


class ObjectStore(CapturedConnector):
    """Yields tables of files; see the module."""

    Options = FilesOptions

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is listed yet.

        Raises:
            DataError: An option is wrong or missing.
        """
        self.options = checked(usecase, source, FilesOptions)
        chosen = self.options.tables
        super().__init__(
            usecase, source, {name: one.day for name, one in chosen.items() if "{day}" not in one.files}
        )

    def _capture(self, table: str) -> int:
        """Write what the files of a table say that the journal has not; return how many changes.

        Raises:
            DataError: A file cannot be read, or its columns differ from the catalogue's. What was read before
                it is written.
            TransientError: The store or the lake cannot be reached now.
        """
        files = self._files()
        captured = 0
        newest = journal.last(self.usecase, self.source, table)
        while True:
            memory = _Memory.of(newest)
            found = self._next(files, table, memory)
            if found is None:
                return captured
            changes, names = found
            after = newest.number if newest else 0
            written = journal.append(
                self.usecase,
                self.source,
                table,
                after,
                changes,
                position=memory.kept(self.usecase, self.source, table, after),
                query=f"{self.options.prefix}: {_few(names)}",
            )
            if written:
                captured += written.rows
                memory.forget_older()
            newest = written or journal.last(self.usecase, self.source, table)

    def _files(self) -> Files:
        if self.options.prefix.startswith("file:"):
            return _Folder(Path(unquote(urlsplit(self.options.prefix).path)))
        from nightshift.sources.s3_files import S3Files

        return S3Files(self.options.prefix, self.options.profile)

    def _next(self, files: Files, table: str, memory: _Memory) -> tuple[pa.Table, list[str]] | None:
        """Return the changes of the next files that are new or have changed; None when there are none."""
        parts = [journal.schema(self.usecase, self.source, table).empty_table()]
        names: list[str] = []
        whole = self._is_snapshot(table)
        new = self._new(files, table, memory)
        size = 1 if whole else _READERS
        for some in (new[first : first + size] for first in range(0, len(new), size)):
            with ThreadPoolExecutor(_READERS) as readers:
                contents = list(readers.map(files.content, some))
            for file, content in zip(some, contents, strict=True):
                if content is None:
                    continue  # changed since it was listed: it is for the next time
                try:
                    parts += self._changes_of(table, file, content, memory)
                except DataError:
                    if not names:
                        raise
                    return pa.concat_tables(parts), names  # and next time the error
                names.append(file.name)
            if names and (whole or sum(part.num_rows for part in parts) >= self.options.batch_rows):
                break
        return (pa.concat_tables(parts), names) if names else None

    def _new(self, files: Files, table: str, memory: _Memory) -> list[Listed]:
        """Return the files of a table that were not read as they are now, in the order to read them in."""
        chosen = self.options.tables[table]
        in_folder = isinstance(files, _Folder)
        settled = time.time() - (chosen.settle_seconds if in_folder else 0)
        found = [
            file
            for file in files.listed()
            if chosen.pattern.fullmatch(file.name)
            and not _UNFINISHED.search(file.name)
            and memory.mark(file.name) != file.mark
            and file.changed_at.timestamp() <= settled
        ]
        if self._is_snapshot(table):
            return sorted(
                found, key=lambda file: (str(self._day(table, file.name)), file.changed_at, file.name)
            )
        return sorted(found, key=lambda file: (file.changed_at, file.name))

    def _is_snapshot(self, table: str) -> bool:
        """Tell whether each file is the whole table as it was on its day."""
        return self.declared(table).refresh == "slow" and "{day}" in self.options.tables[table].files

    def _day(self, table: str, name: str) -> date | None:
        found = self.options.tables[table].pattern.fullmatch(name)
        if found is None or "day" not in found.groupdict():
            return None
        try:
            return date.fromisoformat(found["day"])
        except ValueError as error:
            raise self._defect(table, name, f"{found['day']!r} is no day of the calendar") from error

    def _changes_of(self, table: str, file: Listed, content: bytes, memory: _Memory) -> Iterator[pa.Table]:
        """Yield the changes that a file makes, and remember it."""
        digest = hashlib.sha256(content).hexdigest()
        before = memory.files.get(file.name)
        if before is not None and before.sha256 == digest:
            memory.files[file.name] = before.model_copy(update={"mark": file.mark})
            return
        snapshot = self._is_snapshot(table)
        day, of_file = (
            (None, self._day(table, file.name)) if snapshot else (self._day(table, file.name), None)
        )
        if snapshot and any(str(of_file) < str(self._day(table, one)) for one in memory.files):
            # A dump of an earlier day says nothing of how the table is.
            memory.files[file.name] = Known(mark=file.mark, sha256=digest, days=())
            return
        rows = self._parsed(table, file, content)
        # An archive: what was there when the journal began. What comes or changes later is known since then.
        archived = (
            self.options.tables[table].known == "night" and before is None and file.changed_at < memory.began
        )
        since = file.changed_at
        if archived and of_file is not None:
            lag = timedelta(days=self.declared(table).lag_days)
            since = min(since, self.usecase.as_of(of_file + lag))
        try:
            changes = self.changes(
                table,
                rows,
                known_at=pa.chunked_array([pa.array([since] * rows.num_rows, journal.MOMENT)]),
                units=["" if snapshot else file.name] * rows.num_rows,
                day=day,
                copied=archived and not snapshot,
            )
        except DataError as error:
            raise self._defect(table, file.name, error.message) from error
        days = set(changes[journal.DAY].unique().to_pylist())
        held: set[date | None] = set(before.days) if before else set()
        if snapshot:
            held = {None}
        yield from (self._ended(table, "" if snapshot else file.name, one, since) for one in held - days)
        yield changes
        memory.files[file.name] = Known(mark=file.mark, sha256=digest, days=tuple(sorted(days, key=str)))

    def _ended(self, table: str, unit: str, day: date | None, at: datetime) -> pa.Table:
        """Return the change that a file has nothing of a day any more."""
        said = {journal.KIND: journal.DELETE, journal.KNOWN_AT: at, journal.DAY: day, journal.UNIT: unit}
        wanted = journal.schema(self.usecase, self.source, table)
        return pa.Table.from_pylist([{field.name: said.get(field.name) for field in wanted}], schema=wanted)

    def _parsed(self, table: str, file: Listed, content: bytes) -> pa.Table:
        chosen, declared = self.options.tables[table], self.declared(table).columns
        try:
            data = gzip.decompress(content) if file.name.endswith(".gz") else content
            if chosen.format == "parquet":
                rows = pq.read_table(pa.BufferReader(data))
            elif chosen.format == "jsonl":
                fields = {
                    name: _JSON_TYPES.get(column.type, pa.string()) for name, column in declared.items()
                }
                options = pa_json.ParseOptions(explicit_schema=pa.schema(fields.items()))
                empty = pa.schema(fields.items()).empty_table()
                rows = (
                    pa_json.read_json(pa.BufferReader(data), parse_options=options) if data.strip() else empty
                )
            else:
                rows = self.from_text(table, _csv(data, chosen.csv, list(declared)))
        except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
            raise self._defect(
                table, file.name, f"it is no {chosen.format} file, or not a whole one: {error}"
            ) from error
        return rows.drop_columns([name for name in chosen.ignore if name in rows.column_names])

    def _defect(self, table: str, name: str, message: str) -> DataError:
        return DataError(
            message,
            rule="every file of a table is of its format, and has the columns of the catalogue",
            where=f"{self.usecase.name}/{self.source}/{table}: {self.options.prefix}{name}",
            cure="have the file mended or taken away, or correct `files` in sources.yml; files after it wait",
        )


class _Memory:
    """Which files were read, as one object of the lake; a batch's position is its name."""

    def __init__(self, name: str, before: str, files: dict[str, Known], began: datetime) -> None:
        self.files = files
        self.began = began
        self._name = name
        self._before = before

    @classmethod
    def of(cls, batch: journal.Batch | None) -> _Memory:
        if batch is None:
            return cls("", "", {}, datetime.now(UTC))
        position = json.loads(batch.position)
        held = json.loads(open_store().get(position["files"]))
        known = {name: Known.model_validate(one) for name, one in held.items()}
        return cls(position["files"], position["before"], known, datetime.fromisoformat(position["began"]))

    def mark(self, name: str) -> str | None:
        known = self.files.get(name)
        return known.mark if known else None

    def kept(self, uc: UseCase, source: str, table: str, after: int) -> str:
        """Write the memory to the lake, for the batch that follows ``after``; return its position."""
        content = json.dumps(
            {name: one.model_dump(mode="json") for name, one in sorted(self.files.items())}
        ).encode()
        # With its number, for a file that changes back leaves the same memory as before.
        key = f"seen/{uc.name}/{source}/{table}/{after + 1:09d}-{hashlib.sha256(content).hexdigest()}.json"
        open_store().put(key, content)
        return json.dumps({"files": key, "before": self._name, "began": self.began.isoformat()})

    def forget_older(self) -> None:
        """Remove what no batch but an older one than the last two names."""
        if self._before:
            open_store().delete(self._before)


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
        return Listed(name, f"{found.st_ino} {found.st_mtime_ns} {found.st_size}", changed_at)


def _csv(data: bytes, dialect: CsvDialect, columns: Sequence[str]) -> pa.Table:
    """Return a CSV file, these columns as text."""
    if data and not data.endswith(b"\n"):
        data += "\n".encode(dialect.encoding)  # Arrow takes a header without a line break for none
    rows = pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(encoding=dialect.encoding),
        parse_options=pa_csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            double_quote=dialect.escape is None,
            escape_char=dialect.escape or False,
            newlines_in_values=dialect.newlines_in_values,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=list(dialect.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    # A quote that is not closed swallows the lines after it.
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if not dialect.newlines_in_values and pa.types.is_string(column.type):
            broken = pc.match_substring(column, "\n")
            if pc.any(broken).as_py():
                raise ValueError(f"a value of {name!r} has a line break: is a quote not closed?")
    return rows


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
