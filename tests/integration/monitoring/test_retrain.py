"""When the policy asks for a new model, and that it asks once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift.errors import DataError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.monitoring import drift, truth
from nightshift.monitoring.retrain import RetrainDecision, decide, request, requests
from nightshift.partition import days
from nightshift.registry.deployments import rollback
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

# The champion's training data end here; it is in force from the next night on.
TRAINED = date(2013, 1, 16)


def _policy(usecase: UseCase, **changes: object) -> UseCase:
    quiet = {"every_days": 1000, "drifted_days": 1000, "min_roc_auc": 0.0}
    retrain = usecase.retrain.model_copy(update=quiet | changes)
    return usecase.model_copy(update={"retrain": retrain})


def _night(day: int) -> date:
    return date(2013, 1, day)


def test_an_old_champion_asks_for_a_new_one(usecase: UseCase) -> None:
    weekly = _policy(usecase, every_days=7)
    assert not decide(weekly, _night(22)).requested
    decision = decide(weekly, _night(23))
    assert decision.requested
    assert decision.champion_version == "1"
    assert decision.reasons == ("schedule: 7 days since 2013-01-16, a new model is due every 7",)


def test_a_request_rests_the_schedule_and_its_own_night_decides_the_same_again(usecase: UseCase) -> None:
    weekly = _policy(usecase, every_days=7)
    decision = decide(weekly, _night(23))
    request(weekly, decision)
    assert decide(weekly, _night(23)) == decision
    # The training may have failed the gate: the champion is as old as before, and asking waits all the same.
    assert not decide(weekly, _night(24)).requested
    assert decide(weekly, _night(30)).requested


def test_disabled_or_without_champion_nothing_is_asked_for(usecase: UseCase) -> None:
    assert not decide(_policy(usecase, enabled=False, every_days=1), _night(23)).requested
    assert not decide(_policy(usecase, every_days=1), TRAINED).requested


def test_drifted_days_in_a_row(usecase: UseCase, day_of_features: Day) -> None:
    policy = _policy(usecase, drifted_days=3)

    def check(day: date, shift: float) -> None:
        features = day_of_features(day, shift=shift).drop_columns("late")
        tables.replace_partition(usecase, "features", day, features, ["flight_id"])
        publish_predictions(usecase, score(usecase, day))
        drift.check(usecase, day)

    check(_night(17), 0.0)
    for day in days(_night(18), _night(20)):
        check(day, 2.0)
    assert not decide(policy, _night(19)).requested
    decision = decide(policy, _night(20))
    assert [reason.split(":")[0] for reason in decision.reasons] == ["drift"]
    assert "3 drifted days in a row" in decision.reasons[0]
    # Day 21 was never checked, so the row is broken.
    assert not decide(policy, _night(21)).requested
    check(_night(21), 2.0)
    assert decide(policy, _night(21)).requested
    # What has led to a request leads to no second one.
    request(policy, decision)
    assert not decide(policy, _night(21)).requested


def test_observed_quality_below_the_floor(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    for day in days(_night(17), _night(23)):
        publish_predictions(usecase, score(usecase, day))
        features = day_of_features(day)
        place = features.column_names.index("late")
        publish_truth(day, features.set_column(place, "late", pc.invert(features["late"])))
        truth.judge(usecase, day + timedelta(days=1))
    policy = _policy(usecase, min_roc_auc=0.58)
    assert not decide(policy, _night(23)).requested  # Six judged days are known: not enough to say.
    decision = decide(policy, _night(24))
    assert [reason.split(":")[0] for reason in decision.reasons] == ["quality"]
    assert not decide(_policy(usecase, min_roc_auc=0.01), _night(24)).requested
    # Another champion is not blamed for the days before it.
    rollback(usecase, "1", effective_from=_night(24), reason="drill")
    assert not decide(policy, _night(24)).requested


def test_one_night_asks_once_even_twice_at_once(usecase: UseCase) -> None:
    decision = decide(_policy(usecase, every_days=7), _night(23))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: request(usecase, decision), range(2)))
    assert made[0] == made[1] == request(usecase, decision)
    assert requests(usecase) == made[:1]
    assert made[0].reasons == decision.reasons


def test_a_decision_that_asks_for_nothing_is_no_request(usecase: UseCase) -> None:
    nothing = RetrainDecision(night=_night(20), requested=False, reasons=(), champion_version="1")
    with pytest.raises(DataError, match="asks for no new model"):
        request(usecase, nothing)
    assert requests(usecase) == []
