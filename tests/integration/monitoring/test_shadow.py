"""A challenger that awaits a decision scores beside the champion, and both are judged on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score
from tests.servers import S3_CREDENTIALS
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli import main
from nightshift.errors import TransientError
from nightshift.inference import shadow as scoring
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.monitoring import shadow, truth
from nightshift.partition import days
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Decision
from nightshift.settings import settings
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]
TRAINED, LAST = date(2013, 1, 18), date(2013, 1, 22)


@pytest.fixture
def decision(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> dict[str, Any]:
    """The gate's yes about a model of TRAINED, which a person is asked about."""
    for day in days(date(2013, 1, 16), TRAINED - timedelta(days=1)):
        publish_truth(day, day_of_features(day))
    candidate = train(usecase, snapshot(usecase, TRAINED), "xgboost")
    passed = Decision(
        promote=True, candidate=candidate, metrics={"roc_auc": 0.7}, reasons=["good"], rival="1"
    )
    return stages.propose(usecase, passed.model_dump(mode="json"))


def _live(uc: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    """Nights as the DAGs run them: champion, challenger, and a night later the truth of most rows."""
    for night in days(TRAINED, LAST):
        publish_predictions(uc, score(uc, night))
        stages.score_shadow(uc, night)
        publish_truth(night, day_of_features(night), unknown=250)
        found = truth.judge(uc, night + timedelta(days=1))
        stages.judge_shadow(uc, found)


def _versions(uc: UseCase, layer: str) -> dict[date, int]:
    return {day: version.table_version for day, version in tables.partition_versions(uc, layer).items()}


def test_both_are_judged_on_the_same_rows(
    usecase: UseCase, decision: dict[str, Any], day_of_features: Day, publish_truth: Day
) -> None:
    _live(usecase, day_of_features, publish_truth)
    # Its first night is the one after it was trained.
    scored = list(days(TRAINED + timedelta(days=1), LAST))
    assert list(tables.partition_versions(usecase, scoring.LAYER)) == scored
    compared = shadow.compare(usecase, "2")
    assert compared is not None
    assert (compared.days, compared.rows) == (tuple(scored), 250 * len(scored))
    outcomes = tables.read_partitions(usecase, "outcomes", scored[0], LAST)
    outcomes = outcomes.filter(pc.is_valid(outcomes["label"])).select(["flight_id", "label", "score"])
    challenger = tables.read_partitions(usecase, scoring.LAYER, scored[0], LAST, ["flight_id", "score"])
    pairs = outcomes.join(challenger, "flight_id", right_suffix="_2", join_type="inner")
    assert compared.champion["roc_auc"] == pytest.approx(roc_auc_score(pairs["label"], pairs["score"]))
    assert compared.challenger["roc_auc"] == pytest.approx(roc_auc_score(pairs["label"], pairs["score_2"]))
    between = compared.differences["roc_auc"]
    assert between.low <= compared.challenger["roc_auc"] - compared.champion["roc_auc"] <= between.high
    # What is kept of each day says the same of its rows.
    (kept,) = tables.read_partitions(usecase, shadow.LAYER, LAST, LAST).to_pylist()
    assert (kept["rows"], kept["challenger_version"]) == (250, "2")
    assert kept["challenger_roc_auc"] != kept["champion_roc_auc"]
    before = {layer: _versions(usecase, layer) for layer in (scoring.LAYER, shadow.LAYER)}
    _live(usecase, day_of_features, publish_truth)
    assert {layer: _versions(usecase, layer) for layer in before} == before


def test_a_row_that_only_one_scored_takes_no_part(
    usecase: UseCase, decision: dict[str, Any], day_of_features: Day, publish_truth: Day
) -> None:
    _live(usecase, day_of_features, publish_truth)
    rows = tables.read_partitions(usecase, scoring.LAYER, LAST, LAST)
    tables.replace_partition(usecase, scoring.LAYER, LAST, rows.slice(100), [usecase.entity])
    assert stages.judge_shadow(usecase, {LAST.isoformat(): {"status": "judged"}}) == {LAST.isoformat(): 150}
    compared = shadow.compare(usecase, "2")
    assert compared is not None
    assert compared.rows == 250 * 4 - 100


def test_a_challenger_that_fails_stops_no_night(
    usecase: UseCase,
    decision: dict[str, Any],
    day_of_features: Day,
    publish_truth: Day,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _live(usecase, day_of_features, publish_truth)
    version = scoring.challenger(usecase).version
    tracking.client(usecase).set_model_version_tag(usecase.name, version, "content_hash", "another")
    assert stages.score_shadow(usecase, LAST) is None
    assert f"the challenger could not score {LAST}" in caplog.text
    rows = tables.read_partitions(usecase, scoring.LAYER, LAST, LAST)
    useless = rows.set_column(
        rows.column_names.index("score"), "score", pa.nulls(rows.num_rows, pa.float64())
    )
    tables.replace_partition(usecase, scoring.LAYER, LAST, useless, [usecase.entity])
    before = LAST - timedelta(days=1)
    found = {day.isoformat(): {"status": "judged"} for day in (LAST, before)}
    assert stages.judge_shadow(usecase, found) == {before.isoformat(): 250}
    assert f"the challenger could not be judged on {LAST}" in caplog.text


def test_bad_luck_of_a_challenger_is_for_another_try(
    usecase: UseCase,
    decision: dict[str, Any],
    day_of_features: Day,
    publish_truth: Day,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left out, a night of its shadow would be missing for good, and the judgement of it with it."""
    _live(usecase, day_of_features, publish_truth)
    with pytest.raises(TransientError, match="are not published yet"):
        stages.score_shadow(usecase, LAST + timedelta(days=10))
    for name, value in {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NIGHTSHIFT_LAKE", "s3://lake/out-of-reach")
    settings.cache_clear()
    with pytest.raises(TransientError, match="the storage failed"):
        stages.judge_shadow(usecase, {LAST.isoformat(): {"status": "judged"}})


def test_without_a_challenger_nothing_is_scored_beside(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    _live(usecase, day_of_features, publish_truth)
    assert scoring.LAYER not in tables.layers(usecase)
    assert shadow.LAYER not in tables.layers(usecase)
    assert shadow.compare(usecase, "2") is None


def test_once_it_is_decided_about_the_shadow_ends(
    usecase: UseCase, decision: dict[str, Any], day_of_features: Day, publish_truth: Day
) -> None:
    _live(usecase, day_of_features, publish_truth)
    before = _versions(usecase, scoring.LAYER)
    stages.decide(usecase, decision, {"decision": "rejected", "by": "bob", "at": datetime.now(UTC)})
    assert stages.score_shadow(usecase, LAST) is None
    assert stages.score_shadow(usecase, LAST + timedelta(days=1)) is None
    assert _versions(usecase, scoring.LAYER) == before


def test_the_question_and_the_command_show_it(
    usecase: UseCase,
    decision: dict[str, Any],
    day_of_features: Day,
    publish_truth: Day,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "_each", lambda name: [usecase])

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main.app, ["shadow", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    _, question = stages.ask(usecase, decision)
    assert "nothing is known yet of nights that version 2 scored" in question
    assert "no night that it scored is judged yet" in call()
    assert call("--json") == ""
    _live(usecase, day_of_features, publish_truth)
    _, question = stages.ask(usecase, decision)
    assert "on 1,000 rows of 4 nights, 2013-01-19 to 2013-01-22" in question
    assert "1,000 rows that both scored" in " ".join(call().split())
    found = json.loads(call("--json"))
    assert (found["version"], found["rows"]) == ("2", 1000)
