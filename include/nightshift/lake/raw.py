"""Raw partitions: what a source said, kept unchanged, with a manifest for every version of it.

``raw/<use case>/<source>/<table>/partition=<day>/`` holds objects named by their content hash and manifests
``v<version>.json``. The object is written first and the manifest, which makes it count, last; a writer killed
in between leaves nothing that a reader sees. A correction is a new object and a new manifest. The *current*
version is the one extracted as of the latest moment, so landing an older night late never hides a newer one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.errors import DataError
from nightshift.lake.canonical import canonical
from nightshift.lake.hashing import content_hash
from nightshift.lake.objects import object_key, read_object, write_object
from nightshift.lake.store import NoSuchObjectError, get_many, open_store
from nightshift.partition import parse_partition
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)


class RawManifest(BaseModel):
    """What was landed, from where, as of when, and what became of the rows.

    ``quarantine_hash`` is that of the rows put aside, None when there are none. ``fixed`` names rows that a
    person fixed: by the id of what was landed or put aside, the id of what the source gave, one a row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    source: str
    table: str
    partition: date
    version: int
    as_of: AwareDatetime
    extracted_at: AwareDatetime
    query: str
    content_hash: str
    rows_in: int
    rows_accepted: int
    rows_quarantined: int
    quarantine_hash: str | None = None
    fixed: dict[str, list[str]] = Field(default_factory=dict)
    key_columns: tuple[str, ...]
    columns: dict[str, str]
    catalogue_hash: str
    object_key: str


def land(
    uc: UseCase,
    source: str,
    table: str,
    partition: date,
    accepted: pa.Table,
    *,
    rows_in: int,
    rows_quarantined: int,
    as_of: datetime,
    query: str,
    quarantine_hash: str | None = None,
    fixed: Mapping[str, list[str]] | None = None,
) -> RawManifest:
    """Keep one extracted partition and return the manifest that now stands for it.

    Nothing is written when the content is that of the current version, or of the version that was in force
    at ``as_of``. Landing as of an earlier moment than the current version is recorded without becoming
    current. Several processes may land at once; each content gets one version.

    Args:
        uc: The use case.
        source: Source in its catalogue.
        table: Table of that source; its key identifies rows for the content hash.
        partition: The day.
        accepted: Rows that passed validation.
        rows_in: Rows the source gave.
        rows_quarantined: Rows that validation put aside.
        as_of: Moment (with a time zone) at which the source was asked to look.
        query: What was asked of the source, for people.
        quarantine_hash: Content hash of the rows put aside.
        fixed: Which rows a person fixed; see ``RawManifest``.

    Raises:
        DataError: Rows in are not rows accepted + quarantined, or ``as_of`` has no time zone.
    """
    _check(uc, source, table, partition, accepted.num_rows, rows_in, rows_quarantined, as_of)
    catalogue = uc.sources[source].tables[table]
    data = canonical(accepted)
    digest = content_hash(data, catalogue.key, exact=True)
    declared = catalogue.columns
    encrypted = [name for name in data.column_names if name in declared and declared[name].encrypt]
    folder = _folder(uc, source, table, partition)
    while True:
        known = versions(uc, source, table, partition)
        outcome = (digest, rows_quarantined, quarantine_hash, dict(fixed or {}))
        standing = _same_outcome(known, outcome, as_of)
        # The object is written even if its manifest stands: that mends a lake that lost the object.
        write_object(folder, data, digest, encrypted)
        if standing:
            return standing
        manifest = RawManifest(
            usecase=uc.name,
            source=source,
            table=table,
            partition=partition,
            version=known[-1].version + 1 if known else 1,
            as_of=as_of.astimezone(UTC),
            extracted_at=datetime.now(UTC),
            query=query,
            content_hash=digest,
            rows_in=rows_in,
            rows_accepted=data.num_rows,
            rows_quarantined=rows_quarantined,
            quarantine_hash=quarantine_hash,
            fixed=dict(fixed or {}),
            key_columns=catalogue.key,
            columns={field.name: str(field.type) for field in data.schema},
            catalogue_hash=hashlib.sha256(catalogue.model_dump_json().encode()).hexdigest(),
            object_key=object_key(folder, digest),
        )
        content = manifest.model_dump_json(indent=1).encode()
        if open_store().put_new(f"{folder}/v{manifest.version}.json", content):
            standing = max((*known, manifest), key=_rank)
            if standing != manifest:
                log.warning("%s.%s of %s: %s", source, table, partition, _recorded_only(manifest, standing))
            # Left by a killed writer, it may have been swept since it was found; from here on it is not.
            write_object(folder, data, digest, encrypted)
            return manifest


