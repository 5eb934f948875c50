"""The commands about versions, on a trained state: what they say is what every prediction names."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli import main
from nightshift.evaluation.evaluate import evaluate
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import append_log, tables
from nightshift.partition import days
from nightshift.registry import deployments, states
from nightshift.registry.records import Decision
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import Trainer, UseCase

FIRST_SCORED, RETRAINED, LAST = date(2013, 1, 17), date(2013, 1, 20), date(2013, 1, 22)
SECOND = RETRAINED + timedelta(days=1)


def call(*arguments: str, given: str = "", code: int = 0) -> str:
    result = CliRunner().invoke(main.app, arguments, input=given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def rows(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(*arguments, "--json").splitlines()]


@pytest.fixture
def production(
    usecase: UseCase,
    day_of_features: Callable[..., pa.Table],
    publish_truth: Callable[..., pa.Table],
    monkeypatch: pytest.MonkeyPatch,
) -> UseCase:
    """Six nights: four scored by version 1, two by version 2, as the nightly runs would have done."""
    # The commands read use cases from their files; this one exists for these tests alone.
    monkeypatch.setattr(main, "_each", lambda name: [usecase])
    monkeypatch.setattr(main, "_one", lambda name: usecase)
    for night in days(FIRST_SCORED, LAST):
        if night == SECOND:
            for day in days(date(2013, 1, 16), RETRAINED - timedelta(days=1)):
                publish_truth(day, day_of_features(day))
            candidate = train(usecase, snapshot(usecase, RETRAINED), "xgboost")
            decision = Decision(
                promote=True, candidate=candidate, metrics=candidate.metrics, reasons=["ok"], rival="1"
            )
            deployments.promote(usecase, decision, effective_from=SECOND)
        publish_predictions(usecase, score(usecase, night))
    return usecase


def named(uc: UseCase) -> dict[date, str]:
    found = tables.constants(uc, "predictions", FIRST_SCORED, LAST, ["model_version"])
    return {day: row["model_version"] for day, row in found.items()}


def test_what_was_in_production_is_what_every_prediction_of_the_day_names(production: UseCase) -> None:
    assert set(named(production).values()) == {"1", "2"}
    for day in days(FIRST_SCORED, LAST):
        (found,) = rows("registry", "at", f"{day}")
        predictions = tables.read_partitions(production, "predictions", day, day)
        assert set(predictions["model_version"].to_pylist()) == {found["champion"]["version"]}
        assert set(predictions["model_hash"].to_pylist()) == {found["champion"]["model_hash"]}
        assert found["agree"]
    assert "version 2 (xgboost)" in call("registry", "at", f"{LAST}")
    assert "no champion was in force" in call("registry", "at", "2013-01-10")
    listed = {row["version"]: row["state"] for row in rows("registry", "list")}
    assert listed == {"2": "champion", "1": "archived"}
    assert "archived" in call("registry", "list")
    steps = [(row["action"], row["version"]) for row in rows("registry", "log")]
    assert steps == [(action, of) for of in ("1", "2") for action in ("register", "challenge", "promote")]
    assert "version 1 champion -> archived" in call("registry", "log")


def test_rolling_back_is_one_step_and_names_the_nights_to_rebuild(production: UseCase) -> None:
    asked = call("rollback", "--from", f"{SECOND}", given="too many false alarms\ny\n")
    assert f"version 1 takes the place of version 2 from {SECOND} on" in asked
    assert f"To be rebuilt: {SECOND} to {LAST}" in asked
    assert f'"start": "{SECOND}", "end": "{LAST}"' in asked
    assert not rows("registry", "at", f"{LAST}")[0]["agree"]
    assert "rebuild them" in call("registry", "at", f"{LAST}")
    for night in days(SECOND, LAST):
        publish_predictions(production, score(production, night))
    assert set(named(production).values()) == {"1"}
    assert rows("registry", "at", f"{LAST}")[0]["agree"]
    (last,) = rows("registry", "log")[-1:]
    assert (last["action"], last["reasons"]) == ("rollback", ["too many false alarms"])
    assert last["changes"] == [
        {"version": "1", "from": "archived", "to": "champion"},
        {"version": "2", "from": "champion", "to": "archived"},
    ]


def test_a_rollback_scores_from_the_next_night_on_and_again_it_changes_nothing(production: UseCase) -> None:
    said = call("rollback", "--yes", "--reason", "a drill", "--by", "ada")
    assert f"version 1 is champion from {LAST + timedelta(days=1)} on" in said
    assert "No night has to be rebuilt" in said
    before = deployments.history(production)
    assert before[-1].by == "ada"
    assert "is the champion already" in call("rollback", "--yes", "--reason", "a drill")
    assert deployments.history(production) == before
    publish_predictions(production, score(production, LAST + timedelta(days=1)))
    assert tables.constants(production, "predictions", LAST, LAST + timedelta(days=1), ["model_version"]) == {
        LAST: {"model_version": "2"},
        LAST + timedelta(days=1): {"model_version": "1"},
    }


def test_another_rollback_names_its_version(production: UseCase) -> None:
    call("rollback", "--yes", "--reason", "a drill")
    before = deployments.history(production)
    assert "name one of the champions so far: 1, 2" in call(
        "rollback", "--yes", "--reason", "another", code=1
    )
    assert deployments.history(production) == before
    assert "version 2 is champion from" in call("rollback", "2", "--yes", "--reason", "another")


def test_a_stretch_of_nights_reads_the_deployment_log_once(
    production: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = append_log.read_log, []

    def counted(log: str) -> list[dict[str, Any]]:
        asked.append(log)
        return read(log)

    monkeypatch.setattr(append_log, "read_log", counted)
    staged = stages.score(production, FIRST_SCORED, LAST)
    stages.check_drift(production, FIRST_SCORED, LAST)
    assert len(staged) == 6
    assert asked.count(states.log_name(production)) == 2


def test_what_was_judged_twice_on_one_holdout_says_why(production: UseCase) -> None:
    judged = snapshot(production, RETRAINED)
    candidate = train(production, judged, "xgboost")
    evaluate(production, judged, [candidate])
    flat = Trainer(kind="xgboost", params={"rounds": 10, "max_depth": 1})
    training = production.training.model_copy(update={"trainers": {"flat": flat}})
    other = train(production.model_copy(update={"training": training}), judged, "flat")
    evaluate(production, judged, [candidate, other], by="ada", override="the first report was wrong")
    assert "by ada: the first report was wrong" in " ".join(call("registry", "show", "2").split())
    shown = json.loads(call("registry", "show", "2", "--json"))
    assert [look["override"] for look in shown["holdout_overrides"]] == ["the first report was wrong"]
    assert json.loads(call("registry", "show", "1", "--json"))["holdout_overrides"] == []


def test_who_says_no_changes_nothing(production: UseCase) -> None:
    before = deployments.history(production)
    call("rollback", given="a drill\nn\n", code=1)
    assert "nobody is asked" in call("rollback", "--yes", code=2)
    assert "was never champion" in call("rollback", "7", "--yes", "--reason", "a drill", code=1)
    assert deployments.history(production) == before


def test_a_version_shows_what_made_it_and_its_card(production: UseCase) -> None:
    (champion,) = [row for row in rows("registry", "list") if row["state"] == "champion"]
    shown = call("registry", "show", "2")
    assert champion["model_hash"] in shown
    assert champion["run_id"] in shown
    card = call("registry", "show", "2", "--card")
    assert "Known leak: tail numbers are of the aircraft that flew" in " ".join(card.split())
    assert "Owner: data-platform" in card
    assert "it has 1, 2" in call("registry", "show", "9", code=1)
