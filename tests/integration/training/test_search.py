"""Searches for parameters, with their trials in a real PostgreSQL and in MLflow."""

from __future__ import annotations

import shutil
import signal
import statistics
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests import synthetic
from tests.forked import die_at_step, preload, start
from tests.lakes import environment, put_lake

from nightshift import databases
from nightshift.errors import DataError, TransientError
from nightshift.lake.store import open_store
from nightshift.registry import mlflow as tracking
from nightshift.settings import settings
from nightshift.training import search
from nightshift.training.search import Search, Trial, conclude, open_search, run_trial
from nightshift.training.snapshot import Snapshot, snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

NIGHT = date(2020, 2, 3)
# Curves have fifty points, however many steps a training has.
TENTH = 5

preload("mlflow", "mlflow.store.tracking.sqlalchemy_store", "nightshift.training.search")

# What is in force learns nothing: one round of a tree that must hold all rows. Anything else is better.
BAD = {"rounds": 12, "early_stopping_rounds": 5, "learning_rate": 0.01, "max_depth": 1}
SPACE = {
    "learning_rate": {"low": 0.01, "high": 0.5, "log": True},
    "max_depth": {"low": 1, "high": 4},
    "min_child_weight": {"choices": [1, 40]},
}


def use_case(space: dict[str, Any] = SPACE, params: dict[str, Any] = BAD, **rules: Any) -> UseCase:
    whole = synthetic.use_case().training.model_dump()
    whole["trainers"]["trees"]["params"] = params
    whole |= {"checkpoint_seconds": 1e-6}
    whole["search"] = {"trials": 5, "minutes": 60, "spaces": {"trees": space}} | rules
    return synthetic.use_case(training=whole)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with published days and an MLflow that is set up."""
    state = tmp_path_factory.mktemp("published")
    with environment(state):
        synthetic.publish(use_case(), synthetic.START, NIGHT)
        tracking.setup(use_case())
    return state


@pytest.fixture
def taken(home: Path, published: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """The snapshot to learn from, in a lake of the test's own, and a PostgreSQL that knows no search."""
    shutil.copytree(published / "mlflow", home / "mlflow")
    put_lake(published / "lake")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists searches with (force)")
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", postgres)
    settings.cache_clear()
    return snapshot(use_case(), NIGHT)


def runs(uc: UseCase) -> list[Any]:
    return list(tracking.client(uc).search_runs([tracking.setup(uc)]))


def run_of(uc: UseCase, trial: Trial) -> Any:
    assert trial.run_id is not None
    return tracking.client(uc).get_run(trial.run_id)


def curve(uc: UseCase, trial: Trial) -> dict[int, float]:
    assert trial.run_id is not None
    points = tracking.client(uc).get_metric_history(trial.run_id, "curve_validation_log_loss")
    assert len({point.step for point in points}) == len(points), "a point was logged twice"
    return {point.step: point.value for point in points}


def search_and_be_killed(opened: dict[str, Any], index: int, at_step: int) -> None:
    """Run a trial in this process, which is killed once it has reported a step."""
    die_at_step(at_step)
    run_trial(use_case(), Search.model_validate(opened), index)


def killed(opened: Search, index: int, at_step: int) -> None:
    victim = start(search_and_be_killed, opened.model_dump(mode="json"), index, at_step)
    victim.join()
    assert victim.exitcode == -signal.SIGKILL


def test_it_finds_what_is_better_and_says_how_to_take_it_over(taken: Snapshot) -> None:
    uc = use_case()
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(opened.trials)]
    found = conclude(uc, opened)

    declared, best = trials[0], trials[found.best]
    assert declared.params == {"learning_rate": 0.01, "max_depth": 1, "min_child_weight": 40}
    assert declared.log_loss == pytest.approx(train(uc, taken, "trees").metrics["log_loss"], abs=1e-12)
    assert found.best != 0
    assert best.log_loss < declared.log_loss - 0.02
    assert best.log_loss == min(trial.log_loss for trial in trials if trial.state == "complete")

    # What is proposed, put into the use case, gives the model that the search promised.
    proposed = yaml.safe_load(found.proposal)["training"]["trainers"]["trees"]["params"]
    assert proposed == BAD | best.params
    taken_over = train(use_case(params=proposed), taken, "trees")
    assert taken_over.metrics["log_loss"] == pytest.approx(best.log_loss, abs=1e-12)
    assert f"{best.log_loss:.5f}" in found.proposal
    assert f"{declared.log_loss:.5f}" in found.proposal


