"""What published partitions were built from: which version of each raw partition one build read.

A build leaves one object that lists them, named by its content. Whoever publishes a partition leaves a mark
first, an empty object named by the partition's content and the build: the same content from newer raw
versions is no new version of the partition, and only one more mark. Marks of what was never published, or is
published no more, say nothing to anyone and are swept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import cache

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.lake import raw
from nightshift.lake.raw import RawManifest
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.usecase import UseCase


class RawVersion(BaseModel):
    """One version of a raw partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    as_of: AwareDatetime
    content_hash: str

    @property
    def rank(self) -> tuple[datetime, int]:
        """The later of two versions has the greater one; see ``raw.current``."""
        return self.as_of, self.version


# The versions that raw has of a ``<source>.<table>`` and a partition.
Kept = Callable[[str, date], set[RawVersion]]


class Build(BaseModel):
    """The raw versions that one build read, by ``<source>.<table>`` and partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    raw: dict[str, dict[date, RawVersion]]

    def older_than(self, other: Build, kept: Kept) -> bool:
        """Return whether ``other`` knew all that this build knew of their common partitions, and more.

        What ``other`` read in a newer version that raw has no more does not count: after raw was restored
        from an older backup, nobody can build from that version again.
        """
        newer: list[tuple[str, date]] = []
        for table, partitions in self.raw.items():
            for day, mine in partitions.items():
                theirs = other.raw.get(table, {}).get(day, mine)
                if theirs.rank < mine.rank:
                    return False
                if theirs.rank > mine.rank:
                    newer.append((table, day))
        return any(other.raw[table][day] in kept(table, day) for table, day in newer)

    @property
    def rank(self) -> list[tuple[datetime, int]]:
        """The greatest of builds that read the same partitions is one that no other is newer than."""
        return [
            version.rank
            for _, partitions in sorted(self.raw.items())
            for _, version in sorted(partitions.items())
        ]


def record_build(uc: UseCase, manifests: Mapping[str, Mapping[date, RawManifest]]) -> str:
    """Keep which manifests a build reads, by ``<source>.<table>`` and partition; return the build's id."""
    build = Build(
        usecase=uc.name,
        raw={
            table: {day: _version(manifest) for day, manifest in sorted(partitions.items())}
            for table, partitions in sorted(manifests.items())
        },
    )
    content = build.model_dump_json().encode()
    identity = hashlib.sha256(content).hexdigest()
    open_store().put_new(_build_key(uc, identity), content)
    return identity


def read_build(uc: UseCase, identity: str) -> Build | None:
    """Return a build; None when retention has removed it."""
    try:
        return Build.model_validate_json(open_store().get(_build_key(uc, identity)))
    except NoSuchObjectError:
        return None


def read_builds(uc: UseCase, identities: Iterable[str]) -> dict[str, Build]:
    """Return builds by id, without those that retention has removed."""
    wanted = sorted(set(identities))
    with ThreadPoolExecutor(8) as readers:  # one by one, a bucket would take seconds a hundred
        found = readers.map(lambda identity: read_build(uc, identity), wanted)
        return {identity: build for identity, build in zip(wanted, found, strict=True) if build}


def kept_raw(uc: UseCase) -> Kept:
    """Return what tells the versions that raw has of a partition; each partition is looked up once."""

    @cache
    def kept(table: str, partition: date) -> set[RawVersion]:
        source, _, name = table.partition(".")
        return {_version(manifest) for manifest in raw.versions(uc, source, name, partition)}

    return kept


def mark(uc: UseCase, layer: str, contents: Mapping[date, tuple[str, str]]) -> None:
    """Record by partition which content (hash) which build gives. To be called before it is published."""
    store = open_store()
    keys = [
        f"{_marks(uc, layer)}partition={partition}/{content_hash}.{build}"
        for partition, (content_hash, build) in contents.items()
    ]
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda key: store.put_new(key, b""), keys))


def builds_of(uc: UseCase, layer: str, contents: Mapping[date, str]) -> dict[date, list[Build]]:
    """Return for each partition the builds that are known to give it this content (hash)."""
    ids = build_ids(uc, layer, next(iter(contents)) if len(contents) == 1 else None)
    named = {day: ids.get((day, content), []) for day, content in contents.items()}
    builds = read_builds(uc, (identity for of_day in named.values() for identity in of_day))
    return {day: [builds[one] for one in of_day if one in builds] for day, of_day in named.items()}


def build_ids(uc: UseCase, layer: str, partition: date | None = None) -> dict[tuple[date, str], list[str]]:
    """Return the ids of the builds behind every (partition, content) of a layer, in one listing.

    Args:
        uc: The use case.
        layer: The layer.
        partition: Only this one.
    """
    found: dict[tuple[date, str], list[str]] = {}
    prefix = _marks(uc, layer) + (f"partition={partition}/" if partition else "")
    for key in open_store().list(prefix):
        day, content, build = _parsed(key)
        found.setdefault((day, content), []).append(build)
    return found


def sweep(uc: UseCase, published: Mapping[str, Iterable[tuple[date, str]]], keep_days: int) -> int:
    """Remove marks and builds that speak of nothing ``published``; return how many.

    Args:
        uc: The use case.
        published: By layer, the (partition, content hash) pairs that are published.
        keep_days: What was written less than this many days ago stays: its publication may be on its way,
            and a partition may be rolled back to it.
    """
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=keep_days)
    named: set[str] = set()
    unwanted: list[str] = []
    for layer, contents in published.items():
        wanted = set(contents)
        for key, written in store.modified(_marks(uc, layer)).items():
            day, content, build = _parsed(key)
            if (day, content) in wanted or written >= limit:
                named.add(build)
            else:
                unwanted.append(key)
    unwanted += [
        key
        for key, written in store.modified(f"lineage/{uc.name}/builds/").items()
        if key.rpartition("/")[2].removesuffix(".json") not in named and written < limit
    ]
    for key in unwanted:
        store.delete(key)
    return len(unwanted)


def _version(manifest: RawManifest) -> RawVersion:
    return RawVersion(version=manifest.version, as_of=manifest.as_of, content_hash=manifest.content_hash)


def _marks(uc: UseCase, layer: str) -> str:
    return f"lineage/{uc.name}/marks/{layer}/"


def _parsed(key: str) -> tuple[date, str, str]:
    folder, _, name = key.rpartition("/")
    content, _, build = name.partition(".")
    return date.fromisoformat(folder.rpartition("partition=")[2]), content, build


def _build_key(uc: UseCase, identity: str) -> str:
    return f"lineage/{uc.name}/builds/{identity}.json"
