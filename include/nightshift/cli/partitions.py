"""Which partition exists in which layer, at which version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from nightshift.lake import raw, tables
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Row:
    """One partition of one layer. ``version`` is the manifest's for raw, the Delta table's for the rest."""

    layer: str
    partition: date
    version: int
    rows: int
    content_hash: str


def list_partitions(uc: UseCase, layer: str | None, start: date, end: date) -> Iterator[Row]:
    """Yield what exists from ``start`` to ``end``, layer by layer, oldest first; one layer when named."""
    for source, table, _ in uc.tables():
        name = f"raw/{source}/{table}"
        if layer in (None, "raw", name):
            for day, manifest in raw.current_many(uc, source, table, start, end).items():
                yield Row(name, day, manifest.version, manifest.rows_accepted, manifest.content_hash)
    for name in tables.layers(uc) if layer is None else (layer,):
        if not name.startswith("raw"):
            for day, version in tables.partition_versions(uc, name).items():
                if start <= day <= end:
                    yield Row(name, day, version.table_version, version.rows, version.content_hash)
