"""Drill: a release that ruins the predictions of the next morning.

The failure: a model passes on paper and then says nonsense of live rows (no number, one score for everybody,
certainty about everything), or it is worse, or its file is not the one that was judged.
The defences: the gate compares with the champion on rows neither knows; a model's file must have the hash it
was registered with; predictions are validated before anybody sees them; and a rollback restores the earlier
champion, names the days that the other one scored, and what applications read follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift import stages
from nightshift.databases import url
from nightshift.errors import DataError
from nightshift.inference.score import LAYER, score
from nightshift.lake import tables
from nightshift.lake.staging import read_staged, stage
from nightshift.partition import days
from nightshift.registry import deployments, models
from nightshift.registry.records import Candidate, Decision
from nightshift.settings import settings
from nightshift.training.snapshot import Snapshot, snapshot
from nightshift.training.train import train
from nightshift.usecase import Trainer, UseCase

Day = Callable[..., pa.Table]

# The champion's first nights, and the night in which the worse model is trained.
DAY, NIGHT = date(2013, 1, 17), date(2013, 1, 19)
AFTER = [date(2013, 1, 20), date(2013, 1, 21)]


@pytest.fixture
def uc(usecase: UseCase, postgres: str, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """A champion in force, a second trainer, and an empty database that applications read."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists serving with (force)")
        connection.execute("create database serving")
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", postgres)
    settings.cache_clear()
    shallow = Trainer(kind="xgboost", params={"rounds": 20, "max_depth": 2})
    trainers = {**usecase.training.trainers, "shallow": shallow}
    return usecase.model_copy(update={"training": usecase.training.model_copy(update={"trainers": trainers})})


def _night(uc: UseCase, day: date) -> None:
    stages.publish_predictions(uc, stages.validate_predictions(uc, stages.score(uc, day, day)))


def _served(uc: UseCase) -> dict[date, set[str]]:
    """The model versions that applications see, by day."""
    with psycopg.connect(url("serving")) as connection:
        rows = connection.execute(
            f"select partition, array_agg(distinct model_version) from predictions.{uc.name} group by 1"
        ).fetchall()
    return {day: set(versions) for day, versions in rows}


# Nonsense -------------------------------------------------------------------------------------------


def _says(uc: UseCase, change: Callable[[np.ndarray], np.ndarray]) -> list[dict[str, Any]]:
    """Stage the day's predictions with other scores, as a model would that behaves so on live rows."""
    rows = read_staged(score(uc, DAY))
    scores = pa.array(change(rows["score"].to_numpy()), pa.float64())
    changed = rows.set_column(rows.column_names.index("score"), "score", scores)
    return [stage(uc, LAYER, DAY, changed, [uc.entity]).model_dump(mode="json")]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        pytest.param(lambda said: np.where(said > 0.5, np.nan, said), "score_", id="no-number"),
        pytest.param(lambda said: np.full_like(said, 0.2), "scores_not_constant", id="constant"),
        pytest.param(lambda said: said * 3, "score_is_probability", id="above-one"),
        pytest.param(lambda said: 1 - said, "training-serving skew", id="turned-over"),
    ],
)
def test_nonsense_is_stopped_before_anybody_sees_it(
    uc: UseCase, change: Callable[[np.ndarray], np.ndarray], rule: str
) -> None:
    _night(uc, DAY)
    before, seen = tables.partition_version(uc, LAYER, DAY), _served(uc)
    with pytest.raises(DataError, match=rule):
        stages.validate_predictions(uc, _says(uc, change))
    assert tables.partition_version(uc, LAYER, DAY) == before
    assert _served(uc) == seen == {DAY: {"1"}}
    # What it says as it was judged is published, so it is the nonsense that was stopped.
    assert stages.validate_predictions(uc, _says(uc, lambda said: said))


def test_a_champion_without_its_features_says_one_thing_of_all_and_is_stopped(
    uc: UseCase, day_of_features: Day
) -> None:
    """The model is as good as it was; what it lives on is gone tonight."""
    rows = day_of_features(DAY).drop_columns("late")
    for name in uc.features.numeric:
        rows = rows.set_column(rows.column_names.index(name), name, pa.nulls(rows.num_rows, pa.float64()))
    for name in uc.features.categorical:
        rows = rows.set_column(rows.column_names.index(name), name, pa.repeat("?", rows.num_rows))
    tables.replace_partition(uc, "features", DAY, rows, [uc.entity])
    with pytest.raises(DataError, match=r"scores_not_constant: 1 \(min_value=2\)"):
        _night(uc, DAY)
    assert tables.partition_version(uc, LAYER, DAY) is None


