"""What becomes of a request for a new model: one outcome, on whatever path, killed or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nightshift import nights, stages
from nightshift.cli import main
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.monitoring import drift, requests
from nightshift.monitoring.gaps import find_gaps
from nightshift.monitoring.requests import Evidence, Life, OutcomeKind
from nightshift.monitoring.retrain import ask_by_hand
from nightshift.partition import days
from nightshift.registry.records import Decision
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import ApprovalPolicy, UseCase

Day = Callable[..., pa.Table]
NIGHT = date(2013, 1, 20)


def _only(uc: UseCase) -> Life:
    (life,) = requests.lives(uc)
    return life


def _states(uc: UseCase) -> dict[str, str]:
    return {life.request.id: life.state for life in requests.lives(uc)}


def _begin(uc: UseCase, run_id: str = "run 1", *, night: date = NIGHT, by_hand: bool = False) -> bool:
    return stages.begin_training(uc, night, run_id, by_hand=by_hand, by="ann")


@pytest.fixture
def asked(usecase: UseCase) -> UseCase:
    """Somebody has asked for a model that knows what was known on NIGHT."""
    ask_by_hand(usecase, NIGHT, "drill", by="ann")
    return usecase


@pytest.fixture
def judged(asked: UseCase, day_of_features: Day, publish_truth: Day) -> dict[str, Any]:
    """The gate's yes about a model of NIGHT."""
    for day in days(date(2013, 1, 16), NIGHT - timedelta(days=1)):
        publish_truth(day, day_of_features(day))
    candidate = train(asked, snapshot(asked, NIGHT), "xgboost")
    decision = Decision(
        promote=True, candidate=candidate, metrics={"roc_auc": 0.7}, reasons=["good"], rival="1"
    )
    return decision.model_dump(mode="json")


def test_from_request_to_champion_and_its_own_baseline(
    asked: UseCase, judged: dict[str, Any], day_of_features: Day
) -> None:
    assert _only(asked).state == "requested"
    assert _begin(asked)
    assert _begin(asked)  # the task was killed and retried
    assert _only(asked).state == "training"
    assert len(_only(asked).trainings) == 1
    for _ in range(2):
        deployment = stages.promote(asked, NIGHT, stages.propose(asked, judged))
    outcome = _only(asked).outcome
    assert outcome is not None
    assert (outcome.kind, outcome.version, outcome.reasons) == ("promoted", "2", ("good",))
    # What drift of the next night is measured against is the new model's.
    next_night = NIGHT + timedelta(days=1)
    publish_predictions(asked, score(asked, next_night))
    assert drift.check(asked, next_night).model_hash == deployment["model_hash"]


def test_the_gate_refuses(asked: UseCase, judged: dict[str, Any]) -> None:
    _begin(asked)
    stages.propose(asked, judged | {"promote": False, "reasons": ["not better"]})
    outcome = _only(asked).outcome
    assert outcome is not None
    assert (outcome.kind, outcome.version, outcome.reasons) == ("refused", "2", ("not better",))


def test_a_person_rejects(asked: UseCase, judged: dict[str, Any]) -> None:
    _begin(asked)
    stages.propose(asked, judged)
    assert _only(asked).state == "training"
    answer = {"decision": "rejected", "by": "bob", "at": datetime.now(UTC), "comment": "too late"}
    stages.decide(asked, judged, answer)
    outcome = _only(asked).outcome
    assert outcome is not None
    assert (outcome.kind, outcome.version, outcome.reasons) == ("rejected", "2", ("by bob: too late",))
    # A night that runs again outside of Airflow says so, and trains nothing.
    assert nights._retrain(asked, NIGHT) == "rejected"
    # Trained again by hand, it is rejected still, and the new request says so.
    assert _begin(asked, "run 2", by_hand=True)
    assert not stages.propose(asked, judged)["promote"]
    assert _states(asked) == {"2013-01-20": "rejected", "2013-01-20.2": "rejected"}


def test_the_champion_knows_as_much_by_now(asked: UseCase, judged: dict[str, Any]) -> None:
    earlier = NIGHT - timedelta(days=2)
    ask_by_hand(asked, earlier, "older", by="ann")
    stages.promote(asked, NIGHT, judged)
    assert stages.superseded(asked, earlier)
    assert _states(asked) == {"2013-01-20": "promoted", "2013-01-18": "superseded"}


def test_a_failed_run_closes_its_request_and_may_be_run_again(asked: UseCase, judged: dict[str, Any]) -> None:
    _begin(asked)
    stages.training_failed(asked, "run of another request", "x")
    assert _only(asked).open
    stages.training_failed(asked, "run 1", "run 1 failed: out of memory")
    # Its event again asks for nothing new. Mended and cleared, the run is a request of its own.
    assert not _begin(asked, "run 2")
    assert _begin(asked)
    stages.promote(asked, NIGHT, stages.propose(asked, judged))
    stages.training_failed(asked, "run 1", "a late report")
    assert _states(asked) == {"2013-01-20": "failed", "2013-01-20.2": "promoted"}
    failed = requests.lives(asked)[0].outcome
    assert failed is not None
    assert failed.reasons == ("run 1 failed: out of memory",)


