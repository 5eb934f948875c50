"""The audit log as people read it, and what ``nightshift airflow`` leaves in it."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Sequence

import typer
from rich.table import Table
from rich.text import Text

from nightshift.cli.output import console
from nightshift.lake import audit

# Words of Airflow's own commands that change nothing, wherever they stand in it.
_ONLY_READ = {
    "check",
    "check-migrations",
    "cheat-sheet",
    "details",
    "export",
    "get",
    "get-value",
    "info",
    "list",
    "list-import-errors",
    "list-jobs",
    "list-runs",
    "next-execution",
    "plugins",
    "report",
    "show",
    "show-dependencies",
    "state",
    "states-for-dag-run",
    "version",
}


def print_entries(usecase: str | None, *, as_json: bool) -> None:
    """Print every entry, or those of one use case, newest first; then the head.

    Raises:
        DataError: One cannot be read.
    """
    entries = audit.read(usecase)
    if as_json:
        for entry in entries:
            typer.echo(entry.model_dump_json())
        return
    if entries:
        table = Table("", "when (UTC)", "who", "what", "upon", "why", box=None, padding=(0, 2, 0, 0))
        for entry in entries:
            table.add_row(
                str(entry.number),
                f"{entry.at:%Y-%m-%d %H:%M}",
                Text(f"{entry.who} ({entry.role})"),
                entry.what,
                Text(f"{entry.usecase} {entry.subject}".lstrip()),
                Text(entry.why),
            )
        console.print(table)
    else:
        console.print("nothing was recorded yet")
    if found := audit.head():
        console.print(f"head: {found}", soft_wrap=True, highlight=False)


def verify(head: str | None) -> bool:
    """Check the log, against a head that somebody remembers too; say what was found, and whether it is whole.

    Raises:
        DataError: ``head`` is none.
    """
    remembered = audit.parse_head(head) if head else None
    found = audit.verify(remembered)
    if found.problem:
        console.print(f"{found.problem.kind}: {found.problem.message}", soft_wrap=True, markup=False)
        console.print(
            "The log proves nothing from there on. Compare it with a backup, or with the versions that the "
            "store keeps.",
            soft_wrap=True,
        )
        return False
    console.print(f"{found.entries} entries, none edited, removed, put in or put elsewhere", highlight=False)
    if found.head:
        console.print(f"head: {found.head}", soft_wrap=True, highlight=False)
    if remembered:
        console.print(f"entry {remembered.number} is the one that was remembered", highlight=False)
    else:
        console.print(
            "Whether entries are missing at the end, only a head of an earlier day can tell: "
            "nightshift audit verify --head <number>:<hash>",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    return True


def record_airflow(arguments: Sequence[str]) -> None:
    """Record a command of Airflow's own that may change something; its words, for options may hold secrets.

    Raises:
        DataError: The audit log has a key that this process does not have.
        TransientError: The storage failed.
    """
    words = [word for word in arguments[:2] if not word.startswith("-")]
    if not words or "--help" in arguments or not _ONLY_READ.isdisjoint(words):
        return
    # Typed again, it is done again.
    audit.record(
        "airflow",
        usecase="",
        subject=" ".join(words),
        who=getpass.getuser(),
        identity=[uuid.uuid4().hex],
    )
