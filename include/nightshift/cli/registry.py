"""What is in production, what was on any day, how it came there, and the way back; no service is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date
from typing import Any

from rich.markdown import Markdown
from rich.table import Table

from nightshift.cli.output import console
from nightshift.lake import tables
from nightshift.partition import spans
from nightshift.registry import deployments, states
from nightshift.registry.records import Deployment
from nightshift.registry.states import Change, Entry, Standing
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Step:
    """One entry of the log, and the states it moved versions from and to."""

    entry: Entry
    changes: list[Change]


def find_log(uc: UseCase) -> list[Step]:
    """Return the whole deployment log, oldest first."""
    entries = states.read(uc)
    return [Step(entry, moved) for entry, moved in zip(entries, states.changes(entries), strict=True)]


def standing_json(uc: UseCase, standing: Standing) -> dict[str, Any]:
    """Return where a version stands as JSON-able values, with every entry about it.

    ``holdout_overrides`` says why and by whom its model was judged again on a holdout that had judged it.
    """
    from nightshift.evaluation import ledger

    last = standing.entries[-1]
    overrides = [look for look in ledger.looks(uc, last.model_hash) if look.override]
    facts = (
        "usecase",
        "version",
        "trainer",
        "trained_night",
        "trained_through",
        "model_hash",
        "snapshot_hash",
    )
    return {
        **{name: value for name, value in last.model_dump(mode="json").items() if name in facts},
        "state": standing.state,
        "since": standing.since.isoformat(),
        "approval": standing.approval.model_dump(mode="json") if standing.approval else None,
        "run_id": last.run_id,
        "evaluation_hash": next(
            (entry.evaluation_hash for entry in reversed(standing.entries) if entry.evaluation_hash), ""
        ),
        "metrics": last.metrics,
        "holdout_overrides": [look.model_dump(mode="json") for look in overrides],
        "log": [entry.model_dump(mode="json") for entry in standing.entries],
    }


def step_json(step: Step) -> dict[str, Any]:
    """Return one entry of the log as JSON-able values."""
    moved = [{"version": c.version, "from": c.before, "to": c.after} for c in step.changes]
    return {**step.entry.model_dump(mode="json"), "changes": moved}


def at(uc: UseCase, day: date) -> dict[str, Any]:
    """Return what the log says was in force on ``day``, and what the predictions of that day name.

    Returns:
        JSON-able values: ``champion`` (an entry of the log, or None), ``predictions`` (``model_version`` and
        ``model_hash`` that the day's predictions name, or None), and ``agree``.
    """
    champion = deployments.champion_at(uc, day)
    named = tables.constants(uc, "predictions", day, day, ["model_version", "model_hash"]).get(day)
    by_log = (champion.version, champion.model_hash) if champion else None
    return {
        "usecase": uc.name,
        "day": day.isoformat(),
        "champion": champion.model_dump(mode="json") if champion else None,
        "predictions": named,
        "agree": named is None or (named["model_version"], named["model_hash"]) == by_log,
    }


def print_list(uc: UseCase) -> None:
    """Print a line for each version, the newest first."""
    standings = states.standings(states.read(uc))
    if not standings:
        console.print(f"{uc.name}: no version is registered")
        return
    primary = uc.gate.primary
    table = Table(
        *("version", "state", "since (UTC)", "trainer", "trained through", primary, "approval"),
        title=f"{uc.name}: registered versions",
        title_justify="left",
    )
    for standing in reversed(standings.values()):
        last = standing.entries[-1]
        value = last.metrics.get(primary)
        table.add_row(
            standing.version,
            standing.state,
            f"{standing.since.astimezone(UTC):%Y-%m-%d %H:%M}",
            last.trainer,
            str(last.trained_through),
            "" if value is None else f"{value:.4f}",
            f"{standing.approval.decision} by {standing.approval.by}" if standing.approval else "",
        )
    console.print(table)


def print_version(uc: UseCase, standing: Standing) -> None:
    """Print one version: its state, what made it, and every entry about it."""
    found = standing_json(uc, standing)
    console.print(f"{uc.name}, version {standing.version}: {standing.state}", markup=False, style="bold")
    for name in ("trainer", "trained_night", "trained_through", "model_hash", "snapshot_hash", "run_id"):
        console.print(f"  {name:<16} {found[name]}", markup=False)
    console.print(f"  {'evaluation_hash':<16} {found['evaluation_hash'] or 'none'}", markup=False)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items())
    console.print(f"  {'metrics':<16} {figures or 'none'}", markup=False)
    for look in found["holdout_overrides"]:
        again = f"{look['start']} to {look['end']}, by {look['by']}: {look['override']}"
        console.print(f"  {'judged again on':<16} {again}", markup=False)
    for step in find_log(uc):
        if step.entry.version == standing.version or standing.version in {c.version for c in step.changes}:
            _print_step(step)
    console.print(f"Its model card: nightshift registry show {standing.version} --card")


def print_card(text: str) -> None:
    """Print a model card."""
    console.print(Markdown(text))


def print_log(uc: UseCase, steps: Sequence[Step]) -> None:
    """Print every entry of the log: when, what, who, and why."""
    if not steps:
        console.print(f"{uc.name}: nothing was registered or deployed yet")
    for step in steps:
        _print_step(step)


def print_at(found: dict[str, Any]) -> None:
    """Print what was in force on a day, and whether its predictions say the same."""
    champion, named = found["champion"], found["predictions"]
    if champion:
        console.print(
            f"{found['usecase']}, {found['day']}: version {champion['version']} ({champion['trainer']}), "
            f"model {champion['model_hash'][:12]}, in force from {champion['effective_from']} on "
            f"({champion['action']} by {champion['by']})",
            markup=False,
        )
    else:
        console.print(f"{found['usecase']}, {found['day']}: no champion was in force", markup=False)
    if named is None:
        console.print("Nothing was scored for that day.")
    elif found["agree"]:
        console.print(f"Its predictions name version {named['model_version']}, too.", markup=False)
    else:
        console.print(
            f"Its predictions name version {named['model_version']}: rebuild them to follow the log.",
            markup=False,
        )


def rollback_plan(
    uc: UseCase, version: str | None, effective_from: date | None, reason: str | None
) -> tuple[str, date]:
    """Return the version that a rollback would restore, and the first day it would score.

    Raises:
        DataError: No version is given, and there is no champion before this one, or it is not clear which; or
            the one that is given was never champion. So nobody is asked about what cannot be.
    """
    version = version or deployments.champion_before(uc, reason or "")
    deployments.earlier_champion(uc, version)
    return version, effective_from or deployments.next_night(uc)


def print_rollback(uc: UseCase, deployment: Deployment) -> None:
    """Print what was rolled back, and which nights are to be rebuilt to follow it."""
    console.print(
        f"{uc.name}: version {deployment.version} is champion from {deployment.effective_from} on",
        markup=False,
    )
    nights = deployments.contradicted(uc)
    if not nights:
        console.print("No night has to be rebuilt: nothing was scored by another version than the log names.")
    for first, last in spans(nights):
        stages = {"start": f"{first}", "end": f"{last}", "stages": ["predictions", "monitoring"]}
        stretch = f"{first}" if first == last else f"{first} to {last}"
        console.print(
            f"To be rebuilt: {stretch}, scored by another version than the log names:", markup=False
        )
        console.print(
            f"  nightshift airflow dags trigger {uc.name}.rebuild -c '{json.dumps(stages)}'", markup=False
        )


def _print_step(step: Step) -> None:
    entry = step.entry
    moved = "; ".join(f"version {c.version} {c.before or 'new'} -> {c.after}" for c in step.changes)
    day = f" from {entry.effective_from} on" if isinstance(entry, Deployment) else ""
    when = f"{entry.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    what = f"{entry.action} version {entry.version}{day}, by {entry.by}"
    console.print(f"{when}  {what}{': ' + moved if moved else ''}", markup=False)
    for reason in entry.reasons:
        console.print(f"  {reason}", markup=False)
