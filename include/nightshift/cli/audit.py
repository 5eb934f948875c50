"""The audit log as people read it, and what ``nightshift airflow`` leaves in it."""

from __future__ import annotations

import getpass
import json
import textwrap
import uuid
from collections.abc import Sequence
from contextlib import suppress

import typer
from rich.table import Table
from rich.text import Text

from nightshift.cli.output import console
from nightshift.errors import DataError
from nightshift.lake import audit
from nightshift.usecase import load_usecase, usecase_names

# Letters of a reason that the table shows: one reason is not to fill a screen.
_WHY = 60

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


_CURE = "compare the log with a backup, or with the versions that the store keeps"


def print_entries(usecase: str | None, *, as_json: bool) -> bool:
    """Print every entry, or those of one use case, newest first; then the head, if the chain is whole.

    As JSON, what is wrong with the chain goes to stderr, and of an entry that cannot be read there is only
    its number, with ``unreadable``.

    Returns:
        Whether the chain is whole, as far as this process can tell without a head that somebody remembers.
    """
    verdict = audit.verify()
    found = list(audit.read_each(usecase))
    if as_json:
        for number, entry in found:
            unreadable = json.dumps({"number": number, "unreadable": True})
            typer.echo(entry.model_dump_json() if entry else unreadable)
    elif found:
        _print_table(found)
    elif not verdict.entries:
        console.print("nothing was recorded yet")
        _print_promoted_without()
    else:
        console.print("nothing was recorded of it yet")
    problem = verdict.problem
    if problem and problem.kind != "unproven":
        said = f"the chain is broken at entry {problem.number}: {problem.message}"
        typer.echo(f"error: {said}\n  cure:  {_CURE}", err=True)
        return False
    if problem:
        typer.echo(f"note: {problem.message}", err=True)
    # One that is not proven here is no head to remember.
    if verdict.head and not as_json and (problem is None or problem.last is not None):
        console.print(f"head: {verdict.head}", soft_wrap=True, highlight=False)
    return True


def _print_table(found: Sequence[tuple[int, audit.Entry | None]]) -> None:
    table = Table("", "when (UTC)", "who", "what", "upon", "why", box=None, padding=(0, 2, 0, 0))
    for number, entry in found:
        if entry is None:
            table.add_row(str(number), "", "", "cannot be read", "", "")
            continue
        table.add_row(
            str(number),
            f"{entry.at:%Y-%m-%d %H:%M}",
            Text(f"{entry.who} ({entry.role})"),
            entry.what,
            Text(f"{entry.usecase} {entry.subject}".lstrip()),
            Text(textwrap.shorten(entry.why, _WHY, placeholder=" ...")),
        )
    console.print(table)


def _print_promoted_without() -> None:
    """Say so if models were put in charge and the audit log has nothing."""
    from nightshift.registry import deployments

    for name in usecase_names():
        with suppress(DataError):  # of a use case whose files are broken, other commands tell
            if promoted := len(deployments.history(load_usecase(name))):
                many = _many(promoted, "deployment")
                console.print(
                    f"note: {name} has {many} in its log, and the audit log has none: they are older, or "
                    "its entries were removed. Only a head of an earlier day can tell.",
                    soft_wrap=True,
                    markup=False,
                )


def _many(number: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def verify(head: str | None) -> bool:
    """Check the log, against a head that somebody remembers too; say what was found, and whether it is whole.

    Raises:
        DataError: ``head`` is none.
    """
    remembered = audit.parse_head(head) if head else None
    found = audit.verify(remembered)
    if found.problem:
        console.print(f"{found.problem.kind}: {found.problem.message}", soft_wrap=True, markup=False)
        console.print(_what_follows(found.problem, found.entries), soft_wrap=True, highlight=False)
        return False
    console.print(
        f"{_many(found.entries, 'entry')}, none edited, removed, put in or put elsewhere", highlight=False
    )
    if not found.entries:
        _print_promoted_without()
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


def _what_follows(problem: audit.Problem, entries: int) -> str:
    """Return what a problem means for the entries around it."""
    if problem.last is not None:
        if entries == problem.last:
            return "No entry was made with the key yet."
        return (
            f"Those after entry {problem.last} are proven by the key: none edited, removed or put elsewhere."
        )
    if problem.kind == "unproven":
        return f"From entry {problem.number} on, nothing is proven here. Verify where the key is."
    return f"From entry {problem.number} on, the log proves nothing. {_CURE[0].upper()}{_CURE[1:]}."


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
