"""When the policy asks for a new model, on what evidence, and that a bad month cannot start a storm."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift import stages
from nightshift.errors import DataError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import append_log, tables
from nightshift.monitoring import drift, requests, truth
from nightshift.monitoring.retrain import RetrainDecision, ask_by_hand, decide, request
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.deployments import rollback
from nightshift.training import feedback
from nightshift.usecase import RetrainBudget, UseCase

Day = Callable[..., pa.Table]

# The champion's training data end here; it is in force from the next night on.
TRAINED = date(2013, 1, 16)
MONTH = list(days(date(2013, 1, 17), date(2013, 2, 23)))


def _policy(usecase: UseCase, *triggers: str, **changes: object) -> UseCase:
    retrain = usecase.retrain.model_copy(update={"triggers": triggers, **changes})
    return usecase.model_copy(update={"retrain": retrain})


def _night(day: int) -> date:
    return date(2013, 1, day)


def _triggers(decision: RetrainDecision) -> list[str]:
    return [item.trigger for item in decision.evidence]


@pytest.fixture
def bad_month(usecase: UseCase, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """Every night's verdict is drift; how verdicts come about is not what is tested with it."""
    champion = deployments.newest(usecase)
    assert champion is not None
    verdict = SimpleNamespace(verdict="drift", columns=("delay", "score"), model_hash=champion.model_hash)
    monkeypatch.setattr(drift, "results", lambda uc, start, end: dict.fromkeys(days(start, end), verdict))
    return _policy(usecase, "drift", "schedule")


def test_an_old_champion_asks_for_a_new_one(usecase: UseCase) -> None:
    weekly = _policy(usecase, "schedule")
    assert not decide(weekly, _night(22)).requested
    decision = decide(weekly, _night(23))
    assert decision.requested
    assert decision.champion_version == "1"
    assert decision.reasons == ("schedule: 7 days since 2013-01-16, a new model is due every 7",)
    assert decision.evidence[0].facts == {"since": "2013-01-16", "days": 7, "every_days": 7}


def test_a_request_rests_the_schedule_and_its_own_night_decides_the_same_again(usecase: UseCase) -> None:
    weekly = _policy(usecase, "schedule")
    decision = decide(weekly, _night(23))
    made = request(weekly, decision)
    assert (made.id, made.by, made.evidence) == ("2013-01-23", "monitor", decision.evidence)
    assert decide(weekly, _night(23)) == decision
    # The training may have failed the gate: the champion is as old as before, and asking waits all the same.
    assert not decide(weekly, _night(24)).requested
    assert decide(weekly, _night(30)).requested


def test_disabled_without_champion_or_trigger_nothing_is_asked_for(usecase: UseCase) -> None:
    assert decide(_policy(usecase, "schedule", every_days=1), _night(23)).requested
    assert not decide(_policy(usecase, "schedule", every_days=1, enabled=False), _night(23)).requested
    assert not decide(_policy(usecase, every_days=1), _night(23)).requested
    assert not decide(_policy(usecase, "schedule", every_days=1), TRAINED).requested


def test_some_of_the_last_nights_drifted(usecase: UseCase, day_of_features: Day) -> None:
    policy = _policy(usecase, "drift")
    asked = None
    for number, day in enumerate(days(_night(17), _night(24))):
        features = day_of_features(day, shift=0.0 if number == 0 else 2.0).drop_columns("late")
        tables.replace_partition(usecase, "features", day, features, ["flight_id"])
        publish_predictions(usecase, score(usecase, day))
        drift.check(usecase, day)
        decision = decide(policy, day)
        seen = drift.results(usecase, day - timedelta(days=3), day).values()
        assert decision.requested == (sum(result.verdict == "drift" for result in seen) >= 3)
        if decision.requested:
            asked = decision
            break
    assert asked is not None
    assert _triggers(asked) == ["drift"]
    assert "3 drifted nights of 4" in asked.reasons[0]
    assert len(asked.evidence[0].facts["columns"]) == 3
    # A night that nobody checked asks for nothing, and what has led to a request leads to no second one.
    assert not decide(policy, asked.night + timedelta(days=1)).requested
    request(policy, asked)
    patient = _policy(usecase, "drift", cooldown_days=0, drifted_nights=1)
    assert not decide(patient, asked.night + timedelta(days=1)).evidence


