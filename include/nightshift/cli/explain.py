"""Shows why a prediction says what it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date

from rich.table import Table
from rich.text import Text

from nightshift.cli.output import console
from nightshift.errors import DataError
from nightshift.inference.explain import Explained, explain, find_prediction, not_found
from nightshift.usecase import UseCase

_BAR = 20
_SMALLEST_SHOWN = 5e-5


def run(usecases: Sequence[UseCase], entity: str, partition: date | None, *, as_json: bool) -> None:
    """Explain the newest prediction of an entity, or that of a partition, and print it.

    Raises:
        DataError: No use case has predicted it, or more than one has.
    """
    found = [(uc, row) for uc in usecases if (row := find_prediction(uc, entity, partition)) is not None]
    if not found:
        raise not_found(usecases[0], entity, partition)
    if len(found) > 1:
        names = [uc.name for uc, _ in found]
        raise DataError(
            f"{entity!r} was predicted by {' and '.join(names)}",
            rule="one prediction is explained",
            where=", ".join(names),
            cure=f"name one of them: --usecase {names[0]}",
        )
    uc, prediction = found[0]
    explained = explain(uc, prediction)
    if as_json:
        print(explained.model_dump_json(indent=2))
    else:
        _print(uc, explained)


def _print(uc: UseCase, found: Explained) -> None:
    facts = Table(show_header=False, box=None, pad_edge=False)
    above = "reaches" if found.score >= found.threshold else "is below"
    facts.add_row("prediction", f"{found.usecase}, {found.entity}, night of {found.partition}")
    if found.event_time is not None:
        facts.add_row(uc.event_time, f"{found.event_time.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    facts.add_row(
        "score",
        f"{found.score:.4f} {above} the threshold {found.threshold:.4f}: "
        f"{uc.label.column} {'yes' if found.decision else 'no'}",
    )
    facts.add_row("outcome", _outcome(uc, found))
    facts.add_row("model", f"version {found.model_version} ({found.trainer}), {found.model_hash[:12]}")
    facts.add_row("features", found.feature_version[:12])
    console.print(facts)
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(
        f"\nLog-odds before calibration: {found.log_odds:+.4f} = base {found.base:+.4f} and contributions:",
        markup=False,
    )
    console.print(_contributions(found))
    console.print(f"\n{_smallest_change(found)}", markup=False)


def _outcome(uc: UseCase, found: Explained) -> str:
    if found.outcome is None:
        return "not known yet"
    since = f", known since {found.outcome.known_since}" if found.outcome.known_since else ""
    return f"{uc.label.column} {_word(found.outcome.value)}{since}"


def _word(value: int | None) -> str:
    return "has no value" if value is None else "yes" if value else "no"


def _contributions(found: Explained) -> Table:
    shown = [item for item in found.contributions if abs(item.contribution) >= _SMALLEST_SHOWN]
    largest = max((abs(item.contribution) for item in shown), default=1.0)
    table = Table("feature", "value", "contribution", "", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for item in shown:
        width = max(1, round(_BAR * abs(item.contribution) / largest))
        up = item.contribution > 0
        table.add_row(
            item.feature,
            Text(item.value if item.value is not None else "missing"),
            f"{item.contribution:+.4f}",
            Text("█" * width, style="red" if up else "blue"),
        )
    if rest := len(found.contributions) - len(shown):
        table.add_row(f"{rest} more", "", "0.0000", "")
    return table


def _smallest_change(found: Explained) -> str:
    change = found.counterfactual
    if not found.allowed:
        return "explanation.allowed in usecase.yml names no feature of the model, so no change is looked for."
    if change is None:
        return (
            f"No change of {', '.join(found.allowed)} within what usecase.yml allows flips the decision, "
            "of those that were tried: up to three features at once."
        )
    kind = "Smallest" if change.exhaustive else "A small"
    made = "\n".join(
        f"  {item.feature} {item.before} → {item.after}{' (follows)' if item.follows else ''}"
        for item in change.changes
    )
    return (
        f"{kind} allowed change that flips the decision, to a score of {change.score:.4f}:\n{made}\n"
        "This is what the model would say, not what would happen."
    )