def test_every_trial_is_a_run_under_that_of_the_search(taken: Snapshot) -> None:
    uc = use_case(trials=2)
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(2)]
    found = conclude(uc, opened)
    parent = tracking.client(uc).get_run(opened.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_log_loss"] == trials[found.best].log_loss
    assert parent.data.metrics["trials_complete"] == 2
    artifact = tracking.fluent(uc).artifacts.load_text(f"{parent.info.artifact_uri}/proposal.yml")
    assert artifact == found.proposal
    for trial in trials:
        run = run_of(uc, trial)
        assert run.data.tags["mlflow.parentRunId"] == opened.run_id
        assert run.data.tags["state"] == "complete"
        assert run.info.status == "FINISHED"
        assert run.data.params["max_depth"] == str(trial.params["max_depth"])
        assert run.data.metrics["validation_log_loss"] == trial.log_loss
        assert len(curve(uc, trial)) == 12
    assert len(runs(uc)) == 3


def test_opened_tried_and_concluded_again_it_stays_as_it_is(taken: Snapshot) -> None:
    uc = use_case(trials=2)
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(2)]
    found = conclude(uc, opened)
    before = {run.info.run_id: run.to_dictionary() for run in runs(uc)}

    assert open_search(uc, taken, "trees") == opened
    assert [run_trial(uc, opened, index) for index in range(2)] == trials
    assert conclude(uc, opened) == found
    assert {run.info.run_id: run.to_dictionary() for run in runs(uc)} == before
    assert open_search(uc, taken, "trees", trials=3).name != opened.name


def test_a_killed_trial_is_taken_up_with_its_parameters_and_ends_the_same(
    taken: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    uc = use_case()
    opened = open_search(uc, taken, "trees")
    for step in (4, 11):
        killed(opened, 1, step)
    [drawn] = [run for run in runs(uc) if run.info.run_id != opened.run_id]
    assert open_store().list("checkpoints/")
    with caplog.at_level("INFO"):
        trial = run_trial(uc, opened, 1)
    assert "goes on from a checkpoint" in caplog.text
    assert trial.run_id == drawn.info.run_id
    assert len(runs(uc)) == 2
    assert open_store().list("checkpoints/") == []

    _forget_searches()
    again = open_search(uc, taken, "trees")
    undisturbed = run_trial(uc, again, 1)
    assert trial.params == undisturbed.params
    assert trial.metrics == undisturbed.metrics
    assert curve(uc, trial) == curve(uc, undisturbed)


def _forget_searches() -> None:
    """As if nobody had ever searched."""
    with psycopg.connect(databases.url("postgres"), autocommit=True) as connection:
        connection.execute("drop database searches with (force)")
    client = tracking.client(use_case())
    for run in runs(use_case()):
        client.delete_tag(run.info.run_id, "search" if "search" in run.data.tags else "search_trial")


@pytest.mark.parametrize("dies_in", ["_log_trial", "_tell"])
def test_dying_between_the_writes_at_its_end_makes_no_second_run(
    taken: Snapshot, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    uc = use_case()
    opened = open_search(uc, taken, "trees")
    whole = getattr(search, dies_in)

    def dying(*args: Any) -> None:
        whole(*args)
        raise ConnectionError("the machine was switched off")

    with monkeypatch.context() as patch:
        patch.setattr(search, dies_in, dying)
        with pytest.raises(ConnectionError):
            run_trial(uc, opened, 1)
    trial = run_trial(uc, opened, 1)
    assert trial.state == "complete"
    assert run_of(uc, trial).info.status == "FINISHED"
    assert len(runs(uc)) == 2
    assert len(curve(uc, trial)) == 12
    assert run_trial(uc, opened, 1) == trial
    assert open_store().list("checkpoints/") == []


def open_and_run(night: str, index: int) -> None:
    """Open the search, as others do at the same moment, and run one of its trials."""
    uc = use_case()
    run_trial(uc, open_search(uc, snapshot(uc, date.fromisoformat(night)), "trees"), index)


def test_many_at_once_open_one_search_and_run_its_trials_once_each(taken: Snapshot) -> None:
    uc = use_case()
    others = [start(open_and_run, NIGHT.isoformat(), index) for index in (0, 1, 2, 2)]
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0, 0]
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(3)]
    assert {trial.state for trial in trials} == {"complete"}
    assert len({str(trial.params) for trial in trials}) == 3
    assert {run.info.run_id for run in runs(uc)} == {opened.run_id, *(trial.run_id for trial in trials)}
    assert {run_of(uc, trial).info.status for trial in trials} == {"FINISHED"}