def check_conserved(rows_in: int, accepted: int, quarantined: int, where: str) -> None:
    """Raise unless every row that came in went somewhere, once.

    Raises:
        DataError: The sum does not hold.
    """
    if rows_in != accepted + quarantined:
        raise DataError(
            f"{rows_in} rows came in, but {accepted} accepted + {quarantined} quarantined make "
            f"{accepted + quarantined}",
            rule="rows in = rows accepted + rows quarantined",
            where=where,
            cure="this is a fault of the code, not of the data: report it with the partition it happened on",
        )


def current(uc: UseCase, source: str, table: str, partition: date) -> RawManifest | None:
    """Return the version of a partition that counts: the greatest (as_of, version); None if never landed."""
    return newest(versions(uc, source, table, partition))


def current_many(
    uc: UseCase, source: str, table: str, start: date | None = None, end: date | None = None
) -> dict[date, RawManifest]:
    """Return the current version of every landed partition from ``start`` to ``end``, oldest first."""
    keys = _manifest_keys(uc, source, table, start, end)
    manifests = _read_manifests(name for names in keys.values() for name in names)
    by_day: dict[date, list[RawManifest]] = {}
    for manifest in manifests:
        by_day.setdefault(manifest.partition, []).append(manifest)
    return {day: max(by_day[day], key=_rank) for day in sorted(by_day)}


def versions(uc: UseCase, source: str, table: str, partition: date) -> list[RawManifest]:
    """Return every version of a partition in the order of landing; none if it was never landed."""
    keys = [
        key for key in open_store().list(f"{_folder(uc, source, table, partition)}/v") if _is_manifest(key)
    ]
    return sorted(_read_manifests(keys), key=lambda manifest: manifest.version)


def read_manifests(
    uc: UseCase, source: str, table: str, versions: Mapping[date, int]
) -> dict[date, RawManifest]:
    """Return the manifests of these versions by partition, without those that retention has removed."""
    if not versions:
        return {}
    there = _manifest_keys(uc, source, table, min(versions), max(versions))
    wanted = [manifest_key(uc, source, table, day, version) for day, version in versions.items()]
    known = {key for keys in there.values() for key in keys}
    return {one.partition: one for one in _read_manifests(key for key in wanted if key in known)}


def stored(uc: UseCase, source: str, table: str, start: date, end: date) -> set[str]:
    """Return the keys of all objects and manifests of a table's partitions from ``start`` to ``end``."""
    first, last = f"partition={start}", f"partition={end}"
    return set(open_store().list_between(f"raw/{uc.name}/{source}/{table}/", first, last))


def manifest_key(uc: UseCase, source: str, table: str, partition: date, version: int) -> str:
    """Return the key under which the manifest of a version lies."""
    return f"{_folder(uc, source, table, partition)}/v{version}.json"


def newest_snapshot(uc: UseCase, source: str, table: str, on_or_before: date) -> RawManifest | None:
    """Return the current version of the latest partition up to a day: what a slow table said that day."""
    days = _manifest_keys(uc, source, table, end=on_or_before)
    return current(uc, source, table, max(days)) if days else None


def partitions(uc: UseCase, source: str, table: str) -> list[date]:
    """Return the partitions for which something lies in the lake, oldest first. Looks at no manifest.

    A writer that was killed may have left an object that counts for nothing.
    """
    names = open_store().folders(f"raw/{uc.name}/{source}/{table}/")
    return [parse_partition(name.removeprefix("partition=")) for name in names]


def newest_partition(uc: UseCase, source: str, table: str) -> date | None:
    """Return the latest partition that has landed; None when none has."""
    there = reversed(partitions(uc, source, table))
    return next((day for day in there if current(uc, source, table, day) is not None), None)


def read(manifest: RawManifest) -> pa.Table:
    """Return the accepted rows of one version, checked against its content hash.

    Raises:
        DataError: The object is gone, changed or damaged.
    """
    try:
        return read_object(manifest.object_key, manifest.content_hash, manifest.key_columns, exact=True)
    except NoSuchObjectError as error:
        raise DataError(
            f"the object of {manifest.table} {manifest.partition} version {manifest.version} is gone",
            rule="every manifest has its object",
            where=open_store().uri(manifest.object_key),
            cure="ingest the partition again: landing the same rows restores the object",
        ) from error


def read_content(uc: UseCase, source: str, table: str, partition: date, content_hash: str) -> pa.Table | None:
    """Return the rows of the version with this content; None when it was not kept.

    Raises:
        DataError: The object was changed or damaged.
    """
    for manifest in versions(uc, source, table, partition):
        if manifest.content_hash == content_hash:
            try:
                return read_object(manifest.object_key, content_hash, manifest.key_columns, exact=True)
            except NoSuchObjectError:
                return None
    return None


def expire(uc: UseCase, before: date) -> int:
    """Remove raw partitions earlier than ``before``; return the number of objects and manifests."""
    store, old = open_store(), expired(uc, before)
    # Manifests go first: a reader must never find one whose object is gone.
    for key in sorted(old, key=lambda key: not _is_manifest(key)):
        store.delete(key)
    return len(old)


