"""Writes what was measured: ``benchmarks.json``, ``docs/benchmarks.md`` and its chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from nightshift.settings import settings

# Rows of the page, in this order.
ORDER = (
    "importing dags/",
    "batch inference",
    "batch inference on Ray",
    "training of trees",
    "training of a network",
    "drift of a day",
    "drift of a large window",
    "one night through Airflow",
    "a range by two workers, files",
    "a range by two workers, S3",
)

_PAGE = """# Benchmarks

Written by `make bench`; do not edit it by hand. The figures are in `benchmarks.json`.

Both sides of a row do the same work in the same run, in alternating rounds after one warm-up round that is
not counted. Their results are compared before any time counts. Figures are medians, ranges in brackets;
a ratio is our time by the other's.

![Each figure as a share of its target](images/benchmarks.svg)

| what | against | ours | other | ratio | overhead | target | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def files() -> tuple[Path, Path, Path]:
    """Return the figures, the page and the chart."""
    project = settings().project
    return (
        project / "benchmarks.json",
        project / "docs" / "benchmarks.md",
        project / "docs" / "images" / "benchmarks.svg",
    )


def write(measured: Sequence[dict[str, Any]]) -> None:
    """Replace the rows that were measured, keep those of earlier runs, and draw page and chart again."""
    figures, page, chart = files()
    rows = {row["name"]: row for row in json.loads(figures.read_text())["rows"]} if figures.exists() else {}
    rows |= {row["name"]: row for row in measured}
    kept = sorted(rows.values(), key=lambda row: ORDER.index(row["name"]))
    chart.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps({"rows": kept}, indent=2) + "\n", encoding="utf-8")
    page.write_text(render(kept), encoding="utf-8")
    chart.write_text(draw(kept), encoding="utf-8")


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    table = "".join(_line(row) for row in rows)
    notes = "".join(_note(row) for row in rows)
    return f"{_PAGE}{table}\n## How each is measured\n{notes}"


def _line(row: dict[str, Any]) -> str:
    cells = (
        row["name"],
        row["against"],
        _seconds(row["ours_s"]),
        _seconds(row["other_s"]),
        "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_range"]),
        "{:+.2f} s ({:+.2f} to {:+.2f})".format(row["overhead_s"], *row["overhead_s_range"]),
        row["target"],
        f"**{row['verdict']}**",
    )
    return f"| {' | '.join(cells)} |\n"


def _note(row: dict[str, Any]) -> str:
    machine = row["machine"]
    peak = (
        "Peak memory, in processes of their own, beside what the libraries take: "
        "ours {ours:.0f} MB, other {other:.0f} MB. ".format(**row["peak_mb"])
        if "peak_mb" in row
        else ""
    )
    return (
        f"\n**{row['name']}.** {row['note']} {peak}{row['rounds']} rounds on {row['measured_at'][:10]}, "
        f"{machine['cores']} cores ({machine['architecture']}), Python {machine['python']}; load average "
        f"before it began: {machine['load_before']}.\n"
    )


def _seconds(figures: dict[str, Any]) -> str:
    return "{:.2f} s ({:.2f} to {:.2f})".format(figures["median"], *figures["range"])


_LEFT, _WIDTH, _LINE, _TOP = 16, 688, 56, 54
# The axis ends at this many times the target; longer bars are cut off and say so.
_END = 2.0


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Return an SVG of bars that reach the line when they use up their target; readable light and dark."""
    height = _TOP + _LINE * len(rows) + 12
    target = _LEFT + _WIDTH / _END
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        "<title>Each figure as a share of its target; shorter is better</title>",
        "<style>.card{fill:#fff;stroke:#d0d7de}text{fill:#1f2328;font-size:14px}.dim{fill:#59636e;font-size:12px}"
        ".met{fill:#1a7f64}.missed{fill:#c4452f}.rule{stroke:#59636e}.range{stroke:#1f2328}"
        "@media (prefers-color-scheme: dark){.card{fill:#0d1117;stroke:#3d444d}text{fill:#e6edf3}"
        ".dim{fill:#9198a1}.met{fill:#3fb68b}.missed{fill:#f0795f}.rule{stroke:#9198a1}.range{stroke:#e6edf3}}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="719" height="{height - 1}" rx="8"/>',
        f'<text x="{_LEFT}" y="26">Share of the target used up; shorter is better</text>',
        f'<text class="dim" x="{target}" y="50" text-anchor="middle">target</text>',
    ]
    for number, row in enumerate(rows):
        parts += _bar(row, _TOP + number * _LINE)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: dict[str, Any], top: int) -> list[str]:
    value, low, high, figure = _figure(row)
    if value > _END * row["at_most"]:
        figure += " (off the scale)"
    middle, target = top + 31, _place(row["at_most"], row)
    return [
        f'<text x="{_LEFT}" y="{top + 16}">{escape(row["name"])}: {figure}'
        f'<tspan class="dim"> (target: {escape(row["target"])})</tspan></text>',
        f'<rect class="{row["verdict"]}" x="{_LEFT}" y="{top + 24}" height="14" rx="2" '
        f'width="{_place(value, row) - _LEFT:.1f}"/>',
        f'<line class="rule" x1="{target}" y1="{top + 20}" x2="{target}" y2="{top + 42}"/>',
        f'<line class="range" x1="{_place(low, row):.1f}" y1="{middle}" x2="{_place(high, row):.1f}" '
        f'y2="{middle}" stroke-width="2"/>',
    ]


def _figure(row: dict[str, Any]) -> tuple[float, float, float, str]:
    """Return what the target is about, the range of it, and how it is written."""
    match row["measure"]:
        case "ratio":
            return row["ratio"], *row["ratio_range"], f"{row['ratio']:.2f} times"
        case "overhead":
            return row["overhead_s"], *row["overhead_s_range"], f"{row['overhead_s']:.1f} s more"
    ours = row["ours_s"]
    return ours["median"], *ours["range"], f"{ours['median']:.2f} s"


def _place(value: float, row: dict[str, Any]) -> float:
    return _LEFT + _WIDTH * min(max(value / row["at_most"], 0.0), _END) / _END
