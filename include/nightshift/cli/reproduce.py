"""Makes a model again from its manifest and says equal, or what differs, first cause first."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from nightshift.cli.output import console
from nightshift.errors import DataError, NightshiftError
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from nightshift.training.reproduce import Reproduction

EQUAL, DIFFERENT, IMPOSSIBLE = 0, 1, 2
"""Exit codes."""
_SHOWN = 12


def run(uc: UseCase, version: str, *, as_json: bool) -> int:
    """Reproduce a version, print what came of it, and return the exit code."""
    from nightshift.training.reproduce import reproduce

    try:
        found = reproduce(uc, version)
    except NightshiftError as error:
        _print_impossible(uc, version, error, as_json)
        return IMPOSSIBLE
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        _print(found)
    return EQUAL if found.verdict == "equal" else DIFFERENT


def _print_impossible(uc: UseCase, version: str, error: NightshiftError, as_json: bool) -> None:
    told = {"usecase": uc.name, "version": version, "verdict": "impossible"}
    if isinstance(error, DataError):
        told |= {"message": error.message, "rule": error.rule, "where": error.where, "cure": error.cure}
    else:
        told |= {"message": str(error), "cure": "run it again; `nightshift doctor` checks the usual causes"}
    if as_json:
        print(json.dumps(told, indent=2))
        return
    console.print(f"{uc.name}, version {version}: cannot be rebuilt")
    for key in ("message", "rule", "where", "cure"):
        if key in told:
            console.print(f"  {key + ':':<8} {told[key]}", markup=False)


def _print(found: Reproduction) -> None:
    colour = "green" if found.verdict == "equal" else "red"
    console.print(
        f"{found.usecase}, version {found.version} ({found.trainer}): [bold {colour}]{found.verdict}[/] "
        f"after {found.seconds:.1f} s"
    )
    console.print(found.explanation, markup=False)
    hashes = Table("", "recorded", "rebuilt", box=None, pad_edge=False)
    rebuilt = found.snapshot_rebuilt or "its data are gone from the tables"
    hashes.add_row("snapshot", found.snapshot_recorded, rebuilt)
    hashes.add_row("model", found.model_recorded, found.model_rebuilt)
    console.print(hashes)
    if not found.differences:
        return
    table = Table("cause", "what", "recorded", "current", "acts", title="Differences", title_justify="left")
    for (cause, acts), group in groupby(found.differences, key=lambda one: (one.cause, one.in_effect)):
        differences = list(group)
        for one in differences[:_SHOWN]:
            table.add_row(cause, one.what, one.recorded, one.current, "yes" if acts else "no")
        if len(differences) > _SHOWN:
            table.add_row(cause, f"{len(differences) - _SHOWN} more: --json lists all", "", "", "")
    console.print(table)
