"""What published days were made of: the build that gave their content, the raw versions it read, the queries.

What a build read is cut to what a day can have read: the raw tables that the layer's relation rests on by the
SQL of today, and of them the days of its look-back. A build of a month read more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

from nightshift.lake import lineage, raw, tables
from nightshift.lake.lineage import Build, RawVersion
from nightshift.lake.raw import RawManifest
from nightshift.lineage.graph import Drawing, Node
from nightshift.partition import days
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.load import partitions_read

# By ``<source>.<table>`` and partition: number and content hash of each version.
Wanted = Mapping[str, Mapping[date, Collection[tuple[int, str]]]]


def partition_id(layer: str, day: date, content: str) -> str:
    """Return the id of one content of a day of a layer."""
    return f"partition:{layer}/{day}/{content}"


def raw_id(table: str, day: date, version: int, content: str) -> str:
    """Return the id of one version of a raw partition; ``table`` is ``<source>.<table>``.

    After raw was restored from a backup, another correction may take the number of one that was lost.
    """
    return f"raw:{table}/{day}/v{version}/{content}"


def add_partition(drawing: Drawing, layer: str, day: date, content: str, **facts: str) -> str:
    """Add one content of a day of a layer, without what it was made of; return its id."""
    return drawing.add(
        Node(
            id=partition_id(layer, day, content),
            kind="partition",
            name=f"{layer} of {day}",
            group=layer,
            day=day,
            facts={"content_hash": content, **facts},
        )
    )


def add_built(drawing: Drawing, uc: UseCase, layer: str, contents: Mapping[date, str]) -> list[str]:
    """Add days of ``features`` or ``labels`` with the builds behind them, and the raw versions these read.

    Args:
        drawing: To add them to.
        uc: The use case.
        layer: The layer.
        contents: The content hash of each day.

    Returns:
        The ids of the days.
    """
    known = lineage.build_ids(uc, layer, next(iter(contents)) if len(contents) == 1 else None)
    behind = {day: known.get((day, content), []) for day, content in contents.items()}
    builds = lineage.read_builds(uc, (one for ids in behind.values() for one in ids))
    names = rests_on(uc, layer)
    wanted: dict[str, dict[date, set[tuple[int, str]]]] = {}
    found = []
    for day, content in contents.items():
        partition = add_partition(drawing, layer, day, content)
        found.append(partition)
        kept = {name: builds[name] for name in behind[day] if name in builds}
        if not kept:
            drawing.add(_no_build(uc, layer, day, content, recorded=bool(behind[day])), makes=[partition])
            continue
        newest = max(kept, key=lambda name: kept[name].rank)
        read = read_of_day(uc, layer, day, kept[newest], names)
        others = len(behind[day]) - 1
        made_by = drawing.add(
            Node(
                id=f"build:{newest}/{layer}/{day}",
                kind="build",
                name=f"build {newest[:12]} of {layer} of {day}",
                group=f"builds of {layer}",
                day=day,
                facts={"build": newest, **({"others_with_this_content": str(others)} if others else {})},
            ),
            makes=[partition],
        )
        for table, versions in read.items():
            for of, version in versions.items():
                wanted.setdefault(table, {}).setdefault(of, set()).add(
                    (version.version, version.content_hash)
                )
                drawing.link(raw_id(table, of, version.version, version.content_hash), made_by)
    add_raw(drawing, uc, wanted)
    return found


def read_of_day(
    uc: UseCase, layer: str, day: date, build: Build, names: Collection[str]
) -> dict[str, dict[date, RawVersion]]:
    """Return what a build read for one day of ``features`` or ``labels``, by ``<source>.<table>`` and day.

    Args:
        uc: The use case.
        layer: The layer.
        day: The day.
        build: The build.
        names: The raw tables that the layer ``rests_on``.
    """
    found: dict[str, dict[date, RawVersion]] = {}
    for source, name, table in uc.tables():
        title = f"{source}.{name}"
        read = build.raw.get(title, {})
        if name not in names or not read:
            continue
        if table.refresh == "slow":
            found[title] = {of: read[of] for of in sorted(read) if of <= day}
            found[title] = dict(list(found[title].items())[-1:])
        elif layer == "labels":
            found[title] = {day: read[day]} if day in read else {}
        else:
            found[title] = {of: read[of] for of in days(*partitions_read(uc, table, day, day)) if of in read}
    return {title: versions for title, versions in found.items() if versions}


def add_raw(drawing: Drawing, uc: UseCase, wanted: Wanted) -> None:
    """Add versions of raw partitions, with their objects and queries, and the sources that they came from."""
    for title, of_table in wanted.items():
        source, _, table = title.partition(".")
        if not of_table:
            continue
        origin = add_source(drawing, uc, source)
        there = raw.stored(uc, source, table, min(of_table), max(of_table))
        manifests = {
            (day, manifest.version, manifest.content_hash): manifest
            for versions in _one_of_each(of_table)
            for day, manifest in raw.read_manifests(uc, source, table, versions).items()
        }
        for day, versions in of_table.items():
            for number, content in sorted(versions):
                manifest = manifests.get((day, number, content))
                node = _raw(uc, title, day, number, content, manifest)
                if manifest is not None and manifest.object_key not in there:
                    gone = "its object is gone from the lake: ingest the partition again"
                    node = node.model_copy(update={"missing": gone})
                drawing.add(node, made_of=[origin])


def _raw(uc: UseCase, title: str, day: date, number: int, content: str, manifest: RawManifest | None) -> Node:
    source, _, table = title.partition(".")
    facts = {
        "version": str(number),
        "content_hash": content,
        "manifest": raw.manifest_key(uc, source, table, day, number),
    }
    if manifest is not None:
        facts |= {
            "object": manifest.object_key,
            "query": manifest.query,
            "as_of": manifest.as_of.isoformat(),
            "extracted_at": manifest.extracted_at.isoformat(),
            "rows": str(manifest.rows_accepted),
            "quarantined": str(manifest.rows_quarantined),
        }
    removed = f"retention has removed it (retention.raw_days: {uc.retention.raw_days})"
    return Node(
        id=raw_id(title, day, number, content),
        kind="raw",
        name=f"{title} of {day}, version {number}",
        group=title,
        day=day,
        facts=facts,
        missing="" if manifest is not None else removed,
    )


def add_source(drawing: Drawing, uc: UseCase, source: str) -> str:
    """Add a source of the catalogue and return its id."""
    declared = uc.sources.get(source)
    facts = {"access": declared.access, "owner": declared.owner} if declared else {}
    missing = "" if declared else "sources.yml does not name it any more"
    return drawing.add(Node(id=f"source:{source}", kind="source", name=source, facts=facts, missing=missing))


def _one_of_each(of_table: Mapping[date, Collection[tuple[int, str]]]) -> list[dict[date, int]]:
    """Return the numbers of all versions as rounds of one a day, as ``raw.read_manifests`` takes them."""
    rounds: list[dict[date, int]] = []
    for day, versions in of_table.items():
        for place, number in enumerate(sorted({number for number, _ in versions})):
            if place == len(rounds):
                rounds.append({})
            rounds[place][day] = number
    return rounds


def rests_on(uc: UseCase, layer: str) -> frozenset[str]:
    """Return the names of the raw tables that ``features`` or ``labels`` are made of, by the SQL of today."""
    relation = uc.label.relation if layer == "labels" else uc.features.relation
    return dbt.tables_read(uc, relation)[relation]


def _no_build(uc: UseCase, layer: str, day: date, content: str, *, recorded: bool) -> Node:
    """Return what stands where the record of a build is not."""
    published = tables.partition_version(uc, layer, day)
    replaced = published is None or published.content_hash != content
    why = (
        f"retention has removed the record of its build: records of what was replaced are kept for "
        f"{uc.retention.table_days} days (retention.table_days)"
        if recorded or replaced
        else "nobody recorded what it was built from: `nightshift stale --rebuild` builds it again"
    )
    return Node(
        id=f"build:unknown/{layer}/{day}/{content}",
        kind="build",
        name=f"the build of {layer} of {day}",
        group=f"builds of {layer}",
        day=day,
        missing=why,
    )
