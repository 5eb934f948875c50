"""Files under a prefix, in an S3 bucket or in a folder: CSV, JSON lines or Parquet, found by listing.

A file is read when it is there for the first time, and again when it has changed: what it says then takes the
place of what it said before. A file that is gone upstream takes nothing with it. What is still being written
is left for the next night.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.protection import HIDDEN_TEXT
from nightshift.sources import json_lines
from nightshift.sources.files import Encoding, FilesConnector, FilesOfTable, Known, WholeFilesOptions
from nightshift.sources.options import checked
from nightshift.sources.prefix import Listed, Memory
from nightshift.usecase import ColumnName, UseCase


class CsvDialect(BaseModel):
    """How the CSV files of a table are written. They begin with the names of their columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: Encoding = Field("utf-8", description="Any encoding that Python knows.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Between the values of a line.")
    quote: str | None = Field('"', max_length=1, description="Around a value that holds a delimiter.")
    escape: str | None = Field(
        None, max_length=1, description="Before a quote within quotes, if not a quote."
    )
    newlines_in_values: bool = Field(False, description="Whether a value in quotes may hold a line break.")
    null_values: tuple[str, ...] = Field(("",), description="What stands for null, unless it is quoted.")


class FilesTable(FilesOfTable):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

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

    @model_validator(mode="after")
    def _has_one_day(self) -> FilesTable:
        if self.day and "{day}" in self.files:
            raise ValueError("files has {day}, so `day` names no column")
        return self


class FilesOptions(WholeFilesOptions):
    """``options`` of the source in ``sources.yml``."""

    tables: Mapping[str, FilesTable] = Field(description="Every table of the source.")


class ObjectStore(FilesConnector):
    """Yields tables of files; see the module."""

    Options = FilesOptions
    options: FilesOptions

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

    def changes_of_file(
        self, table: str, file: Listed, content: bytes, memory: Memory[Known]
    ) -> Iterator[pa.Table]:
        """Yield the changes that a file makes, and remember it.

        Raises:
            DataError: The file cannot be read, or its columns differ from the catalogue's.
        """
        digest = hashlib.sha256(content).hexdigest()
        before = memory.files.get(file.name)
        if before is not None and before.sha256 == digest:
            memory.files[file.name] = before.model_copy(update={"mark": file.mark})
            return
        snapshot = self.is_dump(table)
        day, of_file = (
            (None, self.day_of(table, file.name)) if snapshot else (self.day_of(table, file.name), None)
        )
        if snapshot and any(str(of_file) < str(self.day_of(table, one)) for one in memory.files):
            # A dump of an earlier day says nothing of how the table is.
            memory.files[file.name] = Known(mark=file.mark, sha256=digest, days=())
            return
        rows = self._parsed(table, file, content)
        # An archive: what was there when the journal began, also if it had to be mended before it could be
        # read. What comes or changes later is known since then.
        at_first = memory.looked is None or file.changed_at < memory.began
        archived = self.options.tables[table].known == "night" and before is None and at_first
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
        yield from (self.ended(table, "" if snapshot else file.name, one, since) for one in held - days)
        yield changes
        memory.files[file.name] = Known(mark=file.mark, sha256=digest, days=tuple(sorted(days, key=str)))

    def _parsed(self, table: str, file: Listed, content: bytes) -> pa.Table:
        chosen, declared = self.options.tables[table], self.declared(table).columns
        try:
            data = gzip.decompress(content) if file.name.endswith(".gz") else content
            if chosen.format == "parquet":
                rows = pq.read_table(pa.BufferReader(data))
            elif chosen.format == "jsonl":
                return json_lines.parse(data.split(b"\n"), declared, chosen.ignore)
            else:
                rows = self.from_text(table, _csv(data, chosen.csv, list(declared)))
        except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
            # A parser repeats the line that it does not understand.
            why, cause = (HIDDEN_TEXT, None) if self.hides(table) else (error, error)
            raise self._defect(
                table, file.name, f"it is no {chosen.format} file, or not a whole one: {why}"
            ) from cause
        return rows.drop_columns([name for name in chosen.ignore if name in rows.column_names])

    def _defect(self, table: str, name: str, message: str) -> DataError:
        return self.defect(
            table,
            name,
            message,
            rule="every file of a table is of its format, and has the columns of the catalogue",
            cure="have the file mended or taken away, or correct `files` in sources.yml",
        )


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