def test_a_key_that_comes_again_after_the_outcome_trains_nothing(
    asked: UseCase, judged: dict[str, Any]
) -> None:
    _begin(asked)
    stages.propose(asked, judged | {"promote": False, "reasons": ["not better"]})
    assert not _begin(asked, "run 2")
    assert _only(asked).state == "refused"


def test_a_key_that_was_sent_twice_trains_once(asked: UseCase) -> None:
    _begin(asked)
    # The first run has failed, and its callback is yet to say so.
    assert not _begin(asked, "run 2")
    assert [training.run_id for training in _only(asked).trainings] == ["run 1"]
    stages.training_failed(asked, "run 1", "run 1 failed: out of memory")
    assert not _begin(asked, "run 2")
    assert _states(asked) == {"2013-01-20": "failed"}


def test_a_late_report_of_a_failure_does_not_close_what_a_person_has_taken_up(
    asked: UseCase, judged: dict[str, Any]
) -> None:
    _begin(asked)
    assert _begin(asked, "run by hand", by_hand=True)
    stages.training_failed(asked, "run 1", "run 1 failed: out of memory")
    assert _only(asked).open
    stages.promote(asked, NIGHT, stages.propose(asked, judged))
    assert _only(asked).state == "promoted"


def test_a_training_that_nobody_asked_for_is_a_request_by_hand(usecase: UseCase) -> None:
    assert _begin(usecase, by_hand=True)
    life = _only(usecase)
    assert (life.request.by_hand, life.request.by, life.state) == (True, "ann", "training")


def test_one_outcome_of_several_at_once(asked: UseCase) -> None:
    with ThreadPoolExecutor(4) as pool:
        kinds: tuple[OutcomeKind, ...] = ("failed", "refused", "superseded", "rejected")
        found = list(pool.map(lambda kind: requests.close(asked, NIGHT, kind), kinds))
    closed = [outcome for outcomes in found for outcome in outcomes]
    assert len({outcome.kind for outcome in closed}) == 1
    assert _only(asked).outcome == closed[0]
    assert requests.close(asked, NIGHT, "failed") == []


def test_a_request_that_no_training_took_up_is_sent_again(asked: UseCase) -> None:
    night = NIGHT + timedelta(days=5)
    evidence = Evidence(trigger="schedule", message="schedule: due", facts={})
    requests.ask(asked, night, [evidence], champion_version="1")
    now, grace = datetime.now(UTC), timedelta(minutes=90)

    def to_send(at: datetime) -> list[date]:
        return find_gaps(asked, grace=grace, now=at).again["retrain_request"]

    # Nobody has sent what a person asked for; the night's own event may still be on its way.
    assert to_send(now) == [NIGHT]
    assert to_send(now + timedelta(hours=2)) == [NIGHT, night]
    _begin(asked)
    assert to_send(now + timedelta(hours=2)) == [night]


def test_a_request_that_stays_open_is_alerted_about_once(asked: UseCase) -> None:
    _begin(asked)
    (life,) = requests.lives(asked)
    at = life.request.requested_at
    assert requests.stuck(asked, now=at + timedelta(hours=23)) == []
    assert [life.state for life in requests.stuck(asked, now=at + timedelta(hours=24))] == ["training"]

    manual = ApprovalPolicy(policy="manual", timeout_hours=72)
    decided_by_people = asked.model_copy(update={"gate": asked.gate.model_copy(update={"approval": manual})})
    assert requests.stuck(decided_by_people, now=at + timedelta(hours=95)) == []
    assert len(requests.stuck(decided_by_people, now=at + timedelta(hours=96))) == 1


def test_commands_ask_and_tell(usecase: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_each", lambda name: [usecase])
    monkeypatch.setattr(main, "_one", lambda name: usecase)

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main.app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "nobody has asked" in call("requests")
    said = call("retrain", "--reason", "new sensors", "--partition", "2013-01-20", "--by", "ann")
    assert f"""airflow dags trigger {usecase.name}.train -c '{{"partition": "2013-01-20"}}'""" in said
    _begin(usecase)
    requests.close(usecase, NIGHT, "refused", ["not better"], version="2")
    (row,) = [json.loads(line) for line in call("requests", "--json").splitlines()]
    assert (row["id"], row["state"], row["outcome"]["reasons"]) == ("2013-01-20", "refused", ["not better"])
    assert row["evidence"] == [
        {"trigger": "by_hand", "message": "by hand: new sensors", "facts": {"by": "ann"}}
    ]
    text = call("requests")
    assert "2013-01-20  refused version 2" in text
    assert "by hand: new sensors" in text