def expired(uc: UseCase, before: date) -> list[str]:
    """Return the keys of raw partitions earlier than ``before``.

    A table with ``raw_days`` of its own has its own limit, earlier or later by the difference. Of a slow
    table the newest of them stays: it is the snapshot still in force.
    """
    store = open_store()
    limits = {
        (source, table): before + timedelta(days=uc.retention.raw_days - uc.raw_days(declared))
        for source, table, declared in uc.tables()
    }
    in_force = {
        _folder(uc, source, table, snapshot.partition)
        for source, table, declared in uc.tables()
        if declared.refresh == "slow"
        and (snapshot := newest_snapshot(uc, source, table, limits[source, table]))
    }
    return [
        key
        for key in store.list(f"raw/{uc.name}/")
        if _day_of(key) < limits.get(_table_of(key), before) and key.rpartition("/")[0] not in in_force
    ]


def sweep_orphans(uc: UseCase, older_than_days: int = 1) -> int:
    """Remove objects without a manifest, left by killed writers; return how many.

    Younger ones are spared, since their writers may be about to add the manifest.
    """
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    found = store.modified(f"raw/{uc.name}/")
    named = {manifest.object_key for manifest in _read_manifests(filter(_is_manifest, found))}
    orphans = [
        key for key, when in found.items() if not _is_manifest(key) and key not in named and when < limit
    ]
    removed = 0
    for key in orphans:
        folder = key.rpartition("/")[0]
        # Its writer may come back at any moment, and rely on what it finds.
        if key in _named(folder):
            continue
        content = store.get(key)
        store.delete(key)
        if key in _named(folder):
            store.put(key, content)
        else:
            removed += 1
    return removed


def _check(
    uc: UseCase,
    source: str,
    table: str,
    partition: date,
    accepted: int,
    rows_in: int,
    quarantined: int,
    as_of: datetime,
) -> None:
    where = f"{uc.name}, raw {source}.{table}, partition {partition}"
    check_conserved(rows_in, accepted, quarantined, where)
    if as_of.tzinfo is None:
        raise DataError(
            f"as_of {as_of} has no time zone",
            rule="moments carry their time zone",
            where=where,
            cure="pass uc.as_of(night)",
        )


def _same_outcome(
    known: list[RawManifest], outcome: tuple[str, int, str | None, dict[str, list[str]]], as_of: datetime
) -> RawManifest | None:
    """Return the version that already says what is about to be landed."""
    in_force = newest([manifest for manifest in known if manifest.as_of <= as_of])
    for m in (newest(known), in_force):
        if m and (m.content_hash, m.rows_quarantined, m.quarantine_hash, m.fixed) == outcome:
            return m
    return None


def newest(manifests: Iterable[RawManifest]) -> RawManifest | None:
    """Return the version that counts among those of one partition; None when there are none."""
    return max(manifests, key=_rank, default=None)


def _recorded_only(landed: RawManifest, standing: RawManifest) -> str:
    asked, last = (f"{one.as_of:%Y-%m-%d %H:%M %Z}" for one in (landed, standing))
    return (
        f"recorded as version {landed.version}, as of {asked}, which changes nothing for others: version "
        f"{standing.version} stands, as of {last}. If the source has changed since, run the night that asked "
        "last again"
    )


def _rank(manifest: RawManifest) -> tuple[datetime, int]:
    return manifest.as_of, manifest.version


def _folder(uc: UseCase, source: str, table: str, partition: date) -> str:
    return f"raw/{uc.name}/{source}/{table}/partition={partition}"


def _named(folder: str) -> set[str]:
    """Return the keys of the objects that the manifests in ``folder`` name."""
    manifests = _read_manifests(filter(_is_manifest, open_store().list(f"{folder}/")))
    return {manifest.object_key for manifest in manifests}


def _is_manifest(key: str) -> bool:
    return key.endswith(".json")


def _table_of(key: str) -> tuple[str, str]:
    _, _, source, table, *_ = key.split("/")
    return source, table


def _day_of(key: str) -> date:
    return parse_partition(key.rpartition("/partition=")[2].partition("/")[0])


def _manifest_keys(
    uc: UseCase, source: str, table: str, start: date | None = None, end: date | None = None
) -> dict[date, list[str]]:
    """Return the keys of the manifests of a table by day, from ``start`` to ``end``, from one listing."""
    keys: dict[date, list[str]] = {}
    listed = open_store().list_between(
        f"raw/{uc.name}/{source}/{table}/", f"partition={start or date.min}", f"partition={end or date.max}"
    )
    for key in filter(_is_manifest, listed):
        keys.setdefault(_day_of(key), []).append(key)
    return keys


def _read_manifests(keys: Iterable[str]) -> list[RawManifest]:
    return [RawManifest.model_validate_json(content) for content in get_many(keys)]
