"""What pages are made of: one HTML file without scripts or outside files, light and dark, for a phone too.

Figures are drawn as SVG and take the page's colours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

SERIES = 5
"""How many colours there are for models."""
NONE = "&ndash;"

_STYLE = """
:root { color-scheme: light dark; --ink: #16202c; --soft: #5b6675; --line: #dbe0e6; --paper: #fff;
  --good: #0b7a4b; --bad: #b42318;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #e69f00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf2; --soft: #9aa7b5; --line: #33404d; --paper: #121920;
    --good: #4cc38a; --bad: #ff8f85;
    --s0: #56b4e9; --s1: #f0894d; --s2: #35c9a0; --s3: #e3a5cb; --s4: #f2c14e } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p, li { max-width: 46rem }
.soft { color: var(--soft) }
.good { color: var(--good) }
.bad { color: var(--bad) }
.verdict { border-left: .35rem solid; padding: .3rem .9rem; margin: 1rem 0 }
.verdict strong { font-size: 1.15rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { color: var(--soft); font-weight: 600 }
td small { color: var(--soft); display: block }
td.text { white-space: normal; text-align: left; min-width: 14rem }
svg { max-width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
.legend span { margin-right: 1rem; white-space: nowrap }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .3rem;
  vertical-align: -.1rem }
"""


class Bounds(Protocol):
    """An interval, such as ``intervals.Interval``."""

    @property
    def low(self) -> float:
        """Its lower end."""

    @property
    def high(self) -> float:
        """Its upper end."""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a whole HTML document; ``parts`` are HTML already, ``style`` is CSS of its own."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def legend(names: Iterable[str]) -> str:
    """Return the colours of models, in the order given."""
    marks = "".join(
        f"<span><i style='background:var(--s{number % SERIES})'></i>{escape(name)}</span>"
        for number, name in enumerate(names)
    )
    return f"<p class='legend'>{marks}</p>"


def html_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    rows = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in body
    )
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"


def figure(value: float | None, found: Bounds | None = None, sign: str = "") -> str:
    """Return a figure as HTML, its interval below it."""
    if value is None:
        return NONE
    below = f"<small>{found.low:{sign}.4f} to {found.high:{sign}.4f}</small>" if found else ""
    return f"{value:{sign}.4f}{below}"


def write_files(contents: Mapping[Path, str]) -> None:
    """Write each text to its path; whoever reads sees the old text or the new one, whole."""
    for path, text in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
