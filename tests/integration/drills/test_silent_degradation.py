"""Drill: the world changes, and nothing that goes into the model does.

The failure: the same orders, the same flights, the same scores, and another answer. Monitoring of inputs is
green for months, because there is nothing to see there.
The defence: predictions are joined with the truth when it comes, and the champion is held against what it was
when it was chosen. The alert and the request for a new model carry the figures and their interval.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from nightshift import stages
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.monitoring import quality, requests
from nightshift.monitoring.alerting import read_alerts
from nightshift.partition import days
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

FIRST, LAST = date(2013, 1, 17), date(2013, 1, 24)
NIGHT = LAST + timedelta(days=1)


@pytest.fixture
def uc(usecase: UseCase) -> UseCase:
    """A champion in force, and a policy by which only observed quality asks for a new one."""
    return usecase.model_copy(
        update={"retrain": usecase.retrain.model_copy(update={"triggers": ("quality",)})}
    )


@pytest.fixture
def live(uc: UseCase, day_of_features: Day, publish_truth: Day) -> Callable[[bool], dict[str, str]]:
    """Run the nights: score, look for drift, and learn the truth of the day before. Drift's verdicts."""

    def nights(follows: bool) -> dict[str, str]:
        verdicts = {}
        for day in days(FIRST, LAST):
            publish_predictions(uc, score(uc, day))
            verdicts |= stages.check_drift(uc, day, day)
            truth = day_of_features(day)
            if not follows:
                # As many are late as before, only others: features, scores and base rate are what they were.
                place = truth.column_names.index("late")
                truth = truth.set_column(place, "late", pa.array(np.roll(truth["late"].to_numpy(), 1)))
            publish_truth(day, truth)
            stages.judge(uc, day + timedelta(days=1), day + timedelta(days=1))
        return verdicts

    return nights


def test_a_world_that_no_longer_follows_is_seen_in_the_truth_alone(
    uc: UseCase, live: Callable[[bool], dict[str, str]]
) -> None:
    assert set(live(False).values()) == {"quiet"}, "nothing is wrong with what goes in"
    found = quality.degradation(uc, NIGHT)
    assert found is not None
    assert (found.metric, found.days) == ("roc_auc", 8)
    assert found.baseline > 0.75
    assert found.high < 0.6, "not by chance: even the favourable end is far below"
    assert any(alert.kind == "quality" for alert in read_alerts(uc.name))

    (reason,) = stages.decide_retrain(uc, NIGHT)
    assert reason.startswith("quality: version 1: observed roc_auc 0.")
    (request,) = requests.read(uc)
    (evidence,) = request.evidence
    assert evidence.trigger == "quality"
    assert evidence.facts["high"] < evidence.facts["baseline"] * 0.95
    assert evidence.facts["rows"] == 8 * 300


def test_a_world_that_follows_alarms_nobody(uc: UseCase, live: Callable[[bool], dict[str, str]]) -> None:
    """The same nights with the truth as the model knows it, so it is the truth that told."""
    assert set(live(True).values()) == {"quiet"}
    assert quality.degradation(uc, NIGHT) is None
    assert read_alerts(uc.name) == []
    assert stages.decide_retrain(uc, NIGHT) == []
    assert requests.read(uc) == []
