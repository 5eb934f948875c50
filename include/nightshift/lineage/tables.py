"""What a table is made of and what is made of it: of the raw tables, the warehouse, or the lake.

Without a day it is about tables as such, by the SQL of today and by how the loop runs; with a day, about what
is published for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from datetime import date, timedelta

from nightshift.errors import DataError
from nightshift.inference.score import LAYER as PREDICTIONS
from nightshift.inference.shadow import LAYER as SHADOW
from nightshift.lake import lineage, raw, tables
from nightshift.lineage.derived import FEATURES, INPUTS, LABELS, Content
from nightshift.lineage.graph import Drawing, Graph, Node
from nightshift.lineage.models import (
    add_builds,
    add_model,
    add_use,
    manifest_of,
    model_id,
    scored_by_models,
)
from nightshift.lineage.partitions import (
    add_partition,
    add_raw,
    add_source,
    partition_id,
    raw_id,
    read_of_day,
    rests_on,
)
from nightshift.lineage.reports import add_uses
from nightshift.lineage.upstream import BUILT, add_upstream
from nightshift.registry import states
from nightshift.training.feedback import LAYER as FEEDBACK
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt

# What is made of what, where it is no relation: the loop as it runs.
_LOOP = {
    "models": (FEATURES, LABELS, FEEDBACK),
    PREDICTIONS: ("models", FEATURES),
    SHADOW: ("models", FEATURES),
    **INPUTS,
}
_NOT_FOLLOWED = "lineage does not follow this layer"


def lineage_of_table(uc: UseCase, name: str, day: date | None = None) -> Graph:
    """Return what a table is made of, and what is made of it.

    Args:
        uc: The use case.
        name: A raw table (``<source>.<table>`` or ``<table>``), a dbt model, or a layer of the lake, in this
            order.
        day: What is published for this day, instead of the table as such.

    Raises:
        DataError: There is no such table, nothing is published for the day, or the warehouse, which keeps no
            versions, is asked about a day.
    """
    drawing = _all_tables(uc)
    about = _find(uc, name, drawing)
    if day is None:
        whole = drawing.graph(uc.name, about)
        return whole.within(whole.reached(about, down=True) | whole.reached(about, down=False))
    node = drawing.nodes[about]
    if node.kind == "relation":
        raise DataError(
            f"{node.name} is a relation of the warehouse, which keeps no versions of its days",
            rule="days are looked up of raw tables and of layers of the lake",
            where=f"{uc.name}, warehouse",
            cure=f"leave the day out, or ask about {FEATURES} or {LABELS}, which are built from it",
        )
    if node.kind == "table":
        return _raw_day(uc, node.name, day)
    return _layer_day(uc, node.name, day)


def table_id(name: str) -> str:
    """Return the id of a raw table (``<source>.<table>``)."""
    return f"table:{name}"


def relation_id(name: str) -> str:
    """Return the id of a dbt model."""
    return f"relation:{name}"


def layer_id(name: str) -> str:
    """Return the id of a layer of the lake."""
    return f"layer:{name}"


def _all_tables(uc: UseCase) -> Drawing:
    """Return every table of a use case, each made of those before it."""
    drawing = Drawing()
    ids: dict[str, str] = {}
    for source, name, table in uc.tables():
        title = f"{source}.{name}"
        facts = {
            "refresh": table.refresh,
            "key": ", ".join(table.key),
            "description": table.description.strip(),
        }
        node = Node(id=table_id(title), kind="table", name=title, facts=facts)
        ids[name] = drawing.add(node, made_of=[add_source(drawing, uc, source)])
    for model in dbt.compiled(uc).models:
        node = Node(id=relation_id(model.name), kind="relation", name=model.name, facts={"file": model.file})
        drawing.add(node, made_of=[ids[one] for one in model.reads if one in ids])
        ids[model.name] = node.id
    for layer, relation in ((FEATURES, uc.features.relation), (LABELS, uc.label.relation)):
        drawing.add(Node(id=layer_id(layer), kind="layer", name=layer), made_of=[ids[relation]])
    there = {*tables.layers(uc), *BUILT, PREDICTIONS, "models"}
    for name in _LOOP:
        if name in there:
            node = Node(id=layer_id(name), kind="layer", name=name)
            drawing.add(node, made_of=[layer_id(one) for one in _LOOP[name] if one in there])
    for name in sorted(there):
        missing = "" if name == FEEDBACK else _NOT_FOLLOWED
        drawing.add(Node(id=layer_id(name), kind="layer", name=name, missing=missing))
    return drawing


def _find(uc: UseCase, name: str, drawing: Drawing) -> str:
    plain = name.removeprefix("raw/").replace("/", ".")
    short = {table: f"{source}.{table}" for source, table, _ in uc.tables()}
    for meant in (
        table_id(plain),
        table_id(short.get(plain, "")),
        relation_id(name),
        layer_id(name),
    ):
        if meant in drawing.nodes:
            return meant
    known = [node.name for node in drawing.nodes.values() if node.kind in ("table", "relation", "layer")]
    alike = difflib.get_close_matches(name, [*known, *short], n=5, cutoff=0.4) or sorted(known)
    raise DataError(
        f"{uc.name} has no table {name!r}",
        rule="a table is <source>.<table> of sources.yml, a dbt model, or a layer of the lake",
        where=f"{uc.name}: sources.yml, dbt_project/models/{uc.name}, and its lake",
        cure=f"name one of these: {', '.join(alike)}",
    )


# One day ------------------------------------------------------------------------------------------------


def _raw_day(uc: UseCase, title: str, day: date) -> Graph:
    """Return every version of a raw partition, and which published days were built from each."""
    source, _, name = title.partition(".")
    versions = raw.versions(uc, source, name, day)
    if not versions:
        raise _nothing(uc, title, day, raw.partitions(uc, source, name))
    drawing = Drawing()
    contents = {(one.version, one.content_hash) for one in versions}
    add_raw(drawing, uc, {title: {day: contents}})
    ids = [raw_id(title, day, number, content) for number, content in sorted(contents)]
    about = ids[0]
    if len(ids) > 1:
        whole = Node(id=f"{table_id(title)}/{day}", kind="table", name=f"{title} of {day}", day=day)
        about = drawing.add(whole, made_of=ids)
    slow = uc.sources[source].tables[name].refresh == "slow"
    last = date.max if slow else day + timedelta(days=uc.features.lookback_days)
    starts = []
    for layer in BUILT:
        for built, of_day, number, content in _built_from(uc, layer, title, day, last):
            identity = add_partition(drawing, layer, built, of_day)
            drawing.link(raw_id(title, day, number, content), identity)
            drawing.link(about, identity)
            starts.append(Content(layer, built, of_day))
    _add_after(drawing, uc, starts)
    _add_loaded(drawing, uc, title, day, contents)
    return drawing.graph(uc.name, about)


def _add_loaded(
    drawing: Drawing, uc: UseCase, title: str, day: date, contents: Collection[tuple[int, str]]
) -> None:
    """Add the models whose manifest says that the builds of their days loaded a raw partition."""
    by_models = scored_by_models(uc)
    for standing in states.standings(states.read(uc)).values():
        made = manifest_of(uc, standing)
        read = made.data.raw.get(title, {}).get(day) if made else None
        if made is None or read is None or (read.version, read.content_hash) not in contents:
            continue
        model = add_model(drawing, uc, standing)
        builds = add_builds(drawing, made)
        drawing.link(raw_id(title, day, read.version, read.content_hash), builds)
        drawing.link(builds, model)
        add_use(drawing, uc, standing, by_models)


def _built_from(
    uc: UseCase, layer: str, title: str, day: date, last: date
) -> Iterator[tuple[date, str, int, str]]:
    """Yield the published days that read a raw partition, their content, and the version that they read."""
    published = {
        of: version.content_hash
        for of, version in tables.partition_versions(uc, layer).items()
        if day <= of <= last
    }
    if not published:
        return
    names = rests_on(uc, layer)
    for of, builds in lineage.builds_of(uc, layer, published).items():
        if not builds:
            continue
        newest = max(builds, key=lambda build: build.rank)
        read = read_of_day(uc, layer, of, newest, names).get(title, {}).get(day)
        if read is not None:
            yield of, published[of], read.version, read.content_hash


def _layer_day(uc: UseCase, layer: str, day: date) -> Graph:
    """Return what is published for a day of a layer, with what it was made of and what was made of it."""
    version = tables.partition_version(uc, layer, day) if layer != "models" else None
    if version is None:
        there = [] if layer == "models" else list(tables.partition_versions(uc, layer))
        raise _nothing(uc, layer, day, there)
    drawing = Drawing()
    about = add_partition(drawing, layer, day, version.content_hash, rows=str(version.rows))
    day_of_layer = Content(layer, day, version.content_hash)
    if layer not in (*BUILT, *_LOOP):
        drawing.nodes[about] = drawing.nodes[about].model_copy(update={"missing": _NOT_FOLLOWED})
        return drawing.graph(uc.name, about)
    add_upstream(drawing, uc, day_of_layer)
    if layer in BUILT:
        _add_after(drawing, uc, [day_of_layer])
    else:
        add_uses(drawing, uc, [day_of_layer])
    return drawing.graph(uc.name, about)


def _add_after(drawing: Drawing, uc: UseCase, starts: Collection[Content]) -> None:
    """Add what was made of days of features and labels, which are there, and what was made of that."""
    reached, by_models = list(starts), scored_by_models(uc)
    ids = {one.id for one in starts}
    for layer, days in by_models.items():
        for day, row in days.items():
            if (features := partition_id(FEATURES, day, row["feature_version"])) in ids:
                scored = Content(layer, day, row["content_hash"])
                drawing.link(features, add_partition(drawing, *scored))
                reached.append(scored)
    add_uses(drawing, uc, reached)
    for standing in states.standings(states.read(uc)).values():
        made = manifest_of(uc, standing)
        read = made.data.tables.items() if made else ()
        learned = [
            one
            for layer, table in read
            for day, content in table.partitions.items()
            if (one := partition_id(layer, day, content)) in ids
        ]
        if learned:
            add_model(drawing, uc, standing)
            add_use(drawing, uc, standing, by_models)
            for one in learned:
                drawing.link(one, model_id(standing.version))


def _nothing(uc: UseCase, name: str, day: date, there: list[date]) -> DataError:
    near = sorted(sorted(there, key=lambda one: abs(one - day))[:3])
    return DataError(
        f"{name} of {uc.name} has nothing for {day}",
        rule="only what is there has lineage",
        where=f"{uc.name}, {name}, partition {day}",
        cure=f"name one of the nearest days: {', '.join(map(str, near))}"
        if near
        else f"run a night: the DAGs {uc.name}.* fill the lake",
    )
