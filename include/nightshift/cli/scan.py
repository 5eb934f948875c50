"""What was looked at for personal data, and what looks like it, for people."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from nightshift.quality.scan import Looked
from nightshift.usecase import UseCase


def print_looked(uc: UseCase, looked: Sequence[Looked]) -> None:
    """Print of each raw table what was looked at, and each column that looks personal."""
    if not any(one.partition for one in looked):
        typer.echo(f"{uc.name}: nothing has landed yet")
        return
    for one in looked:
        title = f"{uc.name}, {one.source}.{one.table}"
        if one.partition is None:
            typer.echo(f"{title}: nothing has landed yet")
            continue
        named = ", ".join(one.columns) or "none"
        typer.echo(
            f"{title}, partition {one.partition}: looked at {one.rows} rows; unclassed columns: {named}"
        )
        for found in one.suspicions:
            typer.echo(f"  {found}")
        if not one.suspicions:
            typer.echo("  none of them looks personal")
