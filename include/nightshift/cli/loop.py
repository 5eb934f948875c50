"""Requests for a new model and what became of them, and how a challenger does in shadow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from rich.table import Table

from nightshift.cli.output import console
from nightshift.monitoring.requests import Life, RetrainRequest
from nightshift.monitoring.shadow import Comparison, difference
from nightshift.usecase import UseCase


def life_json(life: Life) -> dict[str, Any]:
    """Return a request and what became of it as JSON-able values."""
    return {
        **life.request.model_dump(mode="json"),
        "state": life.state,
        "trainings": [training.model_dump(mode="json", exclude={"request"}) for training in life.trainings],
        "outcome": life.outcome.model_dump(mode="json", exclude={"request"}) if life.outcome else None,
    }


def print_requests(uc: UseCase, lives: Sequence[Life]) -> None:
    """Print every request, the newest first: who asked when and why, and what became of it."""
    if not lives:
        console.print(f"{uc.name}: nobody has asked for a new model yet")
    for life in reversed(lives):
        request, outcome = life.request, life.outcome
        asked = f"{request.requested_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by {request.by}"
        version = f" version {outcome.version}" if outcome and outcome.version else ""
        console.print(f"{request.id}  {life.state}{version}, asked {asked}", markup=False, style="bold")
        for reason in request.reasons:
            console.print(f"  {reason}", markup=False)
        for text in outcome.reasons if outcome else ():
            console.print(f"  -> {text}", markup=False)


def print_asked(uc: UseCase, request: RetrainRequest, reason: str) -> None:
    """Print what a person asked for with ``reason``, and what starts it."""
    why = "; ".join(request.reasons)
    already = "" if reason in why else "it is asked for already: "
    console.print(f"{uc.name}: {already}request {request.id}, by {request.by}: {why}", markup=False)
    conf = json.dumps({"partition": request.night.isoformat()})
    console.print(f"{uc.name}.watch starts its training within the hour. To start it now:", markup=False)
    console.print(f"  nightshift airflow dags trigger {uc.name}.train -c '{conf}'", markup=False)


def print_shadow(uc: UseCase, version: str | None, compared: Comparison | None) -> None:
    """Print how the challenger does beside the champion on the rows that both scored."""
    if version is None:
        console.print(f"{uc.name}: no challenger awaits a decision")
        return
    if compared is None:
        console.print(
            f"{uc.name}: version {version} awaits a decision; no night that it scored is judged yet",
            markup=False,
        )
        return
    first, last = compared.days[0], compared.days[-1]
    table = Table(
        *("metric", f"version {version}", "champion", f"difference ({compared.confidence:.0%} interval)"),
        title=f"{uc.name}: version {version} in shadow, {compared.rows:,} rows that both scored on "
        f"{len(compared.days)} nights, {first} to {last}",
        title_justify="left",
    )
    for name, value in compared.challenger.items():
        if name in compared.champion:
            other = compared.champion[name]
            table.add_row(name, f"{value:.4f}", f"{other:.4f}", difference(compared, name))
    console.print(table)