def worse_than_the_median(uc: UseCase, trial: Trial, trials: list[Trial]) -> int | None:
    """The first point at which three trials before this one were complete and half of them were better."""
    before = [other for other in trials[: trial.index] if other.state == "complete"]
    others, mine = [curve(uc, other) for other in before], curve(uc, trial)
    for point in sorted(mine):
        there = [losses[point] for losses in others if point in losses]
        best = min(loss for at, loss in mine.items() if at <= point)
        if point >= TENTH and len(there) >= 3 and best > statistics.median(there):
            return point
    return None


def test_what_is_worse_than_the_others_is_called_off(taken: Snapshot) -> None:
    rates = {"learning_rate": {"low": 0.0001, "high": 0.3, "log": True}}
    uc = use_case(rates, BAD | {"learning_rate": 0.3}, trials=7)
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(7)]
    found = conclude(uc, opened)
    assert [trial.state for trial in trials[:3]] == ["complete"] * 3, "with what would they be compared?"
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        run = run_of(uc, trial)
        assert (run.info.status, run.data.tags["state"]) == ("KILLED", "pruned")
        assert "median" in run.data.tags["message"]
        assert "validation_log_loss" not in run.data.metrics
        losses = curve(uc, trial)
        assert 0 < len(losses) < 12
        assert worse_than_the_median(uc, trial, trials) == max(losses)
    assert all(worse_than_the_median(uc, trial, trials) is None for trial in trials if trial not in pruned)
    assert trials[found.best].state == "complete"
    assert f"{len(pruned)} pruned" in found.proposal
    assert tracking.client(uc).get_run(opened.run_id).data.metrics["trials_pruned"] == len(pruned)
    assert open_store().list("checkpoints/") == []


def test_what_a_trainer_refuses_only_when_it_trains_fails_alone(taken: Snapshot) -> None:
    constraints = {"choices": ["(0,0,0,0,0)", "(rising,0,0,0,0)"]}
    uc = use_case({"monotone_constraints": constraints}, BAD | {"monotone_constraints": "(0,0,0,0,0)"})
    opened = open_search(uc, taken, "trees")
    trials = [run_trial(uc, opened, index) for index in range(opened.trials)]
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    for trial in failed:
        assert trial.params == {"monotone_constraints": "(rising,0,0,0,0)"}
        run = run_of(uc, trial)
        assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
        assert "monotone_constraints" in run.data.tags["message"]
        assert run_trial(uc, opened, trial.index) == trial
    assert f"{len(failed)} failed" in conclude(uc, opened).proposal


def test_a_value_in_force_may_be_written_otherwise_in_its_space(taken: Snapshot) -> None:
    uc = use_case({"reg_lambda": {"choices": [1, 10, 50]}}, trials=2)
    opened = open_search(uc, taken, "trees")
    trial = run_trial(uc, opened, 0)
    assert (trial.state, trial.params) == ("complete", {"reg_lambda": 10}), "the default is 10.0"


def test_a_trial_that_never_ends_takes_nothing_from_the_others(taken: Snapshot) -> None:
    uc = use_case(trials=3)
    opened = open_search(uc, taken, "trees")
    run_trial(uc, opened, 0)
    killed(opened, 1, 4)
    best = run_trial(uc, opened, 2)
    found = conclude(uc, opened)
    given_up = found.trials[1]
    assert (given_up.state, found.best) == ("failed", best.index)
    run = run_of(uc, given_up)
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "failed")
    assert "the log of its task says why" in run.data.tags["message"]
    assert run_trial(uc, opened, 1) == given_up, "the search is concluded"
    assert conclude(uc, opened) == found
    assert open_store().list("checkpoints/") == []


