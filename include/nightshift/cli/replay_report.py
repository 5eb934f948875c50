"""What a replay shows, as table and picture: by month, the loop beside the model it never trained again."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from nightshift import intervals
from nightshift.cli.output import console
from nightshift.errors import DataError
from nightshift.intervals import Interval
from nightshift.lake import tables
from nightshift.metrics import forecast_metrics
from nightshift.partition import days
from nightshift.usecase import UseCase

CONFIDENCE = 0.8

_METRICS = ("roc_auc", "brier")
_RESAMPLES = 1000


class Judged(BaseModel):
    """Observed metrics by name, with the interval of a bootstrap over days where they define one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, float]
    intervals: dict[str, Interval]


class Period(BaseModel):
    """A month, or all of them.

    Attributes:
        name: ``YYYY-MM``, or ``all``.
        rows: Rows whose truth is known and that both models scored; all metrics are of these, pooled.
        gains: Interval of (loop - frozen) on the same draws of days.
        drift: Nights with the verdict ``drift``: alarms.
        watch: Nights with the verdict ``watch``.
        retrains: Nights that asked for a new model.
        promotions: Models that took effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    start: date
    end: date
    nights: int
    rows: int
    frozen: Judged
    loop: Judged
    gains: dict[str, Interval]
    drift: int
    watch: int
    retrains: int
    promotions: int


class Comparison(BaseModel):
    """The loop and the model it began with, on the same rows and the same truth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    title: str
    months: tuple[Period, ...]
    total: Period
    alarms: tuple[date, ...]
    promotions: tuple[date, ...]

    @property
    def verdict(self) -> str:
        """Whether the loop ended better, in a sentence with the figures."""
        return " ".join(_sentence(self.total, name) for name in _METRICS if name in self.total.gains)


def compare(uc: UseCase, frozen: str, start: date, end: date) -> Comparison:
    """Compare what production scored from ``start`` to ``end`` with the scores of the layer ``frozen``.

    Raises:
        DataError: No row of the range has both scores and its truth.
    """
    from nightshift.monitoring import drift, requests
    from nightshift.registry import deployments

    rows = _rows(uc, frozen, start, end)
    if not rows.num_rows:
        raise DataError(
            f"of {start} to {end} no truth is known yet",
            rule="models are compared where the truth is known",
            where=f"{uc.name}, replay",
            cure="replay more nights",
        )
    verdicts = {day: result.verdict for day, result in drift.results(uc, start, end).items()}
    asked = [request.night for request in requests.read(uc)]
    promoted = [entry.effective_from for entry in deployments.history(uc)[1:] if entry.action == "promote"]

    def period(name: str, first: date, last: date) -> Period:
        within = (pc.field("partition") >= first) & (pc.field("partition") <= last)
        part = rows.filter(within)
        loop, frozen_, gains = _judge(uc, part)
        return Period(
            name=name,
            start=first,
            end=last,
            nights=(last - first).days + 1,
            rows=part.num_rows,
            frozen=frozen_,
            loop=loop,
            gains=gains,
            drift=sum(verdict == "drift" for day, verdict in verdicts.items() if first <= day <= last),
            watch=sum(verdict == "watch" for day, verdict in verdicts.items() if first <= day <= last),
            retrains=sum(first <= night <= last for night in asked),
            promotions=sum(first <= day <= last for day in promoted),
        )

    return Comparison(
        usecase=uc.name,
        title=uc.title,
        months=tuple(period(f"{first:%Y-%m}", first, last) for first, last in _months(start, end)),
        total=period("all", start, end),
        alarms=tuple(sorted(day for day, verdict in verdicts.items() if verdict == "drift")),
        promotions=tuple(day for day in promoted if start <= day <= end),
    )


