"""Columns from the source to the reports: by the SQL of today's dbt models, into models and their nights.

Which columns a model reads is told by its own manifest. What only decides which rows are there is told apart
(``warehouse.columns`` says what that is).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.lineage.graph import Drawing, Graph, Node
from nightshift.lineage.models import add_model, add_use, inputs_of, manifest_of, scored_by_models
from nightshift.lineage.partitions import add_source
from nightshift.lineage.reports import report, suite_pages
from nightshift.registry import states
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.columns import ROWS, Relation, trace

PARTITION = "partition"
"""The column that loading adds to each raw table."""


def lineage_of_column(uc: UseCase, name: str) -> Graph:
    """Return all columns that a column is made of, and all columns, models and reports that it reaches.

    Args:
        uc: The use case.
        name: ``<source>.<table>.<column>``, ``<relation>.<column>`` or a feature or label alone.

    Raises:
        DataError: There is no such column, or the dbt project cannot be read.
    """
    drawing = add_columns(Drawing(), uc)
    about = _find(uc, name, drawing.nodes)
    _add_models(drawing, uc)
    _add_checks(drawing, uc)
    whole = drawing.graph(uc.name, about)
    return whole.within(whole.reached(about, down=True) | whole.reached(about, down=False))


def add_columns(drawing: Drawing, uc: UseCase) -> Drawing:
    """Add every column of sources and relations, and what it is made of, to ``drawing``; return that."""
    loaded = {name: (PARTITION, *table.columns) for _, name, table in uc.tables()}
    titles = {name: f"{source}.{name}" for source, name, _ in uc.tables()}
    for relation in trace(dbt.compiled(uc), loaded).values():
        title = titles.get(relation.name, relation.name)
        if relation.unread:
            drawing.note(
                f"the SQL of {title} could not be followed ({relation.unread}): each of its columns is taken "
                "to be made of all columns that it may read"
            )
        rows = drawing.add(Node(id=rows_id(title), kind="rows", name=f"which rows {title} has", group=title))
        for column, reads in relation.columns.items():
            here = rows if column == ROWS else drawing.add(_column(uc, title, relation, column))
            if here != rows:
                drawing.link(rows, here, "rows")
            for other, of in reads.value:
                drawing.link(_id(titles, other, of), here)
            for other, of in reads.rows - reads.value:
                drawing.link(_id(titles, other, of), here, "rows")
    for source, name, _ in uc.tables():
        origin = add_source(drawing, uc, source)
        for column in loaded[name]:
            drawing.link(origin, column_id(f"{source}.{name}", column))
        drawing.link(origin, rows_id(f"{source}.{name}"))
    return drawing


def is_raw(graph: Graph) -> bool:
    """Return whether a graph is about a column as a source gives it."""
    return any(edge.end == graph.about and edge.start.startswith("source:") for edge in graph.edges)


def column_id(relation: str, column: str) -> str:
    """Return the id of a column; ``relation`` is ``<source>.<table>`` or the name of a dbt model."""
    return f"column:{relation}.{column}"


def rows_id(relation: str) -> str:
    """Return the id of which rows a relation has."""
    return f"rows:{relation}"


def _id(titles: dict[str, str], relation: str, column: str) -> str:
    title = titles.get(relation, relation)
    return rows_id(title) if column == ROWS else column_id(title, column)


def _column(uc: UseCase, title: str, relation: Relation, column: str) -> Node:
    facts = {}
    source, _, table = title.partition(".")
    if table and column in uc.sources[source].tables[table].columns:
        declared = uc.sources[source].tables[table].columns[column]
        facts = {"type": declared.type, "pii": declared.pii, "description": declared.description.strip()}
    is_feature = relation.name == uc.features.relation and column in uc.features.columns
    return Node(
        id=column_id(title, column),
        kind="feature" if is_feature else "column",
        name=column,
        group=title,
        facts=facts,
    )


def _add_models(drawing: Drawing, uc: UseCase) -> None:
    """Add every version, what it reads by its own manifest, and what it made."""
    scored = scored_by_models(uc)
    for standing in states.standings(states.read(uc)).values():
        made = manifest_of(uc, standing)
        if made is None:
            drawing.note(f"version {standing.version} has no manifest: nobody knows which columns it reads")
            continue
        model = add_model(drawing, uc, standing)
        then = made.configuration.usecase
        read = [(then["features"]["relation"], name) for name in inputs_of(made)]
        for relation, name in (*read, (then["label"]["relation"], then["label"]["column"])):
            if (column := column_id(relation, name)) in drawing.nodes:
                drawing.link(column, model)
            else:
                drawing.note(
                    f"version {standing.version} reads {relation}.{name}, which is not there any more"
                )
        add_use(drawing, uc, standing, scored)


def _add_checks(drawing: Drawing, uc: UseCase) -> None:
    """Add the pages of checks of raw tables, features and labels, which look at their columns."""
    checked: list[tuple[str, str, Iterable[str]]] = [
        (f"raw_{name}", f"{source}.{name}", (PARTITION, *table.columns))
        for source, name, table in uc.tables()
    ]
    checked += [
        (layer, relation, tables.columns(uc, layer))
        for layer, relation in (("features", uc.features.relation), ("labels", uc.label.relation))
    ]
    for suite, relation, columns in checked:
        there = [one for column in columns if (one := column_id(relation, column)) in drawing.nodes]
        for day, page in suite_pages(uc, suite).items():
            drawing.add(report(f"checks of {suite}", day, page), made_of=there)


def _find(uc: UseCase, name: str, nodes: dict[str, Node]) -> str:
    """Return the id of the column that a person means."""
    known = {
        one.id.removeprefix("column:"): one.id for one in nodes.values() if one.kind in ("column", "feature")
    }
    tables_of = {f"{name}.{column}": f"{source}.{name}.{column}" for source, name, table in uc.tables()
                 for column in (PARTITION, *table.columns)}  # fmt: skip
    for meant in (
        name,
        tables_of.get(name, ""),
        f"{uc.features.relation}.{name}",
        f"{uc.label.relation}.{name}",
    ):
        if meant in known:
            return known[meant]
    short = {one.rpartition(".")[2]: one for one in known}
    alike = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    alike += [short[one] for one in difflib.get_close_matches(name.rpartition(".")[2], short, n=4)]
    raise DataError(
        f"{uc.name} has no column {name!r}",
        rule="a column is <source>.<table>.<column>, <relation>.<column>, or a feature or label alone",
        where=f"sources.yml of {uc.name}, and dbt_project/models/{uc.name}",
        cure=f"name one of these: {', '.join(list(dict.fromkeys(alike))[:5]) or ', '.join(list(known)[:5])}",
    )
