"""Draws a graph as SVG: from the left to the right, each thing after what it is made of.

Many things of one kind are one box, which lists the first of them. Edges that only decide rows are dashed.
The same graph gives the same file, to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import mean

from nightshift.lineage.graph import Graph, Kind, Node, grouped, stretches

_LINE, _PAD, _WIDE, _GAP_X, _GAP_Y, _MARGIN = 15, 9, 42, 70, 16, 24
# Of the font below, at 12 pixels.
_CHARACTER = 7.3
_MEMBERS = 9
_SWEEPS = 12

# What is said of a thing that stands alone.
_FACTS: Mapping[Kind, tuple[str, ...]] = {
    "snapshot": ("days",),
    "model": ("trainer", "state"),
    "prediction": ("night", "score", "run"),
    "source": ("owner",),
}

_COLOURS: Mapping[Kind, str] = {
    "source": "#6b7280",
    "raw": "#b45309",
    "table": "#b45309",
    "relation": "#2563eb",
    "column": "#2563eb",
    "rows": "#2563eb",
    "feature": "#0f766e",
    "build": "#9ca3af",
    "partition": "#0f766e",
    "layer": "#0f766e",
    "snapshot": "#7c3aed",
    "model": "#be185d",
    "prediction": "#dc2626",
    "report": "#475569",
}


@dataclass
class _Box:
    """What is drawn as one; without a title it is where an edge passes a layer."""

    title: str
    kind: Kind
    lines: list[str] = field(default_factory=list)
    is_about: bool = False
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    passed: float = 0.0

    @property
    def width(self) -> float:
        """Return its width in pixels."""
        if not self.title:
            return self.passed
        return max(len(line) for line in (self.title, *self.lines)) * _CHARACTER + 2 * _PAD

    @property
    def height(self) -> float:
        """Return its height in pixels."""
        return _LINE * (1 + len(self.lines)) + 2 * _PAD if self.title else 0.0


# By the places of both ends in the list of boxes: whether the edge only decides rows.
_Edges = dict[tuple[int, int], bool]


def draw(graph: Graph) -> str:
    """Return the picture of a graph as SVG, readable by itself in any browser."""
    boxes, edges = _boxes(graph)
    _layer(boxes, edges)
    edges = _bent(boxes, edges)
    _place(boxes, edges)
    width = max(box.x + box.width for box in boxes) + _MARGIN
    height = max(box.y + box.height for box in boxes) + _MARGIN
    title = f"{graph.usecase}: lineage of {graph.nodes[graph.about].name}"
    drawn = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' "
        f"width='{width:.0f}' height='{height:.0f}' role='img' aria-label='{escape(title, quote=True)}' "
        "font-family='ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace' font-size='12'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width:.0f}' height='{height:.0f}' fill='#ffffff'/>",
    ]
    drawn += [_edge(boxes[start], boxes[end], only_rows) for (start, end), only_rows in sorted(edges.items())]
    drawn += [_box(box) for box in boxes if box.title]
    return "\n".join([*drawn, "</svg>", ""])


def _boxes(graph: Graph) -> tuple[list[_Box], _Edges]:
    boxes: list[_Box] = []
    of_node: dict[str, int] = {}
    about = graph.nodes[graph.about]
    others = [node for node in graph.nodes.values() if node.id != about.id]
    for members in ([about], *_alike(graph, others)):
        of_node |= {node.id: len(boxes) for node in members}
        boxes.append(_box_of(members, is_about=members[0] is about))
    edges: _Edges = {}
    for edge in graph.edges:
        ends = of_node[edge.start], of_node[edge.end]
        if ends[0] != ends[1]:
            edges[ends] = edges.get(ends, True) and edge.how == "rows"
    return boxes, edges


def _alike(graph: Graph, nodes: Sequence[Node]) -> list[list[Node]]:
    """Return things by what is one box: days that go into other things than others do have their own."""
    into: dict[str, set[str]] = {}
    for edge in graph.edges:
        end = graph.nodes[edge.end]
        into.setdefault(edge.start, set()).add(end.group or end.id)
    found: dict[tuple[str, frozenset[str]], list[Node]] = {}
    for name, members in grouped(nodes):
        for node in members:
            goes = frozenset(into.get(node.id, ())) if node.kind == "partition" else frozenset()
            found.setdefault((name if node.group else node.id, goes), []).append(node)
    return list(found.values())


def _box_of(members: Sequence[Node], *, is_about: bool) -> _Box:
    first = members[0]
    gone = sum(bool(one.missing) for one in members)
    of_days = stretches(members)
    if len(members) == 1 and (
        not first.group or not (of_days or first.kind in ("column", "feature", "rows"))
    ):
        title, lines = (
            first.name,
            [first.facts[name] for name in _FACTS.get(first.kind, ()) if name in first.facts],
        )
    elif of_days:
        what = "versions" if first.kind == "raw" else "days"
        title, lines = first.group, [of_days, *([f"{len(members)} {what}"] if len(members) > 1 else [])]
    else:
        names = [one.name for one in members if one.kind != "rows"]
        more = len(names) - _MEMBERS
        title, lines = first.group, [*names[:_MEMBERS], *([f"and {more} more"] if more > 0 else [])]
    if gone:
        lines = [*lines, "gone" if gone == len(members) else f"{gone} of them gone"]
    return _Box(_short(title), first.kind, [_short(line) for line in lines], is_about)


def _short(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _layer(boxes: Sequence[_Box], edges: _Edges) -> None:
    """Give each box its layer: the longest way to it."""
    # Groups may close a circle, in which layers would grow for ever.
    for _ in boxes:
        for start, end in edges:
            boxes[end].layer = max(boxes[end].layer, min(boxes[start].layer + 1, len(boxes)))
    # What has nothing before it stands next to what it makes.
    for place, box in enumerate(boxes):
        after = [boxes[end].layer for start, end in edges if start == place]
        if after and all(end != place for _, end in edges):
            box.layer = max(0, min(after) - 1)
    used = {layer: number for number, layer in enumerate(sorted({box.layer for box in boxes}))}
    for box in boxes:
        box.layer = used[box.layer]


def _bent(boxes: list[_Box], edges: _Edges) -> _Edges:
    """Add a box without a title wherever an edge passes a layer, and return edges that pass none."""
    found: _Edges = {}
    for (start, end), only_rows in edges.items():
        here = start
        for layer in range(boxes[start].layer + 1, boxes[end].layer):
            boxes.append(_Box("", boxes[start].kind, layer=layer))
            found[here, len(boxes) - 1] = only_rows
            here = len(boxes) - 1
        found[here, end] = only_rows
    return found


def _place(boxes: Sequence[_Box], edges: _Edges) -> None:
    """Give each box its place in its layer, near what it is joined to."""
    layers: dict[int, list[int]] = {}
    for place, box in enumerate(boxes):
        layers.setdefault(box.layer, []).append(place)
    joined: tuple[dict[int, list[int]], dict[int, list[int]]] = {}, {}
    for start, end in edges:
        joined[0].setdefault(end, []).append(start)
        joined[1].setdefault(start, []).append(end)
    order = {place: float(number) for of_layer in layers.values() for number, place in enumerate(of_layer)}
    for sweep in range(_SWEEPS):
        towards = joined[sweep % 2]
        for _, of_layer in sorted(layers.items(), reverse=bool(sweep % 2)):
            middle = {p: mean(order[other] for other in towards.get(p, [p])) for p in of_layer}
            of_layer[:] = [place for _, place in sorted((value, place) for place, value in middle.items())]
            for number, place in enumerate(of_layer):
                order[place] = number - (len(of_layer) - 1) / 2
    tall = {number: sum(boxes[p].height + _GAP_Y for p in of_layer) for number, of_layer in layers.items()}
    x = float(_MARGIN)
    for number, of_layer in sorted(layers.items()):
        y = _MARGIN + (max(tall.values()) - tall[number]) / 2
        width = max(boxes[place].width for place in of_layer)
        for place in of_layer:
            boxes[place].x, boxes[place].y, boxes[place].passed = x, y, width
            y += boxes[place].height + _GAP_Y
        x += width + _GAP_X


def _edge(start: _Box, end: _Box, only_rows: bool) -> str:
    x0, y0 = start.x + start.width, start.y + start.height / 2
    x1, y1 = end.x, end.y + end.height / 2
    bend = max(30.0, (x1 - x0) / 2)
    dashed = " stroke-dasharray='4 4'" if only_rows else ""
    through = f"H{x1 + end.width:.0f}" if not end.title else ""
    return (
        f"<path d='M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
        f"{through}' fill='none' stroke='#94a3b8' stroke-width='1.3'{dashed}/>"
    )


def _box(box: _Box) -> str:
    colour = _COLOURS[box.kind]
    border = 3 if box.is_about else 1.3
    drawn = [
        f"<rect x='{box.x:.0f}' y='{box.y:.0f}' width='{box.width:.0f}' height='{box.height:.0f}' rx='5' "
        f"fill='#ffffff' stroke='{colour}' stroke-width='{border}'/>",
        f"<text x='{box.x + _PAD:.0f}' y='{box.y + _PAD + 11:.0f}' font-weight='bold' fill='{colour}'>"
        f"{escape(box.title)}</text>",
    ]
    for number, line in enumerate(box.lines, start=1):
        y = box.y + _PAD + 11 + number * _LINE
        drawn.append(f"<text x='{box.x + _PAD:.0f}' y='{y:.0f}' fill='#334155'>{escape(line)}</text>")
    return "".join(drawn)