def test_no_trial_begins_after_the_minutes_are_over(taken: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    uc = use_case(trials=4, minutes=30)
    opened = open_search(uc, taken, "trees")
    with pytest.raises(DataError, match="not begun") as refused:
        conclude(uc, opened)
    assert "minutes" in refused.value.cure
    run_trial(uc, opened, 0)
    killed(opened, 1, 4)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(minutes=31)

    with monkeypatch.context() as patch:
        patch.setattr(search, "datetime", Later)
        assert run_trial(uc, opened, 2).state == "not begun"
        assert run_trial(uc, opened, 1).state == "complete", "it had begun in time"
        found = conclude(uc, opened)
    assert [trial.state for trial in found.trials] == ["complete", "complete", "not begun", "not begun"]
    assert run_trial(uc, opened, 3).state == "not begun", "the search is concluded"
    assert len(runs(uc)) == 3


@pytest.mark.parametrize(
    ("trainer", "name", "space", "message"),
    [
        ("trees", "max_dept", {"low": 1, "high": 4}, '"max_dept" } are not used'),
        ("trees", "max_depth", {"low": -3, "high": 4}, "max_depth = -3"),
        ("trees", "early_stopping_rounds", {"choices": [5, "five"]}, "'five' is no number of rounds"),
        ("trees", "gamma", {"low": 0.0, "high": 4.0}, "gamma has no value"),
        ("trees", "max_depth", {"low": 2, "high": 4}, "max_depth is 1, which is not in its space"),
        ("network", "drop_out", {"low": 0.1, "high": 0.5}, "Extra inputs are not permitted"),
        ("network", "dropout", {"low": 0.1, "high": 1.5}, "dropout = 1.5"),
    ],
)
def test_a_space_that_the_trainer_refuses_stops_before_anything_runs(
    taken: Snapshot, trainer: str, name: str, space: dict[str, Any], message: str
) -> None:
    uc = use_case(spaces={trainer: {name: space}})
    with pytest.raises(DataError) as refused:
        open_search(uc, taken, trainer)
    assert message in refused.value.message
    assert refused.value.where.endswith(f"usecase.yml, training.search.spaces.{trainer}.{name}")
    assert refused.value.cure
    assert refused.value.rule
    assert runs(uc) == []


def test_a_trainer_without_a_space_is_refused(taken: Snapshot) -> None:
    with pytest.raises(DataError, match="no space to search for 'network'; there are: trees"):
        open_search(use_case(), taken, "network")


def test_another_use_case_or_server_does_not_go_on_with_a_search(
    taken: Snapshot, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_search(use_case(), taken, "trees")
    with pytest.raises(DataError, match="no longer what this search began with"):
        run_trial(use_case(params=BAD | {"subsample": 0.5}), opened, 0)
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://nobody:x@127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(TransientError, match="does not answer"):
        run_trial(use_case(), opened, 0)


def test_holdout_rows_are_not_even_there(taken: Snapshot) -> None:
    """Of the whole lake, only the train and validation rows are left."""
    uc = use_case(trials=2)
    store = open_store()
    assert taken.sealed.key in store.list("")
    for key in store.list(""):
        if key != taken.data.key:
            store.delete(key)
    opened = open_search(uc, taken, "trees")
    assert [run_trial(uc, opened, index).state for index in range(2)] == ["complete", "complete"]
    conclude(uc, opened)


def test_a_network_is_searched_for_too(taken: Snapshot) -> None:
    space = {"hidden": {"choices": [[16], [8, 8]]}, "dropout": {"low": 0.0, "high": 0.6, "step": 0.3}}
    uc = use_case(spaces={"network": space}, trials=3)
    opened = open_search(uc, taken, "network")
    trials = [run_trial(uc, opened, index) for index in range(3)]
    assert trials[0].params == {"dropout": 0.3, "hidden": [16]}
    for trial in trials:
        assert trial.state == "complete"
        assert trial.params["hidden"] in ([16], [8, 8])
        assert trial.params["dropout"] in (0.0, 0.3, 0.6)
    proposed = yaml.safe_load(conclude(uc, opened).proposal)["training"]["trainers"]["network"]["params"]
    assert proposed["epochs"] == 4
    assert proposed["hidden"] in ([16], [8, 8])
