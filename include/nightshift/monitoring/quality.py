"""Is the champion as good as it was when it was chosen? Observed quality against its own holdout.

The baseline is what the gate decided on: the holdout figures in the deployment log. The evidence is every
judged day since the champion took over, at most 28 back, with labels as the night knew them. Days are drawn,
so a few bad days in a row make the interval wide rather than the verdict quick; a champion is degraded only
where the favourable end of the interval is worse than the baseline by more than ``retrain.max_quality_loss``.

A Brier score follows the base rate: at a rate of a third it is half as large again as at a sixth, for the
same skill. So it is held against the baseline's skill at the rate observed: what is compared is the Brier
score over that of always saying the observed rate, p(1-p) (1 minus it is the Brier skill score of Murphy
1973, "Hedging and Skill Scores for Probability Forecasts").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.intervals import draw_days, interval, resampled_metrics
from nightshift.lake import tables
from nightshift.metrics import forecast_metrics
from nightshift.monitoring.figures import MIN_JUDGED_DAYS, labelled, thresholds
from nightshift.monitoring.truth import OUTCOMES
from nightshift.monitoring.windows import LONGEST
from nightshift.registry import deployments
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Degradation:
    """A champion that is worse than it was when it was chosen.

    Attributes:
        metric: The use case's primary metric, or ``brier``.
        baseline: Its figure on the champion's holdout; of ``brier``, at the base rate observed since.
        observed: Its figure on the judged days.
        low: Lower end of the interval of ``observed``.
        high: Upper end.
        days: Judged days.
        rows: Labelled rows.
        message: All this in a sentence.
    """

    metric: str
    baseline: float
    observed: float
    low: float
    high: float
    days: int
    rows: int
    message: str


def degradation(uc: UseCase, night: date, deployed: Sequence[Deployment] | None = None) -> Degradation | None:
    """Return how the champion in force on ``night`` falls short of its baseline; None while it does not.

    None, too, without a champion, with fewer than ``MIN_JUDGED_DAYS`` judged days, or where its entry in the
    deployment log has no figures. The answer for a night is the same whenever it is asked.

    Args:
        deployed: ``deployments.history``, for who asks about many nights; read anew by default.
    """
    champion = deployments.champion_at(uc, night, deployed)
    if champion is None:
        return None
    outcomes = _evidence(uc, night, champion)
    judged_days = len(set(outcomes.column("partition").to_pylist())) if outcomes.num_rows else 0
    if judged_days < MIN_JUDGED_DAYS:
        return None
    return next(_shortfalls(uc, champion, outcomes), None)


def alert_when_degraded(uc: UseCase, night: date) -> Degradation | None:
    """Raise the alert ``quality`` when the champion in force on ``night`` is degraded, once a champion."""
    found = degradation(uc, night)
    champion = deployments.champion_at(uc, night)
    if found is not None and champion is not None:
        from nightshift.monitoring.alerting import raise_alert

        log.warning("%s: %s", uc.name, found.message)
        subject = f"version {champion.version}"
        raise_alert(uc.name, "quality", subject, found.message, once=f"quality {champion.model_hash}")
    return found


def _evidence(uc: UseCase, night: date, champion: Deployment) -> pa.Table:
    """Return the labelled outcomes of the champion that the night knew."""
    newest = night - timedelta(days=uc.label.lag_days)
    outcomes = tables.read_partitions(uc, OUTCOMES, max(champion.effective_from, newest - LONGEST), newest)
    if not outcomes.num_rows or "known_on" not in outcomes.column_names:
        return pa.table({})
    judged = labelled(outcomes)
    return judged.filter(
        pc.and_(
            pc.equal(judged.column("model_hash"), champion.model_hash),
            pc.less_equal(judged.column("known_on"), night),
        )
    )


def _shortfalls(uc: UseCase, champion: Deployment, outcomes: pa.Table) -> Iterator[Degradation]:
    found, day = np.unique(outcomes.column("partition").to_numpy(), return_inverse=True)
    label, score = outcomes.column("label").to_numpy(), outcomes.column("score").to_numpy()
    threshold, primary = thresholds(outcomes), uc.gate.primary
    metrics = forecast_metrics(label, score, threshold=threshold, costs=uc.costs)
    drawn = draw_days(found.size, uc.evaluation.resamples, uc.training.seed)
    resampled = resampled_metrics(
        label,
        score,
        day,
        drawn,
        threshold=threshold,
        costs=uc.costs,
        names=(primary, "brier", "base_rate"),
    )
    allowed = uc.retrain.max_quality_loss

    def shortfall(metric: str, baseline: float, observed: float, low: float, high: float) -> Degradation:
        message = (
            f"version {champion.version}: observed {metric} {observed:.4f} ({low:.4f} to {high:.4f}) on "
            f"{label.size} rows of {found.size} days, against {baseline:.4f} on its holdout"
        )
        if metric == "brier":
            message += f" at the observed base rate of {metrics['base_rate']:.3f}"
        message += f": worse by more than {allowed:.0%} whichever end of the interval is true"
        return Degradation(metric, baseline, observed, low, high, found.size, label.size, message)

    if primary in metrics and primary in champion.metrics:
        ends = interval(metrics[primary], resampled[primary], uc.gate.confidence)
        baseline = champion.metrics[primary]
        if ends is not None and ends.high < baseline * (1 - allowed):
            yield shortfall(primary, baseline, ends.value, ends.low, ends.high)
    before = _unskilled(champion.metrics.get("base_rate", 0.0))
    now = _unskilled(metrics["base_rate"])
    if "brier" in champion.metrics and before > 0 and now > 0:
        rate = resampled["base_rate"]
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = resampled["brier"] / (rate * (1 - rate))
        ends = interval(metrics["brier"] / now, relative, uc.gate.confidence)
        baseline = champion.metrics["brier"] / before
        if ends is not None and ends.low > baseline * (1 + allowed):
            yield shortfall("brier", baseline * now, metrics["brier"], ends.low * now, ends.high * now)


def _unskilled(base_rate: float) -> float:
    """Return the Brier score of who always says the base rate."""
    return base_rate * (1 - base_rate)
