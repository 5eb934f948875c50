"""Documents under a prefix, in an S3 bucket or in a folder: their text, in pieces that can be searched.

A document is read when it is there for the first time, and again when it has changed: its pieces then take
the place of those before. A document that is gone takes its pieces with it. What nights saw before stays as
they saw it. Another version of a parser changes nothing of what was read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.canonical import arrow_schema
from nightshift.sources.chunking import spans
from nightshift.sources.files import (
    Encoding,
    FilesConnector,
    FilesOfTable,
    Known,
    WholeFilesOptions,
    few,
)
from nightshift.sources.options import checked
from nightshift.sources.parser_process import ParserProcess
from nightshift.sources.parsing import Document, UnreadableError, is_document, language_of, parsers
from nightshift.sources.prefix import Listed, Memory
from nightshift.usecase import ColumnType, Table, UseCase

log = logging.getLogger(__name__)

COLUMNS: dict[str, ColumnType] = {
    "document": "string",
    "chunk": "int64",
    "text": "string",
    "start_offset": "int64",
    "end_offset": "int64",
    "page": "int64",
    "title": "string",
    "language": "string",
    "media_type": "string",
    "characters": "int64",
    "document_sha256": "string",
    "chunk_sha256": "string",
    "source_version": "string",
}
"""The columns of every table of documents, and their types."""
KEY = ("document", "chunk")


class DocumentsTable(FilesOfTable):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    skip: tuple[str, ...] = Field(
        (), description="Names below the prefix that are passed over as if they were not there."
    )
    encoding: Encoding = Field(
        "utf-8", description="Of text, and of HTML that says none. Any encoding that Python knows."
    )
    chunk_characters: int = Field(2000, ge=100, le=20_000, description="Length of the longest piece.")
    overlap_characters: int = Field(
        200, ge=0, description="How much of a piece the next one says again, at most; at most half of it."
    )
    max_megabytes: float = Field(50, gt=0, description="Of a document, and of its text in characters.")
    max_seconds: float = Field(300, gt=0, description="How long it may take to read a document.")

    @model_validator(mode="after")
    def _overlaps_by_half(self) -> DocumentsTable:
        if self.overlap_characters > self.chunk_characters // 2:
            raise ValueError("overlap_characters is at most half of chunk_characters")
        if "{day}" in self.files:
            raise ValueError("a document is of no day, so files has no {day}")
        return self

    @property
    def max_bytes(self) -> float:
        """The size of the largest document that is read."""
        return self.max_megabytes * 1e6

    @property
    def how(self) -> str:
        """What reads the documents, and how they are cut."""
        return (
            f"read by {parsers()}; cut at {self.chunk_characters}, overlapping by {self.overlap_characters}"
        )


class DocumentsOptions(WholeFilesOptions):
    """``options`` of the source in ``sources.yml``."""

    tables: Mapping[str, DocumentsTable] = Field(description="Every table of the source.")
    batch_rows: int = Field(10_000, ge=1, description="Pieces held in memory, but for one document at least.")


class Documents(FilesConnector):
    """Yields the pieces of documents; see the module."""

    Options = DocumentsOptions
    options: DocumentsOptions
    retires = True

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options and the columns; nothing is listed yet.

        Raises:
            DataError: An option is wrong or missing, or a table is declared otherwise than it will be.
        """
        self.options = checked(usecase, source, DocumentsOptions)
        for name, table in usecase.sources[source].tables.items():
            _check(f"{usecase.name}/sources.yml: sources.{source}.tables.{name}", table)
        super().__init__(usecase, source, {})
        self._told: set[str] = set()
        self._parser = ParserProcess()

    def _capture(self, table: str) -> int:
        """Write to the journal what documents have come, changed or gone since; as ``capture``."""
        with self._parser:
            return super()._capture(table)

    def wanted(self, table: str, listed: Sequence[Listed]) -> list[Listed]:
        """Return the documents of a table; files that are none are told of, once."""
        skipped = self.options.tables[table].skip
        found = [file for file in super().wanted(table, listed) if file.name not in skipped]
        others = sorted(file.name for file in found if not is_document(file.name))
        if untold := [name for name in others if name not in self._told]:
            self._told.update(untold)
            log.warning("%s.%s: files that are no documents: %s", self.source, table, few(untold))
        return [file for file in found if is_document(file.name)]

    def changes_of_file(
        self, table: str, file: Listed, content: bytes, memory: Memory[Known]
    ) -> Iterator[pa.Table]:
        """Yield the pieces of a document, and remember it.

        Raises:
            DataError: The document cannot be read, or not as a whole.
        """
        digest = hashlib.sha256(content).hexdigest()
        before = memory.files.get(file.name)
        if before is None or before.sha256 != digest:
            rows = self._rows(table, file, digest, self._parsed(table, file, content))
            # What was not there when all was listed before was not known then, however old it is.
            late = memory.looked is not None and file.changed_at <= memory.looked
            since = memory.now if late else file.changed_at
            yield self.changes(
                table,
                rows,
                known_at=pa.chunked_array([pa.array([since] * rows.num_rows, journal.MOMENT)]),
                units=[file.name] * rows.num_rows,
            )
        memory.files[file.name] = Known(mark=file.mark, sha256=digest, days=(None,))

    def _parsed(self, table: str, file: Listed, content: bytes) -> Document:
        chosen = self.options.tables[table]
        try:
            document = self._parser.parse(
                file.name,
                content,
                encoding=chosen.encoding,
                most=chosen.max_bytes,
                seconds=chosen.max_seconds,
            )
        except UnreadableError as error:
            raise self.defect(
                table,
                file.name,
                str(error),
                rule="every document can be read, as a whole",
                cure="have it mended or taken away, or name it under `skip` in sources.yml",
            ) from error
        for remark in document.remarks[:3]:
            log.warning("%s.%s: %s: %s", self.source, table, file.name, remark)
        if not document.text.strip():
            log.warning("%s.%s: %s has no text", self.source, table, file.name)
        return document

    def _rows(self, table: str, file: Listed, digest: str, document: Document) -> pa.Table:
        chosen = self.options.tables[table]
        text = document.text if document.text.strip() else ""
        said: dict[str, Any] = {
            "document": file.name,
            "title": document.title,
            "language": language_of(text) if text else None,
            "media_type": document.media_type,
            "characters": len(text),
            "document_sha256": digest,
            "source_version": file.mark.strip('"'),
        }
        rows = [
            said
            | {
                "chunk": number,
                # A document without text is seen to be there.
                "text": text[start:end] or None,
                "start_offset": start,
                "end_offset": end,
                "page": document.page_at(start),
                "chunk_sha256": hashlib.sha256(text[start:end].encode()).hexdigest() if text else None,
            }
            for number, (start, end) in enumerate(
                spans(text, chosen.chunk_characters, chosen.overlap_characters)
            )
        ]
        return pa.Table.from_pylist(rows, schema=arrow_schema(self.declared(table)))


def _check(where: str, table: Table) -> None:
    """Refuse a table that is declared otherwise than documents are.

    Raises:
        DataError: It is daily, or has another key or other columns.
    """
    declared = {name: column.type for name, column in table.columns.items()}
    if table.refresh != "slow":
        raise DataError(
            "a document is of no day",
            rule="a table of documents is `refresh: slow`: each night has all that are there by then",
            where=f"{where}.refresh",
            cure="declare it `refresh: slow`",
        )
    problems = [
        f"column {name!r} is missing, of type {COLUMNS[name]}" for name in COLUMNS if name not in declared
    ]
    problems += [f"there is no column {name!r}" for name in declared if name not in COLUMNS]
    problems += [
        f"column {name!r} is {COLUMNS[name]}, not {given}"
        for name, given in declared.items()
        if COLUMNS.get(name, given) != given
    ]
    if table.key != KEY:
        problems.append(f"the key is {', '.join(KEY)}, not {', '.join(table.key)}")
    if problems:
        raise DataError(
            "; ".join(problems),
            rule="a table of documents has exactly the columns of its kind, in their types",
            where=f"{where}.columns",
            cure="declare exactly these; docs/sources.md has them to copy",
        )