def test_quality_below_the_baseline(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    for day in days(_night(17), _night(23)):
        publish_predictions(usecase, score(usecase, day))
        features = day_of_features(day)
        place = features.column_names.index("late")
        publish_truth(day, features.set_column(place, "late", pc.invert(features["late"])))
        truth.judge(usecase, day + timedelta(days=1))
    policy = _policy(usecase, "quality")
    decision = decide(policy, _night(24))
    assert _triggers(decision) == ["quality"]
    facts = decision.evidence[0].facts
    assert facts["high"] < 0.95 * facts["baseline"]
    assert not decide(_policy(usecase, "drift"), _night(24)).requested
    # Another champion is not blamed for the days before it.
    rollback(usecase, "1", effective_from=_night(24), reason="drill")
    assert not decide(policy, _night(24)).requested


def test_new_labels_over_a_share_of_those_trained_on(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    for day in days(_night(16), _night(22)):
        publish_truth(day, day_of_features(day), unknown=200)
    policy = _policy(usecase, "labels")
    first = next(night for night in days(_night(17), _night(23)) if decide(policy, night).requested)
    facts = decide(policy, first).evidence[0].facts
    # 200 of 300 rows a day have a label. The night knows those of the day before; its own come later.
    assert facts["new_rows"] == 200 * (first - TRAINED).days
    assert facts["new_rows"] > 0.15 * facts["training_rows"] >= facts["new_rows"] - 200
    request(policy, decide(policy, first))
    # Those have been asked for: they count no more.
    assert not decide(_policy(usecase, "labels", cooldown_days=0), first + timedelta(days=1)).evidence


def test_what_people_label_counts_where_the_pipeline_has_no_label(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    day = date(2013, 1, 5)
    publish_truth(day, day_of_features(day), unknown=100)
    night = _night(18)
    entities = day_of_features(day)["flight_id"].to_pylist()
    unknown = usecase.labelling.model_copy(update={"null_label": "unknown"})
    policy = _policy(usecase, "labels", new_labels=0.01).model_copy(update={"labelling": unknown})
    for known_from, rows in (
        (TRAINED, range(250, 300)),
        (night, range(50, 250)),
        (_night(19), range(250, 300)),
    ):
        labels = [feedback.Label(entities[row], day, 1, f"row {row}") for row in rows]
        # The second time the last fifty say the same again, which is nothing new.
        feedback.record(policy, labels, by="ann", at=datetime.now(UTC), known_from=known_from)
    assert not decide(policy, _night(17)).requested
    # 50 rows have the pipeline's label, 50 were known when the champion was trained.
    (found,) = decide(policy, night).evidence
    assert (found.trigger, found.facts["new_rows"]) == ("labels", 150)
    # Where a missing label says that there is no outcome, nobody's word counts against it.
    defined = unknown.model_copy(update={"null_label": "undefined"})
    assert not decide(policy.model_copy(update={"labelling": defined}), night).requested


def test_a_bad_month_asks_as_often_as_the_budget_allows_and_says_once_that_it_is_spent(
    bad_month: UseCase,
) -> None:
    budget = RetrainBudget(requests=3, days=28)
    uc = _policy(bad_month, "drift", "schedule", budget=budget)
    for _ in range(2):  # every night again changes nothing
        asked = [night for night in MONTH[:28] if stages.decide_retrain(uc, night)]
        assert [entry.night for entry in requests.read(uc)] == asked
        assert len(asked) == 3
        assert min(b - a for a, b in pairwise(asked)) > timedelta(days=3)
    held = decide(uc, MONTH[27])
    assert held.exhausted
    assert not held.requested
    assert held.evidence
    assert "3 requests in 28 days are allowed" in held.held
    alerts = [entry for entry in append_log.read_log(f"alerts/{uc.name}") if entry.get("kind") == "retrain"]
    assert len(alerts) == 1
    assert held.held in alerts[0]["message"]
    # The budget is one of any 28 days: once the first request is that long ago, there is one more.
    assert next(night for night in MONTH[28:] if decide(uc, night).requested) == asked[0] + timedelta(days=28)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nights_in_disorder_ask_as_rarely(bad_month: UseCase, seed: int) -> None:
    budget = RetrainBudget(requests=4, days=28)
    uc = _policy(bad_month, "drift", "schedule", budget=budget)
    nights = MONTH[::-1] if seed == 0 else random.Random(seed).sample(MONTH, len(MONTH))
    for night in nights:
        stages.decide_retrain(uc, night)
    asked = sorted(entry.night for entry in requests.read(uc))
    assert min(b - a for a, b in pairwise(asked)) > timedelta(days=3)
    for night in MONTH:
        assert sum(night <= day < night + timedelta(days=28) for day in asked) <= 4
    # Each of them again, in whatever order: the same requests.
    for night in MONTH:
        stages.decide_retrain(uc, night)
    assert sorted(entry.night for entry in requests.read(uc)) == asked


def test_after_a_request_there_is_a_rest_save_for_people(usecase: UseCase) -> None:
    daily = _policy(usecase, "schedule", every_days=1)
    request(daily, decide(daily, _night(18)))
    for day in (19, 20, 21):
        held = decide(daily, _night(day))
        assert held.evidence
        assert held.held.startswith("cool-down: request 2013-01-18")
        with pytest.raises(DataError, match="asks for no new model"):
            request(daily, held)
    by_hand = ask_by_hand(daily, _night(20), "new sensors", by="ann")
    assert (by_hand.by_hand, by_hand.by, by_hand.reasons) == (True, "ann", ("by hand: new sensors",))
    # What a person asked for is a request like any other: the policy rests after it, too.
    assert not decide(daily, _night(23)).requested
    assert decide(daily, _night(24)).requested


def test_nobody_asks_for_what_the_champion_knows(usecase: UseCase) -> None:
    with pytest.raises(DataError, match="trained on what was known on 2013-01-16 already"):
        ask_by_hand(usecase, TRAINED, "again", by="ann")
    assert requests.read(usecase) == []


def test_one_night_asks_once_even_twice_at_once(usecase: UseCase) -> None:
    decision = decide(_policy(usecase, "schedule"), _night(23))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: request(usecase, decision), range(2)))
    assert made[0] == made[1] == request(usecase, decision)
    assert requests.read(usecase) == made[:1]


def test_a_night_that_somebody_asks_for_meanwhile_asks_once(
    usecase: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = decide(_policy(usecase, "schedule"), _night(23))
    append_next = append_log.append_next
    others: list[requests.RetrainRequest] = []

    def late(*arguments: Any) -> bool:
        monkeypatch.setattr(append_log, "append_next", append_next)
        others.append(request(usecase, decision))
        return append_next(*arguments)

    monkeypatch.setattr(append_log, "append_next", late)
    assert request(usecase, decision) == others[0]
    assert requests.read(usecase) == others


def test_a_decision_that_asks_for_nothing_is_no_request(usecase: UseCase) -> None:
    nothing = RetrainDecision(night=_night(20), requested=False, evidence=(), champion_version="1")
    with pytest.raises(DataError, match="asks for no new model"):
        request(usecase, nothing)
    assert requests.read(usecase) == []


def test_requests_of_an_earlier_release_are_read(usecase: UseCase) -> None:
    reason = "schedule: 7 days since 2013-01-16, a new model is due every 7"
    old = {
        "usecase": usecase.name,
        "night": "2013-01-23",
        "reasons": [reason],
        "champion_version": "1",
        "requested_at": "2013-01-23T10:00:00Z",
    }
    append_log.append(f"retrain_requests/{usecase.name}", old)
    (entry,) = requests.read(usecase)
    assert (entry.id, entry.reasons, entry.by) == ("2013-01-23", (reason,), "monitor")
    assert decide(usecase, _night(23)).requested
