"""Which partition exists in which layer, at which version; what it was before, and having that again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime

from nightshift.errors import DataError, TransientError
from nightshift.lake import audit, raw, tables
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Row:
    """One partition of one layer.

    ``version`` is the manifest's for raw; for the rest the version of the Delta table that last wrote it.
    """

    layer: str
    partition: date
    version: int
    rows: int
    content_hash: str


def list_partitions(uc: UseCase, layer: str | None, start: date, end: date) -> Iterator[Row]:
    """Yield what exists from ``start`` to ``end``, layer by layer, oldest first; one layer when named.

    Raises:
        DataError: There is no such raw table.
    """
    if layer is not None and layer.startswith("raw/"):
        _raw_table(uc, layer)
    for source, table, _ in uc.tables():
        name = f"raw/{source}/{table}"
        if layer in (None, "raw", name):
            for day, manifest in raw.current_many(uc, source, table, start, end).items():
                yield Row(name, day, manifest.version, manifest.rows_accepted, manifest.content_hash)
    for name in tables.layers(uc) if layer is None else (layer,):
        if not name.startswith("raw"):
            written = tables.last_written(uc, name)
            for day, version in tables.partition_versions(uc, name).items():
                if start <= day <= end:
                    yield Row(name, day, written[day], version.rows, version.content_hash)


@dataclass(frozen=True)
class Version:
    """One content that a partition has had since some moment (UTC)."""

    version: int
    since: datetime
    rows: int
    content_hash: str
    current: bool


def list_versions(uc: UseCase, layer: str, partition: date) -> list[Version]:
    """Return every content of one partition, in the order it was landed or published.

    Raises:
        DataError: There is no such raw table or layer, or the partition has no version.
    """
    if layer.startswith("raw"):
        source, table = _raw_table(uc, layer)
        standing = raw.current(uc, source, table, partition)
        found = [
            Version(m.version, m.extracted_at.astimezone(UTC), m.rows_accepted, m.content_hash, m == standing)
            for m in raw.versions(uc, source, table, partition)
        ]
    else:
        known = tables.history(uc, layer, partition)
        found = [
            Version(v.table_version, v.published_at, v.rows, v.content_hash, v is known[-1]) for v in known
        ]
    if not found:
        raise DataError(
            f"{layer} {partition} has no version",
            rule="versions are of what was landed or published, and is kept",
            where=f"{uc.name}, {layer}, partition {partition}",
            cure=f"`nightshift partitions --layer {layer}` lists what is there",
        )
    return found


def restore_version(
    uc: UseCase, layer: str, partition: date, version: int, *, reason: str = "", by: str
) -> str:
    """Publish again what a partition of a table held at a version; return in words what it holds now.

    Raises:
        DataError: The layer is raw, or there is no such version any more.
    """
    if layer.startswith("raw"):
        raise DataError(
            "raw partitions are not rolled back",
            rule="raw is what a source said; a correction is a new version of it",
            where=f"{uc.name}, {layer}, partition {partition}",
            cure="ingest the partition again from the source as it should be",
        )
    if partition not in tables.partition_versions(uc, layer, version):
        raise DataError(
            f"{layer} {partition} was not there at version {version}",
            rule="a partition is rolled back to a content that it has had",
            where=f"{uc.name}, {layer}, partition {partition}",
            cure=f"`nightshift versions {layer} {partition}` lists them",
        )
    wanted = tables.partition_versions(uc, layer, version)[partition]
    standing = tables.partition_versions(uc, layer).get(partition)
    before = standing.content_hash if standing else ""
    with (
        nullcontext()
        if before == wanted.content_hash
        else audit.recorded(
            "restore",
            usecase=uc.name,
            subject=f"{layer} {partition}",
            who=by,
            why=reason,
            details={"version": version, "content_hash": wanted.content_hash, "instead_of": before},
            identity=[version, before],
        )
    ):
        now = tables.restore_partition(uc, layer, partition, version)
    assert now is not None  # nosec B101  # it was there
    return (
        f"{layer} {partition} holds what it held at version {version}: {now.rows} rows, "
        f"{now.content_hash[:12]}\n"
        f"{_serve(uc, partition) if layer == 'predictions' else ''}"
        "What was made from it since is stale now, and so may it be: see `nightshift stale`."
    )


def _serve(uc: UseCase, partition: date) -> str:
    """Serve what was restored, if the database answers; say whether applications read it."""
    from nightshift.databases import url
    from nightshift.inference.serving import serve

    try:
        serve(uc, partition, url("serving"))
    except TransientError as error:
        return (
            f"Applications do not read it yet: {error}\n"
            f"`{uc.name}.watch` serves it, within an hour of the database being there again.\n"
        )
    return "Applications read it.\n"


def _raw_table(uc: UseCase, layer: str) -> tuple[str, str]:
    known = {f"raw/{source}/{table}": (source, table) for source, table, _ in uc.tables()}
    if layer not in known:
        raise DataError(
            f"there is no layer {layer!r}",
            rule=f"raw layers are {', '.join(known)}",
            where=f"{uc.name}, layer {layer}",
            cure="use one of these",
        )
    return known[layer]