def test_a_model_that_is_certain_of_everything_is_warned_of(
    uc: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    """Days differ, so this one is published; drift of the scores tells the person on call."""
    with caplog.at_level(logging.WARNING, logger="nightshift"), pytest.raises(DataError, match="skew"):
        stages.validate_predictions(uc, _says(uc, lambda said: 0.99 + said / 1000))
    assert any("mean_score_usual" in message for message in caplog.messages)


@pytest.fixture
def other_weights(uc: UseCase) -> Iterator[None]:
    """Another file than the registered one where the champion lies, as after a copy by hand."""
    weights = models.load_model(uc, "1").folder / "weights.bin"
    registered = weights.read_bytes()
    weights.write_bytes(registered.replace(b"0", b"1", 1))
    yield
    weights.write_bytes(registered)  # MLflow's files are those of all tests.


def test_a_file_that_is_not_the_one_that_was_judged_scores_nothing(uc: UseCase, other_weights: None) -> None:
    with pytest.raises(DataError, match="the stored model has content hash") as stopped:
        score(uc, DAY)
    assert "roll back to an earlier version" in stopped.value.cure


# Worse ----------------------------------------------------------------------------------------------


@pytest.fixture
def worse(uc: UseCase, day_of_features: Day, publish_truth: Day) -> tuple[Snapshot, Candidate]:
    """A model that learnt from labels turned over, which somebody mended just in time for its holdout."""
    holdout = NIGHT - timedelta(days=uc.training.holdout_days)
    for day in days(date(2013, 1, 1), NIGHT - timedelta(days=1)):
        truth = day_of_features(day)
        if day < holdout:
            place = truth.column_names.index("late")
            truth = truth.set_column(place, "late", pc.invert(truth["late"]))
        publish_truth(day, truth)
    taken = snapshot(uc, NIGHT)
    return taken, train(uc, taken, "shallow")


def test_the_gate_refuses_the_worse_model(uc: UseCase, worse: tuple[Snapshot, Candidate]) -> None:
    taken, candidate = worse
    assert candidate.metrics["roc_auc"] > 0.7, "on its own validation rows, turned over too, it shines"
    evaluation = stages.evaluate(uc, taken.model_dump(mode="json"), [candidate.model_dump(mode="json")])
    decision = stages.gate(uc, evaluation)
    told = "; ".join(decision["reasons"])
    assert not decision["promote"]
    assert "breaks its floor 0.62" in told
    assert "may be more than 0.01 below the champion's" in told
    with pytest.raises(DataError, match="the gate refused"):
        stages.promote(uc, NIGHT, decision)


def test_a_rollback_restores_what_applications_read(uc: UseCase, worse: tuple[Snapshot, Candidate]) -> None:
    """Somebody overruled the gate. Two mornings later the earlier champion is back, for these days too."""
    _, candidate = worse
    _night(uc, DAY)
    forced = Decision(promote=True, candidate=candidate, metrics={}, reasons=["it will do"], rival="1")
    deployments.promote(uc, forced, effective_from=AFTER[0], by="somebody")
    for day in AFTER:
        _night(uc, day)
    assert _served(uc) == {DAY: {"1"}, AFTER[0]: {"2"}, AFTER[1]: {"2"}}

    stages.roll_back(uc, None, AFTER[0], "complaints")
    assert deployments.contradicted(uc) == dict.fromkeys(AFTER, ("2", "1"))
    for day in deployments.contradicted(uc):
        _night(uc, day)
    assert deployments.contradicted(uc) == {}
    assert _served(uc) == {DAY: {"1"}, AFTER[0]: {"1"}, AFTER[1]: {"1"}}
    published = tables.read_partitions(uc, LAYER, *AFTER).sort_by(uc.entity)
    features = tables.read_partitions(uc, "features", *AFTER).sort_by(uc.entity)
    expected = models.load_model(uc, "1").predict_proba(features)
    np.testing.assert_array_equal(published["score"].to_numpy(), expected)

    # The model that was taken back does not return by itself, however good it looks next time.
    assert deployments.rolled_back(uc, candidate.content_hash) is not None
