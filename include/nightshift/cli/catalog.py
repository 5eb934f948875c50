"""The catalogue, for people and scripts: who answers for each table, when it is there, what columns mean."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as Grid

from nightshift.cli.output import console
from nightshift.usecase import Table, UseCase

_WIDTH = 100


def collect(uc: UseCase) -> list[dict[str, Any]]:
    """Return what the catalogue says of each table, JSON-able, in its order, and last people's labels."""
    found = []
    for name, source in uc.sources.items():
        about = {
            "source": name,
            "owner": source.owner,
            "access": source.access,
            "sla": source.sla,
            "connector": source.kind or source.connector,
        }
        found += [about | _table(uc, title, table) for title, table in source.tables.items()]
    labels: dict[str, Any] = {
        "source": None,
        "owner": uc.feedback.owner or uc.owner,
        "access": uc.feedback.access,
        "sla": uc.feedback.sla,
        "connector": "nightshift label import",
    }
    never = {"deadline": None, "retention": None}
    return [*found, labels | _table(uc, "feedback", uc.feedback_table) | never]


def print_catalog(uc: UseCase) -> None:
    """Print the catalogue of a use case, table by table."""
    width = min(console.width, _WIDTH)
    for table in collect(uc):
        console.print(f"\n[bold]{uc.name}: {title_of(table)}[/]")
        for line in summary(table):
            console.print(Padding(escape(line), (0, 0, 0, 2)), width=width, soft_wrap=False)
        grid = Grid("column", "type", "personal", "says", width=width)
        for name, column in table["columns"].items():
            says = escape(" ".join(column["description"].split()))
            if column["purpose"]:
                says += f"\n[dim]Held for: {escape(column['purpose'])}[/]"
            grid.add_row(name, kind_of(column), personal(column), says)
        console.print(grid, soft_wrap=False)


def title_of(table: dict[str, Any]) -> str:
    """Return the name of a table, with its source."""
    return f"{table['source']}.{table['table']}" if table["source"] else str(table["table"])


def summary(table: dict[str, Any]) -> list[str]:
    """Return what is said of a table as a whole, in lines; the first is its description."""
    lag, again = table["lag_days"], table["correction_days"]
    day = {0: "its own day", 1: "the day before"}.get(lag, f"the day {lag} days before")
    corrected = f", and again the last {again} before that" if again else ""
    landed = "what has changed" if table["refresh"] == "slow" else f"{day}{corrected}"
    deadline = f"{table['deadline']} {table['timezone']}" if table["deadline"] else "none"
    kept = f"{table['retention']['raw_days']} days" if table["retention"] else "for good"
    return [
        " ".join(table["description"].split()),
        f"key: {', '.join(table['key'])}; owner: {table['owner']}",
        f"refresh: {table['refresh']}: each night {landed}",
        f"deadline: {deadline}; in words: {table['sla']}",
        f"raw objects are kept: {kept}",
        f"access: {table['access']}",
        f"read by: {table['connector']}",
    ]


def kind_of(column: dict[str, Any]) -> str:
    """Return a column's type, and whether it may be null."""
    return f"{column['type']}{'?' if column['nullable'] else ''}"


def personal(column: dict[str, Any]) -> str:
    """Return whether a column is personal, and what becomes of its values."""
    protect = column["protect"] if column["protect"] not in (None, "none") else "as it is"
    said = [] if column["pii"] == "none" else [column["pii"], protect]
    return ", ".join([*said, *(["encrypted"] if column["encrypt"] else [])])


def _table(uc: UseCase, name: str, table: Table) -> dict[str, Any]:
    return {
        "table": name,
        "description": table.description,
        "key": list(table.key),
        "refresh": table.refresh,
        "lag_days": table.lag_days,
        "correction_days": table.correction_days,
        "available_at": table.available_at,
        "deadline": f"{table.deadline:%H:%M}" if table.deadline else f"{uc.schedule.hour:02d}:00",
        "timezone": uc.timezone,
        "retention": {"raw_days": uc.raw_days(table), "table_days": uc.retention.table_days},
        "columns": {column: held.model_dump(mode="json") for column, held in table.columns.items()},
    }
