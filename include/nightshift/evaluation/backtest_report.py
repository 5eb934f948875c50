"""A backtest as one page, and in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from nightshift.evaluation.backtest import HIGHER_IS_BETTER, Backtest, Outcome
from nightshift.evaluation.plots import backtest_figure
from nightshift.page import NONE, SERIES, document, figure, html_table, legend, write_files
from nightshift.registry import mlflow as tracking
from nightshift.settings import settings
from nightshift.usecase import UseCase

_METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "precision", "recall", "cost", "base_rate")
_TAG = "backtest"


def write_backtest(uc: UseCase, backtest: Backtest) -> Path:
    """Write the page and the backtest behind it as JSON, log both to MLflow, and return the page's path.

    They lie under ``<home>/reports/<use case>/backtest/``, named by the night and the identity. MLflow gets
    one run for each backtest, with each metric of each trainer by fold; written again, it gets no second one.
    """
    page, content = backtest_page(uc, backtest), backtest.model_dump_json(indent=2)
    name = f"{backtest.night}-{backtest.identity[:12]}.html"
    file = settings().home / "reports" / uc.name / "backtest" / name
    write_files({file: page, file.with_suffix(".json"): content})
    _log(uc, backtest, page, content)
    return file


def backtest_page(uc: UseCase, backtest: Backtest) -> str:
    """Return the page, a whole HTML document, about a backtest."""
    primary = uc.gate.primary
    first, last = backtest.folds[0].test.start, backtest.folds[-1].test.end
    return document(
        f"{uc.title}: backtest",
        [
            f"<h1>{escape(uc.title)}: backtest</h1>",
            f"<p class='soft'>{len(backtest.folds)} cut-offs in the rows that the night of {backtest.night} "
            f"may learn from (snapshot {backtest.snapshot_hash[:12]}), tested on {first} to {last}. Each "
            "model was trained on what the night of its cut-off knew. The holdout was not opened.</p>",
            legend(backtest.trainers),
            f"<h2>{primary} by cut-off</h2>",
            _lines(backtest, primary),
            "<h2>Over all cut-offs</h2>",
            "<p class='soft'>Mean, standard deviation, and below them the lowest and the highest.</p>",
            _spreads(backtest),
            "<h2>Trainer against trainer</h2>",
            _versus(backtest),
            "<h2>Fold by fold</h2>",
            _outcomes(backtest),
        ],
    )


def _of(backtest: Backtest, trainer: str) -> list[Outcome]:
    return [outcome for outcome in backtest.outcomes if outcome.trainer == trainer]


def _lines(backtest: Backtest, metric: str) -> str:
    """Draw a metric over cut-offs, a line for each trainer."""
    values = {name: [o.metrics.get(metric) for o in _of(backtest, name)] for name in backtest.trainers}
    known = [value for of_trainer in values.values() for value in of_trainer if value is not None]
    if not known:
        return "<p>No fold defines it.</p>"
    low, high = min(known), max(known)
    span = high - low or 1.0
    left, top, width, height = 60, 12, 480, 200
    step = width / max(len(backtest.folds) - 1, 1)

    def x(place: int) -> float:
        return left + step * place

    def y(value: float) -> float:
        return top + height * (high - value) / span

    drawn = [
        f"<path d='M{left - 12} {top}V{top + height + 12}H{left + width}' fill='none' stroke='var(--line)'/>",
        f"<text x='{left - 18}' y='{y(high) + 4:.1f}' text-anchor='end'>{high:.3f}</text>",
        f"<text x='{left - 18}' y='{y(low) + 4:.1f}' text-anchor='end'>{low:.3f}</text>",
    ]
    drawn += [
        f"<text x='{x(place):.1f}' y='{top + height + 28}' text-anchor='middle'>{fold.cutoff}</text>"
        for place, fold in enumerate(backtest.folds)
    ]
    for number, of_trainer in enumerate(values.values()):
        colour = f"var(--s{number % SERIES})"
        dots = [(x(place), y(value)) for place, value in enumerate(of_trainer) if value is not None]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in dots)
        drawn.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.8'/>")
        drawn += [
            f"<circle cx='{across:.1f}' cy='{down:.1f}' r='4' fill='{colour}'/>" for across, down in dots
        ]
    return f"<svg viewBox='0 0 600 250' width='600' role='img'>{''.join(drawn)}</svg>"


def _spreads(backtest: Backtest) -> str:
    def cell(trainer: str, metric: str) -> str:
        spread = backtest.spreads[trainer].get(metric)
        if spread is None:
            return NONE
        around = "" if spread.deviation is None else f" &plusmn; {spread.deviation:.4f}"
        return f"{spread.mean:.4f}{around}<small>{spread.low:.4f} to {spread.high:.4f}</small>"

    return html_table(
        ["", *(escape(name) for name in backtest.trainers)],
        [
            [metric.replace("_", " "), *(cell(name, metric) for name in backtest.trainers)]
            for metric in _METRICS
        ],
    )


def _versus(backtest: Backtest) -> str:
    body = [
        [
            f"{escape(item.first)} less {escape(item.second)}",
            item.metric.replace("_", " "),
            figure(item.mean, sign="+"),
            f"{item.wins} of {len(item.differences)}",
            " ".join(f"{value:+.4f}" for value in item.differences),
        ]
        for item in backtest.versus
    ]
    head = ["", "metric", "mean", "better in", "by cut-off"]
    return html_table(head, body) if body else "<p>There is one trainer.</p>"


def _outcomes(backtest: Backtest) -> str:
    body: list[Sequence[str]] = []
    for fold in backtest.folds:
        for outcome in backtest.outcomes:
            if outcome.cutoff == fold.cutoff:
                cells = (figure(outcome.metrics.get(metric)) for metric in _METRICS)
                learned = f"{fold.train.rows + fold.validation.rows:,}<small>from {fold.train.start}</small>"
                tested = f"{fold.test.rows:,}<small>to {fold.test.end}</small>"
                body.append([f"{fold.cutoff}", escape(outcome.trainer), learned, tested, *cells])
    head = ["cut-off", "trainer", "rows learned", "rows tested", *(m.replace("_", " ") for m in _METRICS)]
    return html_table(head, body)


def _log(uc: UseCase, backtest: Backtest, page: str, content: str) -> None:
    """Log to the backtest's own run. Interrupted, the next call takes the same run up."""
    from mlflow.entities import Metric

    client, experiment = tracking.client(uc), tracking.setup(uc)

    def runs() -> list[str]:
        found = client.search_runs(
            [experiment],
            filter_string=f"tags.{_TAG} = '{backtest.identity}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )
        return [run.info.run_id for run in found]

    known = runs()
    if known and client.get_run(known[0]).info.status == "FINISHED":
        return
    # Of the record, not of now: a metric that is logged again is the same, not a second one.
    now = int(backtest.recorded_at.timestamp() * 1000)
    run_id = (
        known[0]
        if known
        else client.create_run(
            experiment,
            run_name=f"backtest {backtest.night}",
            tags={_TAG: backtest.identity, "snapshot_hash": backtest.snapshot_hash},
        ).info.run_id
    )
    metrics = [
        Metric(f"{outcome.trainer}/{name}", value, now, number)
        for trainer in backtest.trainers
        for number, outcome in enumerate(_of(backtest, trainer))
        for name, value in outcome.metrics.items()
    ]
    metrics += [
        Metric(f"{trainer}/{name}_{what}", value, now, 0)
        for trainer, of_trainer in backtest.spreads.items()
        for name, spread in of_trainer.items()
        if name in HIGHER_IS_BETTER
        for what, value in (("mean", spread.mean), ("deviation", spread.deviation))
        if value is not None
    ]
    batch = 1000  # MLflow's limit for one call
    for first in range(0, len(metrics), batch):
        client.log_batch(run_id, metrics=metrics[first : first + batch])
    for metric in (uc.gate.primary, "log_loss"):
        values = {name: [o.metrics.get(metric) for o in _of(backtest, name)] for name in backtest.trainers}
        cutoffs = [fold.cutoff for fold in backtest.folds]
        picture = backtest_figure(cutoffs, values, metric, f"{uc.title}\nbacktest, {backtest.night}")
        client.log_figure(run_id, picture, f"plots/{metric}.png")
    client.log_text(run_id, content, "backtest.json")
    client.log_text(run_id, page, "backtest.html")
    client.set_terminated(run_id)
    # Two that logged the same at once: the run that began first stays.
    if runs()[0] != run_id:
        client.delete_run(run_id)
