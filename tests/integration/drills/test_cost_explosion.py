"""Drill: the bill.

The failure: a join that multiplies rows, a retry without end, a retraining that starts another: nobody looks
at what nights cost until the invoice comes.
The defences: every task is measured and priced, and a night far above its predecessors is an alert; requests
for new models have a budget that no bad month exceeds; and a search begins no trial after its minutes
(``tests/integration/training/test_search.py``).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from tests import synthetic

from nightshift import stages
from nightshift.monitoring import requests, resources
from nightshift.monitoring.alerting import read_alerts
from nightshift.monitoring.resources import Work
from nightshift.partition import days
from nightshift.usage import Usage
from nightshift.usecase import RetrainBudget, UseCase

NIGHTS = list(days(date(2020, 3, 1), date(2020, 3, 10)))


def _night(uc: UseCase, night: date, cpu_seconds: float) -> list[str]:
    """Record what the tasks of a night used, have it priced, and return the alerts there are."""
    synthetic.publish(uc, night, night)
    for task in ("ingest", "features", "score", "monitor"):
        began = datetime(night.year, night.month, night.day, 4, tzinfo=UTC)
        used = Usage(
            started_at=began,
            seconds=cpu_seconds / 4,
            cpu_seconds=cpu_seconds / 4,
            peak_memory_mb=512,
            rows=80,
        )
        resources.record(Work(uc.name, night, dag=task, task=task, run=f"{night}"), used)
    stages.account(uc, night)
    return [alert.message for alert in read_alerts(uc.name) if alert.kind == "cost"]


def test_a_night_of_ten_times_the_cost_is_an_alert_and_usual_ones_are_not(home: object) -> None:
    uc = synthetic.use_case()
    # Nights differ by a few per cent, as real ones do.
    for number, night in enumerate(NIGHTS[:-1]):
        assert _night(uc, night, 1800 + 40 * (number % 3)) == []
    (said,) = _night(uc, NIGHTS[-1], 18_000)
    assert said.startswith(f"the night of {NIGHTS[-1]} cost ")
    assert "times the median of the 9 nights before" in said
    assert 9 < float(said.split(" times")[0].split()[-1]) < 11
    # Looked at again, it is the same news.
    stages.account(uc, NIGHTS[-1])
    assert len([alert for alert in read_alerts(uc.name) if alert.kind == "cost"]) == 1


def test_without_a_comparison_the_same_night_is_no_alert(home: object) -> None:
    uc = synthetic.use_case()
    blind = uc.model_copy(update={"budget": uc.budget.model_copy(update={"ratio": 100.0})})
    for night in NIGHTS[:-1]:
        _night(blind, night, 1800)
    assert _night(blind, NIGHTS[-1], 18_000) == []


@pytest.mark.parametrize("allowed", [3, 40])
def test_a_storm_of_retrains_stops_at_the_budget(usecase: UseCase, allowed: int) -> None:
    """The policy wants a new model every night, whatever comes of the last: the budget says how often."""
    policy = usecase.retrain.model_copy(
        update={
            "triggers": ("schedule",),
            "every_days": 1,
            "cooldown_days": 0,
            "budget": RetrainBudget(requests=allowed, days=28),
        }
    )
    uc = usecase.model_copy(update={"retrain": policy})
    nights = list(days(date(2013, 1, 17), date(2013, 1, 17) + timedelta(days=27)))
    asked = [night for night in nights if stages.decide_retrain(uc, night)]
    # What follows needs no budget to hold, so forty would have been asked for as well.
    assert asked == nights[:allowed]
    assert [entry.night for entry in requests.read(uc)] == asked
    told = [alert.message for alert in read_alerts(uc.name) if alert.kind == "retrain"]
    if allowed < len(nights):
        (said,) = told
        assert "budget: 3 requests in 28 days are allowed" in said
    else:
        assert told == []
