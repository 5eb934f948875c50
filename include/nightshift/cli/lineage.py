"""Shows lineage as a tree, as JSON, or as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from rich.markup import escape
from rich.tree import Tree

from nightshift.cli.output import console
from nightshift.errors import DataError
from nightshift.lineage.graph import Graph, Node, grouped, stretches
from nightshift.usecase import UseCase

# Of many things of one kind, so many are shown, the last ones.
_SHOWN = 1
_NAMES = 12
_COLUMNS = ("column", "feature", "rows")
# Facts that are shown beneath a thing, in this order.
_FACTS = (
    "night",
    "score",
    "decision",
    "run",
    "model_version",
    "feature_version",
    "state",
    "trainer",
    "in_force",
    "model_hash",
    "commit",
    "edited_since_commit",
    "configuration_hash",
    "environment_hash",
    "days",
    "train",
    "validation",
    "holdout",
    "object",
    "content_hash",
    "rows",
    "query",
    "type",
    "pii",
    "description",
    "access",
    "file",
    "command",
)


def show(graph: Graph, *, up: bool, down: bool, as_json: bool, picture: Path | None) -> None:
    """Show a graph, or the part of it that lies before (``up``) or after (``down``) what it is about."""
    from nightshift.lineage.picture import draw

    wanted = graph.within(
        (graph.reached(graph.about, down=False) if up else set())
        | (graph.reached(graph.about, down=True) if down else set())
    )
    if picture is not None:
        _write_picture(picture, draw(wanted))
    if as_json:
        print(wanted.model_dump_json(indent=2))
        return
    about = wanted.nodes[wanted.about]
    console.print(f"{wanted.usecase}: {_full_name(about)}", style="bold", markup=False)
    for line in _facts(about):
        console.print(f"  {line}", markup=False)
    for note in wanted.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    for wished, below, title in ((up, False, "made of"), (down, True, "made of it")):
        if wished:
            _print_part(wanted, title, down=below)
    if picture is not None:
        console.print(f"drawn in {picture}", markup=False)


def _write_picture(picture: Path, drawn: str) -> None:
    try:
        if picture.suffix.lower() != ".svg" or picture.is_dir():
            raise OSError("it is a folder" if picture.is_dir() else "its name does not end in .svg")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the picture cannot be written to {str(picture)!r}: {error.strerror or error}",
            rule="a picture is a file whose name ends in .svg",
            where=f"--picture {picture}",
            cure="name a file in a folder that you may write to, such as --picture lineage.svg",
        ) from error


def prediction(usecases: Sequence[UseCase], entity: str, day: date) -> Graph:
    """Return the lineage of the prediction of an entity on a day, in whichever use case made it.

    Raises:
        DataError: No use case has predicted it on that day, or more than one has.
    """
    from nightshift.inference.explain import find_prediction, not_found
    from nightshift.lineage.predictions import HAS_LINEAGE, lineage_of_prediction

    found = [uc for uc in usecases if find_prediction(uc, entity, day) is not None]
    if not found:
        raise not_found(usecases[0], entity, day, rule=HAS_LINEAGE)
    if len(found) > 1:
        names = [uc.name for uc in found]
        raise DataError(
            f"{entity!r} was predicted by {' and '.join(names)}",
            rule="lineage is of one prediction",
            where=", ".join(names),
            cure=f"name one of them: --usecase {names[0]}",
        )
    return lineage_of_prediction(found[0], entity, day)


def _print_part(graph: Graph, title: str, *, down: bool) -> None:
    if graph.nodes[graph.about].kind in _COLUMNS:
        values = graph.reached(graph.about, down=down, how="value")
        others = graph.reached(graph.about, down=down) - values
        _print_list(graph, title, values, down=down)
        decides = "decides rows of" if down else "which rows, decided by"
        _print_list(graph, decides, others, down=down)
        return
    tree = Tree(title, guide_style="dim")
    _grow(graph, tree, [graph.about], down, set())
    about = graph.nodes[graph.about]
    told = "nothing" if about.kind not in ("layer", "partition") else about.missing or "nothing"
    console.print(tree if tree.children else f"{title}: {told}", soft_wrap=False)


def _print_list(graph: Graph, title: str, ids: Iterable[str], *, down: bool) -> None:
    """Print things by what they are shown as: of columns, too many lie between to be a tree."""
    wanted = set(ids)
    tree = Tree(title, guide_style="dim")
    for name, members in grouped(node for node in graph.nodes.values() if node.id in wanted):
        if any(one.kind == "rows" for one in members):
            # What decides all rows decides each column.
            names = [] if down else [one.name for one in members if one.kind != "rows"]
            tree.add(f"{escape(name)}: {escape(', '.join(['all of its rows', *names]))}")
        elif members[0].kind in ("column", "feature"):
            what = "features" if members[0].kind == "feature" else "columns"
            number = f" ({len(members)} {what})" if len(members) > 1 else ""
            tree.add(f"{escape(name)}{number}: {escape(', '.join(one.name for one in members))}")
        else:
            tree.add(_label(name, members))
    console.print(tree if tree.children else f"{title}: nothing", soft_wrap=False)


def _grow(graph: Graph, tree: Tree, ids: Sequence[str], down: bool, seen: set[tuple[str, ...]]) -> None:
    """Add to ``tree`` what the things with these ids are made of, or what is made of them."""
    here = set(ids)
    ends = {
        (edge.end if down else edge.start)
        for edge in graph.edges
        if (edge.start if down else edge.end) in here
    }
    for name, members in grouped(node for node in graph.nodes.values() if node.id in ends):
        branch = tree.add(_label(name, members))
        key = tuple(one.id for one in members)
        if key in seen:
            if any((edge.start if down else edge.end) in key for edge in graph.edges):
                branch.add("[dim]as above[/]")
            continue
        seen.add(key)
        if len(members) == 1:
            _describe(branch, members[0])
        elif members[0].kind == "raw":
            for one in members[-_SHOWN:]:
                _describe(branch.add(escape(_full_name(one)) + _gone(one)), one)
            branch.add(f"[dim]and {len(members) - _SHOWN} more: --json lists all[/]")
        _grow(graph, branch, key, down, seen)


def _label(name: str, members: Sequence[Node]) -> str:
    if len(members) == 1:
        return escape(_full_name(members[0])) + _gone(members[0])
    days = stretches(members)
    gone = sum(bool(one.missing) for one in members)
    what = {"raw": "versions", "partition": "days", "report": "pages"}.get(members[0].kind, "")
    number = f"{len(members)} {what}".strip()
    names = days or ", ".join(one.name for one in members[:_NAMES])
    return f"{escape(name)}: {escape(names)} ({number})" + (f" [red]{gone} of them gone[/]" if gone else "")


def _full_name(node: Node) -> str:
    return f"{node.group}.{node.name}" if node.kind in ("column", "feature") else node.name


def _gone(node: Node) -> str:
    return f" [red]{escape(node.missing)}[/]" if node.missing else ""


def _describe(tree: Tree, node: Node) -> None:
    for line in _facts(node):
        tree.add(f"[dim]{escape(line)}[/]")


def _facts(node: Node) -> list[str]:
    told = {name.replace("_", " "): node.facts[name] for name in _FACTS if node.facts.get(name)}
    if node.kind == "raw" and "object" in told:
        # Named by the hash of its content; whole, its key is longer than a line.
        told = {"folder of the object": told.pop("object").rpartition("/")[0], **told}
    return [f"{name}: {fact}" for name, fact in told.items()]
