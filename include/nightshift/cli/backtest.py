"""Tests trainers at several cut-offs of the past, and shows how they did over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from nightshift import stages
from nightshift.cli.output import console
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from nightshift.evaluation.backtest import Backtest, Outcome

_SHOWN = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "cost")


def run(
    uc: UseCase, through: date | None, folds: int | None, trainers: Sequence[str], *, as_json: bool
) -> None:
    """Run a backtest, with a line on standard error for each model, and print what came of it."""
    from nightshift.evaluation.backtest import backtest, newest_night
    from nightshift.evaluation.backtest_report import write_backtest
    from nightshift.training.snapshot import Snapshot
    from nightshift.training.train import declared_trainer

    for name in trainers:
        # Before minutes go into rows that nobody would learn from.
        declared_trainer(uc, name)
    night = through or newest_night(uc)
    typer.echo(f"{uc.name}: freezing what the night of {night} may learn from", err=True)
    snapshot = Snapshot.model_validate(stages.take_snapshot(uc, night))
    primary = uc.gate.primary

    def tell(outcome: Outcome, seconds: float) -> None:
        value = outcome.metrics.get(primary)
        reached = "undefined" if value is None else f"{value:.4f}"
        typer.echo(
            f"cut-off {outcome.cutoff}, {outcome.trainer}: {primary} {reached}, {seconds:.0f} s", err=True
        )

    found = backtest(uc, snapshot, folds=folds, trainers=trainers, tell=tell)
    page = write_backtest(uc, found)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    _print(found, primary)
    console.print(f"report: {page}", markup=False)


def _print(found: Backtest, primary: str) -> None:
    first, last = found.folds[0].test, found.folds[-1].test
    console.print(
        f"{found.usecase}, night of {found.night}: {len(found.folds)} cut-offs, tested on {first.start} to "
        f"{last.end}; the holdout was not opened",
        markup=False,
    )
    folds = Table(
        *("cut-off", "trained from", "rows", "tested to", "rows", *found.trainers),
        title=f"{primary} by cut-off",
        title_justify="left",
    )
    for fold in found.folds:
        values = (outcome.metrics.get(primary) for outcome in found.outcomes if outcome.cutoff == fold.cutoff)
        folds.add_row(
            f"{fold.cutoff}",
            f"{fold.train.start}",
            f"{fold.train.rows + fold.validation.rows}",
            f"{fold.test.end}",
            f"{fold.test.rows}",
            *("" if value is None else f"{value:.4f}" for value in values),
        )
    console.print(folds)
    spreads = Table("trainer", *_SHOWN, title="Mean over cut-offs, standard deviation", title_justify="left")
    for name in found.trainers:
        cells = []
        for metric in _SHOWN:
            spread = found.spreads[name].get(metric)
            around = "" if spread is None or spread.deviation is None else f", {spread.deviation:.4f}"
            cells.append("" if spread is None else f"{spread.mean:.4f}{around}")
        spreads.add_row(name, *cells)
    console.print(spreads)
    for versus in found.versus:
        if versus.metric == primary:
            console.print(
                f"{versus.first} less {versus.second}: {primary} {versus.mean:+.4f}, better at {versus.wins} "
                f"of {len(versus.differences)} cut-offs",
                markup=False,
            )
