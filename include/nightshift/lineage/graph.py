"""What was made of what: things with names, and an edge from each thing to what was made of it.

Names (``Node.id``) stay the same from one question to the next: ``model:3`` is the same thing in every graph,
so graphs can be added to each other, and to what another system knows of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nightshift.partition import spans

Kind = Literal[
    "source",
    "raw",
    "table",
    "relation",
    "column",
    "feature",
    "rows",
    "build",
    "partition",
    "snapshot",
    "model",
    "prediction",
    "layer",
    "report",
]
"""``raw`` is one version of a raw partition, ``table`` a raw table; ``rows`` is which rows a relation has;
``partition`` is one content of one day of a ``layer``."""

How = Literal["value", "rows"]
"""Whether it is made of the other thing, or that only decides which of its rows are there."""


class Node(BaseModel):
    """One thing.

    Attributes:
        id: Names it among all things of the use case.
        kind: What it is.
        name: What people call it.
        group: What it is shown as one of, where there are many.
        day: The day that it is of, if it is of one.
        facts: What is known of it, by name, for people and scripts.
        missing: Why it, or what it was made of, cannot be looked at any more; empty when it can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind
    name: str
    group: str = ""
    day: date | None = None
    facts: dict[str, str] = {}
    missing: str = ""


class Edge(BaseModel):
    """``end`` is made of ``start``, or has the rows that ``start`` decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str
    end: str
    how: How = "value"


class Graph(BaseModel):
    """Things and what they were made of, as found for a question about one of them.

    Attributes:
        usecase: Name of the use case.
        about: The id of the thing that was asked about.
        nodes: By id.
        edges: Sorted, each once.
        notes: What whoever reads this should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    about: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()

    def of_kind(self, *kinds: Kind) -> list[Node]:
        """Return the things of some kinds, in the order they were found."""
        return [node for node in self.nodes.values() if node.kind in kinds]

    def reached(self, start: str, *, down: bool, how: How | None = None) -> set[str]:
        """Return the ids of all that was made of ``start`` (``down``), or that it was made of.

        Args:
            start: The id of a thing, which is not among them.
            down: Which way.
            how: Only along edges of this kind; along all of them by default.
        """
        next_of: dict[str, list[str]] = {}
        for edge in self.edges:
            if how is None or edge.how == how:
                here, there = (edge.start, edge.end) if down else (edge.end, edge.start)
                next_of.setdefault(here, []).append(there)
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for other in next_of.get(waiting.pop(), ()):
                if other not in found and other != start:
                    found.add(other)
                    waiting.append(other)
        return found

    def within(self, ids: Iterable[str]) -> Graph:
        """Return the part of the graph with these things and the one it is about."""
        kept = {self.about, *ids}
        return self.model_copy(
            update={
                "nodes": {name: node for name, node in self.nodes.items() if name in kept},
                "edges": tuple(edge for edge in self.edges if edge.start in kept and edge.end in kept),
            }
        )

    def upstream(self) -> Graph:
        """Return the part that the thing was made of."""
        return self.within(self.reached(self.about, down=False))

    def downstream(self) -> Graph:
        """Return the part that was made of the thing."""
        return self.within(self.reached(self.about, down=True))


class Drawing:
    """A graph while it is found out."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[Edge, None] = {}
        self.notes: dict[str, None] = {}

    def add(self, node: Node, *, made_of: Iterable[str] = (), makes: Iterable[str] = ()) -> str:
        """Add a thing, and edges to it and from it, unless they are there; return its id."""
        self.nodes.setdefault(node.id, node)
        for start in made_of:
            self.link(start, node.id)
        for end in makes:
            self.link(node.id, end)
        return node.id

    def link(self, start: str, end: str, how: How = "value") -> None:
        """Add an edge between two things, which may be added later."""
        self.edges.setdefault(Edge(start=start, end=end, how=how))

    def note(self, text: str) -> None:
        """Add something that whoever reads the graph should know."""
        self.notes.setdefault(text)

    def graph(self, usecase: str, about: str) -> Graph:
        """Return what was found."""
        return Graph(
            usecase=usecase,
            about=about,
            nodes=self.nodes,
            edges=tuple(sorted(self.edges, key=lambda edge: (edge.start, edge.end, edge.how))),
            notes=tuple(self.notes),
        )


def grouped(nodes: Iterable[Node]) -> list[tuple[str, list[Node]]]:
    """Return things by what they are shown as, in the order they were found; one without group is alone."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(node.group or node.id, []).append(node)
    return [(members[0].group or members[0].name, members) for members in found.values()]


def stretches(nodes: Iterable[Node]) -> str:
    """Return the days that things are of, as people write them; empty when they are of none."""
    found = sorted({node.day for node in nodes if node.day is not None})
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in spans(found))