def show(found: Comparison) -> None:
    """Print the comparison."""
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{found.title}, {found.total.start} to {found.total.end}",
        title_justify="left",
        padding=0,
    )
    table.add_column("month", no_wrap=True)
    for name in (
        *("rows", "AUC\nfrozen", "AUC\nloop", "loop - frozen,\n80% interval"),
        *("Brier\nfrozen", "Brier\nloop", "loop - frozen,\n80% interval"),
        *("watch", "alarms", "re-\ntrains", "promo-\ntions"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for period in (*found.months, found.total):
        if period is found.total:
            table.add_section()
        cells = [period.name, f"{period.rows:,}"]
        for metric in _METRICS:
            cells += [_figure(period.frozen, metric), _figure(period.loop, metric), _gain(period, metric)]
        counts = (period.watch, period.drift, period.retrains, period.promotions)
        table.add_row(*cells, *map(str, counts))
    console.print(table)
    console.print(found.verdict, markup=False)


def draw(found: Comparison, file: Path) -> None:
    """Draw the comparison as an SVG: metrics by month with their intervals, promotions, and alarms."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from nightshift.training.plots import MUTED, PALETTE

    # Equal content gives equal files, and text stays text.
    with mpl.rc_context({"svg.hashsalt": found.usecase, "svg.fonttype": "none"}):
        # A white ground of its own, so that a dark page does not swallow the text.
        figure = Figure(figsize=(8, 5.4), layout="constrained", facecolor="white")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        middles = [period.start + (period.end - period.start) / 2 for period in found.months]
        for axes, metric, label in ((upper, "roc_auc", "ROC AUC"), (lower, "brier", "Brier score")):
            # The wider line below shows where the two are one.
            for which, colour, width, words in (
                ("frozen", PALETTE[1], 3.5, "never trained again"),
                ("loop", PALETTE[0], 1.5, "the loop"),
            ):
                judged = [getattr(period, which) for period in found.months]
                values = [one.metrics.get(metric, np.nan) for one in judged]
                axes.plot(
                    middles,
                    values,
                    color=colour,
                    linewidth=width,
                    marker="o",
                    markersize=2 + width,
                    label=words,
                )
                lows, highs = (
                    [
                        getattr(one.intervals[metric], side) if metric in one.intervals else np.nan
                        for one in judged
                    ]
                    for side in ("low", "high")
                )
                axes.fill_between(middles, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.set_ylabel(label)
            axes.grid(visible=True, color="#e5e7eb", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=9, colors=MUTED)
            for day in found.promotions:
                axes.axvline(day, color=PALETTE[2], linewidth=1, linestyle=":", zorder=0.5)
        ground = upper.get_xaxis_transform()
        alarms = list(found.alarms)
        upper.plot(
            alarms, [0.02] * len(alarms), "|", color=PALETTE[3], transform=ground, label="alarm (drift)"
        )
        upper.plot([], [], color=PALETTE[2], linestyle=":", label="promotion")
        upper.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=4, frameon=False, fontsize=9)
        lower.annotate(
            "lower is better",
            (0.01, 0.95),
            xycoords="axes fraction",
            ha="left",
            va="top",
            fontsize=8,
            color=MUTED,
        )
        lower.set_xticks(
            [period.start for period in found.months], [f"{period.start:%b %Y}" for period in found.months]
        )
        lower.tick_params(axis="x", labelrotation=30)
        upper.set_xlim(found.total.start, found.total.end + timedelta(days=1))
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _rows(uc: UseCase, frozen: str, start: date, end: date) -> pa.Table:
    """Return the rows that both models scored and whose truth is known: partition, label, frozen, loop."""
    from nightshift.monitoring.truth import OUTCOMES

    outcomes = tables.read_partitions(uc, OUTCOMES, start, end)
    if not outcomes.num_rows:
        return outcomes
    outcomes = outcomes.filter(pc.field("label").is_valid())
    outcomes = outcomes.select(["partition", uc.entity, "label", "score"]).rename_columns(
        ["partition", uc.entity, "label", "loop"]
    )
    scores = tables.read_partitions(uc, frozen, start, end, columns=["partition", uc.entity, "score"])
    scores = scores.rename_columns(["partition", uc.entity, "frozen"])
    joined = outcomes.join(scores, keys=["partition", uc.entity], join_type="inner")
    return joined.sort_by([("partition", "ascending"), (uc.entity, "ascending")])


def _judge(uc: UseCase, rows: pa.Table) -> tuple[Judged, Judged, dict[str, Interval]]:
    """Return the loop, the frozen model, and by how much the loop is better, on the same draws of days."""
    label = rows["label"].to_numpy()
    of_day = rows["partition"].to_numpy()
    found_days, day = np.unique(of_day, return_inverse=True)
    drawn = intervals.draw_days(max(1, found_days.size), _RESAMPLES, uc.training.seed)

    def judge(score: npt.NDArray[np.float64]) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float64]]]:
        whole = forecast_metrics(label, score, threshold=0.5, costs=uc.costs)
        found = {name: whole[name] for name in _METRICS if name in whole}
        if found_days.size < intervals.MIN_DAYS:
            return found, {}
        return found, intervals.resampled_metrics(
            label, score, day.astype(np.int64), drawn, threshold=0.5, costs=uc.costs, names=found
        )

    loop, loop_resampled = judge(rows["loop"].to_numpy())
    frozen, frozen_resampled = judge(rows["frozen"].to_numpy())
    return (
        Judged(metrics=loop, intervals=intervals.intervals(loop, loop_resampled, CONFIDENCE)),
        Judged(metrics=frozen, intervals=intervals.intervals(frozen, frozen_resampled, CONFIDENCE)),
        intervals.differences(loop, loop_resampled, frozen, frozen_resampled, CONFIDENCE),
    )


def _months(start: date, end: date) -> list[tuple[date, date]]:
    firsts = [day for day in days(start, end) if day == start or day.day == 1]
    return [
        (first, following - timedelta(days=1))
        for first, following in zip(firsts, [*firsts[1:], end + timedelta(days=1)], strict=True)
    ]


def _figure(judged: Judged, metric: str) -> str:
    return f"{judged.metrics[metric]:.4f}" if metric in judged.metrics else "-"


def _gain(period: Period, metric: str) -> str:
    gain = period.gains.get(metric)
    return f"{gain.low:+.3f} to {gain.high:+.3f}" if gain else "-"


def _sentence(total: Period, metric: str) -> str:
    gain = total.gains[metric]
    # A lower Brier score is the better one.
    sign = -1 if metric == "brier" else 1
    low, high = sorted((sign * gain.low, sign * gain.high))
    better = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse beyond noise"
    name = {"roc_auc": "ROC AUC", "brier": "Brier score"}[metric]
    return (
        f"By {name} the loop ends {better}: {total.frozen.metrics[metric]:.4f} never trained again, "
        f"{total.loop.metrics[metric]:.4f} looped, difference {gain.value:+.4f} "
        f"(80% interval {gain.low:+.4f} to {gain.high:+.4f})."
    )
