"""Values as people read them, as HTML: every text of the tables is escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from html import escape
from typing import Any

from nightshift.monitoring.pages.records import Row
from nightshift.page import NONE, html_table

_HASH = re.compile(r"[0-9a-f]{64}")
_LONG = 160


def say(value: Any) -> str:
    """Return a value of a table as escaped HTML: whole numbers with separators, others to four digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, datetime):
        return escape(f"{value:%Y-%m-%d %H:%M} UTC")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        value = ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(_plain(item) for item in value)
    text = str(value)
    if _HASH.fullmatch(text):
        text = text[:12]
    return escape(text if len(text) <= _LONG else f"{text[: _LONG - 1]}…")


def share(value: Any) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}" if isinstance(value, int | float) else NONE


def score(row: Row, name: str, sign: str = "") -> str:
    """Return a metric of a row to four decimals, its interval below where the row has one."""
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if not isinstance(value, int | float) or math.isnan(value):
        return NONE
    below = (
        f"<small>{low:{sign}.4f} to {high:{sign}.4f}</small>"
        if isinstance(low, float) and isinstance(high, float)
        else ""
    )
    return f"{value:{sign}.4f}{below}"


def words(name: str) -> str:
    """Return the name of a column as a heading."""
    return escape(name.replace("_", " "))


def text_cell(value: Any) -> str:
    """Return a cell of prose, which may wrap."""
    return f"<td class='text'>{say(value)}</td>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values, HTML already, below each other."""
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def rows_table(rows: Sequence[Row], leave_out: Sequence[str] = ()) -> str:
    """Return rows as they are, a column for each name that has a value in some row."""
    names = (name for row in rows for name, value in row.items() if value is not None)
    shown = [name for name in dict.fromkeys(names) if name not in leave_out]
    if not shown:
        return ""
    return html_table(
        [words(name) for name in shown], ([say(row.get(name)) for name in shown] for row in rows)
    )


def details(title: str, body: str, note: str = "") -> str:
    """Return a part that opens on a click; nothing for an empty body."""
    if not body:
        return ""
    said = f"<p class='soft'>{note}</p>" if note else ""
    return f"<details><summary>{title}</summary>{said}{body}</details>"


def nothing(layer: str, why: str) -> str:
    """Say that a table has no row for the day, and why that may be."""
    return f"<p class='none'>Nothing recorded: {escape(why)} <span class='soft'>({escape(layer)})</span></p>"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) if isinstance(value, dict) else str(value)
