"""Whether the champion does worse on what it predicted than it did on its holdout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from nightshift.monitoring import truth
from nightshift.registry import deployments
from nightshift.registry.records import Deployment
from nightshift.usecase import UseCase

_MIN_DAYS = 3
_HORIZON = timedelta(days=28)
_RESAMPLES = 1000


@dataclass(frozen=True)
class Degradation:
    """A metric that is worse than its baseline by more than the policy lets pass."""

    metric: str
    baseline: float
    observed: float
    low: float
    high: float
    days: int
    rows: int
    message: str


def degradation(uc: UseCase, night: date, deployed: Sequence[Deployment] | None = None) -> Degradation | None:
    """Return how the champion in force at ``night`` fell below its holdout figure; None when it did not."""
    champion = deployments.champion_at(uc, night, deployed)
    metric = uc.gate.primary
    if champion is None or metric not in champion.metrics:
        return None
    newest = night - timedelta(days=uc.label.lag_days)
    judged = truth.observed_models(uc, max(champion.effective_from, newest - _HORIZON), newest)
    found = [of for model, of in judged.values() if model == champion.model_hash and metric in of]
    if len(found) < _MIN_DAYS:
        return None
    values, rows = np.array([of[metric] for of in found]), sum(int(of["rows"]) for of in found)
    random = np.random.default_rng(uc.training.seed)
    means = random.choice(values, (_RESAMPLES, values.size)).mean(axis=1)
    tail = (1 - uc.gate.confidence) / 2
    low, high = (float(value) for value in np.quantile(means, [tail, 1 - tail]))
    baseline, observed = champion.metrics[metric], float(values.mean())
    if high >= baseline * (1 - uc.retrain.max_quality_loss):
        return None
    return Degradation(
        metric=metric,
        baseline=baseline,
        observed=observed,
        low=low,
        high=high,
        days=len(found),
        rows=rows,
        message=f"{metric} of {len(found)} judged days is {observed:.3f} ({low:.3f} to {high:.3f}), more "
        f"than {uc.retrain.max_quality_loss:.0%} below the {baseline:.3f} of its holdout",
    )
