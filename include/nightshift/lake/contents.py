"""Reads partitions by what they held, whatever has been published since.

Delta keeps the files of replaced partitions for as long as retention says. A content (hash) can be read
from every version of a table that still has it and its files, whichever version that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from nightshift.lake import tables
from nightshift.lake.delta import HASH_COLUMN, data_files, open_table, table_folder
from nightshift.lake.store import open_store
from nightshift.partition import spans
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Located:
    """Where contents of a layer's partitions can be read.

    Attributes:
        versions: By partition, a version of the table that holds the content.
        gone: Partitions whose content no version holds any more.
    """

    versions: dict[date, int]
    gone: tuple[date, ...]


def locate(uc: UseCase, layer: str, wanted: Mapping[date, str], hint: int) -> Located:
    """Find where the contents (hashes) of partitions can be read; reads logs and listings, no data.

    Args:
        uc: The use case.
        layer: The layer.
        wanted: The content hash of each partition.
        hint: The version of the table that once held all of them: it is looked at second, after the newest.
    """
    delta = open_table(uc, layer)
    if delta is None:
        return Located({}, tuple(sorted(wanted)))
    folder = table_folder(uc, layer)
    there = {unquote(key) for key in open_store().list(f"{folder}/partition=")}
    newest, *older = _newest_first(delta)
    found: dict[date, int] = {}
    for version in dict.fromkeys([newest, *([hint] if hint in older else []), *older]):
        missing = {day: content for day, content in wanted.items() if day not in found}
        if not missing:
            break
        at = delta if version == newest else open_table(uc, layer, version)
        assert at is not None  # nosec B101  # its log was just read
        found |= dict.fromkeys(_readable(at, missing, folder, there), version)
    return Located(found, tuple(sorted(wanted.keys() - found.keys())))


def read(uc: UseCase, layer: str, located: Located) -> pa.Table:
    """Return the rows of all located partitions, by partition, then key.

    Raises:
        DataError: A file was removed since ``locate`` saw it.
    """
    stretches = sorted(
        (first, last, version)
        for version in set(located.versions.values())
        for first, last in spans(day for day, at in located.versions.items() if at == version)
    )
    return pa.concat_tables(
        [tables.read_partitions(uc, layer, first, last, at=version) for first, last, version in stretches],
        promote_options="default",
    )


def _newest_first(delta: DeltaTable) -> list[int]:
    return [commit["version"] for commit in delta.history()]


def _readable(delta: DeltaTable, wanted: Mapping[date, str], folder: str, there: set[str]) -> Iterator[date]:
    """Yield the partitions that have the wanted content in this version, and all of its files."""
    files: dict[date, list[str]] = {}
    for row in data_files(delta).to_pylist():
        day = row["partition"]
        if wanted.get(day) == row[HASH_COLUMN]:
            files.setdefault(day, []).append(f"{folder}/{unquote(row['path'])}")
    for day, paths in files.items():
        if there.issuperset(paths):
            yield day
