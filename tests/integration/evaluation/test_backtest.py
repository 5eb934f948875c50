"""Trainers at several cut-offs: none knows what its night did not, and the leak alarm knows how they did."""

from __future__ import annotations

import re
import signal
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests import synthetic
from tests.forked import preload, run
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.errors import DataError
from nightshift.evaluation.backtest import Backtest, backtest, conclude, evaluate_fold, folds_of, recorded
from nightshift.evaluation.backtest_report import write_backtest
from nightshift.evaluation.evaluate import evaluate
from nightshift.evaluation.leakage import refuse_beyond_backtest, refuse_implausible
from nightshift.lake import append_log, tables
from nightshift.lake.store import open_store
from nightshift.partition import days
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Candidate
from nightshift.settings import settings
from nightshift.training.logistic_trainer import LogisticTrainer
from nightshift.training.snapshot import Snapshot, labels_of, load, snapshot
from nightshift.training.train import train
from nightshift.training.xgboost_trainer import XGBoostTrainer
from nightshift.usecase import UseCase

preload("nightshift.evaluation.backtest", "nightshift.lake.s3", "xgboost", "sklearn.linear_model")

LAST = synthetic.START + timedelta(days=48)
NIGHT = LAST + timedelta(days=1)
TRAINERS = {
    "trees": {"kind": "xgboost", "params": {"rounds": 30, "max_depth": 3, "early_stopping_rounds": 5}},
    "line": {"kind": "logistic"},
}


def use_case(**changes: object) -> UseCase:
    training = {"window_days": 60, "validation_days": 7, "holdout_days": 7, "seed": 7, "trainers": TRAINERS}
    return synthetic.use_case(**{"training": training, "evaluation": {"backtest": {"folds": 3}}, **changes})


@pytest.fixture
def uc(home: Path) -> UseCase:
    """Seven weeks of made-up orders."""
    found = use_case()
    synthetic.publish(found, synthetic.START, LAST)
    return found


@pytest.fixture
def taken(uc: UseCase) -> Snapshot:
    return snapshot(uc, NIGHT)


def figures(found: Backtest) -> list[tuple[str, date, str, dict[str, float]]]:
    """What a backtest says, clocks aside."""
    return [(o.trainer, o.cutoff, o.model_hash, o.metrics) for o in found.outcomes]


def test_each_model_knows_what_its_night_knew_and_is_tested_on_the_days_after(
    uc: UseCase, taken: Snapshot
) -> None:
    rows = pa.concat_tables([load(taken, "train"), load(taken, "validation")])
    since = pa.concat_tables([synthetic.labels_of(day) for day in days(synthetic.START, LAST)])
    position = pc.index_in(rows["order_id"], value_set=since["order_id"].combine_chunks())
    known = since["label_available_on"].take(position).to_numpy()
    day = rows["partition"].to_numpy()
    folds = folds_of(uc, taken)
    assert [fold.cutoff for fold in folds] == [
        taken.validation.end - timedelta(days=back) for back in (20, 13, 6)
    ]
    for fold in folds:
        assert fold.train.start == synthetic.START
        assert fold.validation.start == fold.train.end + timedelta(days=1) == fold.cutoff - timedelta(days=7)
        assert fold.validation.end == fold.cutoff - timedelta(days=1)
        assert (fold.test.start, fold.test.end) == (fold.cutoff, fold.cutoff + timedelta(days=6))
        learned = (day < np.datetime64(fold.cutoff)) & (known <= np.datetime64(fold.cutoff))
        # Every tenth label of the last day came a night later.
        assert learned.sum() < (day < np.datetime64(fold.cutoff)).sum()
        assert fold.train.rows + fold.validation.rows == learned.sum()
    assert folds[-1].test.end == taken.validation.end < taken.holdout.start


def test_labels_that_come_later_leave_days_out_before_the_test(home: Path) -> None:
    uc = use_case(label={"column": "returned", "relation": "labels_synthetic", "lag_days": 3})
    synthetic.publish(uc, synthetic.START, LAST)
    for fold in folds_of(uc, snapshot(uc, LAST + timedelta(days=3)), 2):
        assert fold.validation.end == fold.cutoff - timedelta(days=3)


def test_what_happens_after_a_cutoff_changes_no_model_of_it(uc: UseCase, taken: Snapshot) -> None:
    before = backtest(uc, taken)
    second = before.folds[1].cutoff
    # From the second cut-off on, the world turns over.
    turned = {}
    for day in days(second, LAST):
        labels = synthetic.labels_of(day)
        turned[day] = labels.set_column(
            labels.schema.get_field_index("returned"), "returned", pc.subtract(1, labels["returned"])
        )
    tables.replace_partitions(uc, "labels", turned, [uc.entity])
    after = backtest(uc, snapshot(uc, NIGHT))
    was, now = ({(o.trainer, o.cutoff): o for o in found.outcomes} for found in (before, after))
    for trainer in TRAINERS:
        for number, fold in enumerate(before.folds):
            old, new = was[trainer, fold.cutoff], now[trainer, fold.cutoff]
            assert (new.model_hash == old.model_hash) == (number < 2)
        assert now[trainer, before.folds[0].cutoff].metrics == was[trainer, before.folds[0].cutoff].metrics
        assert now[trainer, second].metrics["roc_auc"] < 0.4 < 0.7 < was[trainer, second].metrics["roc_auc"]


def test_the_holdout_is_neither_read_nor_looked_at(uc: UseCase, taken: Snapshot) -> None:
    open_store().delete(taken.sealed.key)
    found = backtest(uc, taken)
    assert found.folds[-1].test.end < taken.holdout.start
    assert append_log.names(f"holdouts/{uc.name}") == set()


def test_means_deviations_and_wins_are_those_of_the_folds(uc: UseCase, taken: Snapshot) -> None:
    found = backtest(uc, taken)
    aucs = {
        name: [o.metrics["roc_auc"] for o in found.outcomes if o.trainer == name] for name in found.trainers
    }
    assert found.trainers == ("trees", "line")
    for name, values in aucs.items():
        assert all(value > 0.7 for value in values)
        spread = found.spreads[name]["roc_auc"]
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.deviation == pytest.approx(np.std(values, ddof=1))
        assert (spread.low, spread.high, spread.folds) == (min(values), max(values), 3)
    by_metric = {item.metric: item for item in found.versus}
    assert set(by_metric) == {"roc_auc", "pr_auc", "log_loss", "brier", "ece", "cost"}
    area = by_metric["roc_auc"]
    assert (area.first, area.second) == ("trees", "line")
    assert area.differences == tuple(np.subtract(aucs["trees"], aucs["line"]))
    assert area.wins == sum(value > 0 for value in area.differences)
    loss = by_metric["log_loss"]
    assert loss.wins == sum(value < 0 for value in loss.differences)
    assert loss.wins + loss.losses == 3


def test_again_it_is_what_was_recorded_and_shared_folds_are_trained_once(
    uc: UseCase, taken: Snapshot
) -> None:
    outcomes = f"logs/backtests/{uc.name}/outcomes/"
    first = backtest(uc, taken, folds=2, trainers=["line"])
    assert len(open_store().list(outcomes)) == 2
    whole = backtest(uc, taken)
    assert len(open_store().list(outcomes)) == 6
    assert [o for o in whole.outcomes if o.trainer == "line"][1:] == list(first.outcomes)
    assert backtest(uc, snapshot(uc, NIGHT), trainers=["line", "trees"]) == whole
    assert recorded(uc) == [first, whole]
    # Other costs are another question, other parameters another model.
    dearer = use_case(costs={"false_positive": 1, "false_negative": 9})
    asked = backtest(dearer, taken, folds=2, trainers=["line"])
    assert asked.identity != first.identity
    assert asked.outcomes[0].metrics["cost"] != first.outcomes[0].metrics["cost"]
    # Without the rows nothing can be trained.
    open_store().delete(taken.data.key)
    assert evaluate_fold(uc, taken, whole.folds[0], "trees") == whole.outcomes[0]


def test_mlflow_has_one_run_with_figures_by_fold_and_the_page_tells_them(
    uc: UseCase, taken: Snapshot
) -> None:
    found = backtest(uc, taken)
    page = write_backtest(uc, found)
    client, experiment = tracking.client(uc), tracking.setup(uc)
    (logged,) = client.search_runs([experiment])
    # Killed before it was done, and written again.
    client.update_run(logged.info.run_id, status="RUNNING")
    assert write_backtest(uc, found) == page
    (logged,) = client.search_runs([experiment])
    assert logged.info.status == "FINISHED"
    history = client.get_metric_history(logged.info.run_id, "trees/roc_auc")
    aucs = [o.metrics["roc_auc"] for o in found.outcomes if o.trainer == "trees"]
    assert [(point.step, point.value) for point in history] == list(enumerate(aucs))
    assert logged.data.metrics["trees/roc_auc_mean"] == found.spreads["trees"]["roc_auc"].mean
    names = {item.path for item in client.list_artifacts(logged.info.run_id)}
    assert {"backtest.html", "backtest.json", "plots"} <= names
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script|src=|href=|http", text)
    assert all(f"{value:.4f}" in text for value in aucs)
    assert text.count("<polyline") == 2
    assert Backtest.model_validate_json(page.with_suffix(".json").read_text(encoding="utf-8")) == found


_KILLED = """
import os, signal, sys
from nightshift.evaluation.backtest import backtest
from nightshift.lake import store
from nightshift.settings import settings
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.readline())
taken = Snapshot.model_validate_json(sys.stdin.readline())
point, passed = int(sys.argv[1]), 0
put_new = store.FileStore.put_new

def deadly(self, key, content):
    global passed
    passed += 1
    if passed == point:
        os.kill(os.getpid(), signal.SIGKILL)
    return put_new(self, key, content)

store.FileStore.put_new = deadly
backtest(uc, taken)
"""


def test_killed_between_folds_it_goes_on_and_ends_the_same(
    uc: UseCase, taken: Snapshot, tmp_path: Path
) -> None:
    given = "\n".join(item.model_dump_json() for item in (uc, taken))
    outcomes, kept = f"logs/backtests/{uc.name}/outcomes/", []
    # Before the first is written, and then after one, two and two more.
    for point in (1, 2, 3, 3):
        assert run(_KILLED, given, str(point)) == -signal.SIGKILL
        kept.append(len(open_store().list(outcomes)))
    assert kept == [0, 1, 3, 5]
    assert recorded(uc) == []
    resumed = backtest(uc, taken)
    for key in open_store().list(f"logs/backtests/{uc.name}/"):
        open_store().delete(key)
    assert figures(backtest(uc, taken)) == figures(resumed)


def test_whoever_concludes_takes_the_outcomes_as_they_are(
    uc: UseCase, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folds may be trained on another machine, on a device that this one has not."""
    folds = folds_of(uc, taken, 2)
    outcomes = [evaluate_fold(uc, taken, fold, name) for name in uc.training.trainers for fold in folds]
    monkeypatch.setattr(LogisticTrainer, "resolve", lambda *_: {"device": "another"})
    monkeypatch.setattr(XGBoostTrainer, "resolve", lambda *_: {"device": "another"})
    found = conclude(uc, taken, folds, outcomes)
    assert list(found.outcomes) == outcomes
    # As they come out of a database that keeps the keys of JSON in an order of its own.
    reordered = [
        outcome.model_copy(update={"metrics": dict(reversed(outcome.metrics.items()))})
        for outcome in outcomes
    ]
    assert conclude(uc, taken, folds, reordered) == found


def test_too_little_history_says_how_many_folds_are_possible(uc: UseCase, taken: Snapshot) -> None:
    # 42 days are not sealed: 14 to train on and to validate, four times 7 to test on.
    assert len(folds_of(uc, taken, 4)) == 4
    with pytest.raises(DataError, match=r"5 folds do not fit into 42 days.* 4 are possible") as error:
        folds_of(uc, taken, 5)
    assert error.value.cure == "ask for 1 to 4"
    short = use_case(training={**uc.training.model_dump(), "validation_days": 33})
    with pytest.raises(DataError, match="0 are possible") as error:
        folds_of(short, taken, 1)
    assert "bootstrap a longer range" in error.value.cure


def test_an_unknown_trainer_is_refused_before_anything_is_trained(uc: UseCase, taken: Snapshot) -> None:
    with pytest.raises(DataError, match="there is no trainer 'forest'; there are trees, line"):
        backtest(uc, taken, trainers=["trees", "forest"])
    assert append_log.names(f"backtests/{uc.name}") == set()


def candidates(taken: Snapshot, aucs: dict[str, float]) -> list[Candidate]:
    return [
        Candidate(
            usecase="synthetic",
            trainer=name,
            run_id=name,
            model_uri=name,
            content_hash=name,
            snapshot_hash=taken.content_hash,
            trained_night=taken.night,
            trained_through=taken.validation.end,
            metrics={"roc_auc": value},
        )
        for name, value in aucs.items()
    ]


def rows_of(uc: UseCase, taken: Snapshot) -> tuple[pa.Table, np.ndarray]:
    rows = load(taken, "validation")
    return rows, labels_of(uc, rows).to_numpy(zero_copy_only=False)


def test_a_validation_score_beyond_the_backtest_is_stopped_by_name(uc: UseCase, taken: Snapshot) -> None:
    found = backtest(uc, taken)
    mean = found.spreads["trees"]["roc_auc"].mean
    validation = rows_of(uc, taken)
    too_high = candidates(taken, {"trees": mean + 0.13, "line": mean})
    assert mean + 0.13 < uc.evaluation.leaks.max_validation_auc
    with pytest.raises(DataError, match=rf"trees reaches a ROC AUC of {mean + 0.13:.4f} on vali") as error:
        refuse_implausible(uc, too_high, *validation)
    told = error.value.message
    assert f"gave {mean:.4f}" in told
    assert "line reaches" not in told
    assert "most is said by demand (" in told
    assert f"nightshift backtest --through {taken.night}" in error.value.cure
    with pytest.raises(DataError, match=r"trees reaches a ROC AUC of .* on holdout"):
        refuse_beyond_backtest(uc, too_high, "holdout", {"trees": mean + 0.13}, *validation)
    # What a season may do, no more than that.
    refuse_implausible(uc, candidates(taken, {"trees": mean + 0.11, "line": mean - 0.2}), *validation)
    # The use case decides.
    strict = use_case(
        evaluation={"leaks": {"backtest_deviations": 1, "backtest_min_deviation": 0.001}, "backtest": {}}
    )
    with pytest.raises(DataError, match="trees reaches"):
        refuse_implausible(strict, candidates(taken, {"trees": mean + 0.11}), *validation)


def test_a_holdout_score_beyond_the_backtest_ends_the_evaluation(uc: UseCase, taken: Snapshot) -> None:
    # In the last days, and only there, the outcome is made of a feature.
    told = {}
    for day in days(taken.holdout.start, LAST):
        labels, demand = synthetic.labels_of(day), synthetic.features_of(day)["demand"]
        made = pc.cast(pc.greater(demand, 1), pa.int64())
        told[day] = labels.set_column(labels.schema.get_field_index("returned"), "returned", made)
    tables.replace_partitions(uc, "labels", told, [uc.entity])
    leaking = snapshot(uc, NIGHT)
    mean = backtest(uc, leaking, trainers=["line"]).spreads["line"]["roc_auc"].mean
    candidate = train(uc, leaking, "line")
    refuse_implausible(uc, [candidate], *rows_of(uc, leaking))
    said = rf"line reaches a ROC AUC of 0\.9\d+ on holdout, .* gave {mean:.4f} .*; most is said by demand \("
    with pytest.raises(DataError, match=said):
        evaluate(uc, leaking, [candidate])
    logged = tracking.client(uc).get_run(candidate.run_id).data
    assert logged.metrics["validation_roc_auc"] < 0.9
    assert "holdout_roc_auc" not in logged.metrics, "a gate could go by it"


def test_a_feature_that_the_backtest_did_not_have_is_named(uc: UseCase, taken: Snapshot) -> None:
    narrow = use_case(
        features={**uc.features.model_dump(), "numeric": [n for n in synthetic.NUMERIC if n != "hour"]}
    )
    high = backtest(narrow, taken).spreads["line"]["roc_auc"].mean + 0.13
    with pytest.raises(DataError, match="new since the backtest: hour"):
        refuse_implausible(uc, candidates(taken, {"line": high}), *rows_of(uc, taken))


@pytest.mark.parametrize("what", ["none", "of two folds", "of a later night", "of another trainer"])
def test_without_a_backtest_to_measure_by_nothing_is_refused(uc: UseCase, taken: Snapshot, what: str) -> None:
    judged = taken
    if what == "of two folds":
        backtest(uc, taken, folds=2, trainers=["line"])
    elif what == "of a later night":
        backtest(uc, taken, trainers=["line"])
        judged = snapshot(uc, NIGHT - timedelta(days=1))
    elif what == "of another trainer":
        backtest(uc, taken, trainers=["trees"])
    refuse_implausible(uc, candidates(judged, {"line": 0.97}), *rows_of(uc, judged))
    with pytest.raises(DataError, match=r"line reaches a ROC AUC of 0.9900 on validation; most is said"):
        refuse_implausible(uc, candidates(judged, {"line": 0.99}), *rows_of(uc, judged))


@pytest.fixture
def project(uc: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that holds the use case and its suites."""
    synthetic.write_use_case(tmp_path, uc)
    synthetic.write_suites(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()


def test_the_command_shows_every_cutoff(uc: UseCase, project: None) -> None:
    done = CliRunner().invoke(app, ["backtest", "--folds", "2"])
    assert done.exit_code == 0, done.output
    (found,) = recorded(uc)
    assert found.night == NIGHT
    assert f"night of {NIGHT}: 2 cut-offs" in done.stdout
    assert "trees less line: roc_auc" in done.stdout
    for outcome in found.outcomes:
        area = f"{outcome.metrics['roc_auc']:.4f}"
        assert f"cut-off {outcome.cutoff}, {outcome.trainer}: roc_auc {area}" in done.stderr
        assert area in done.stdout
    (told,) = re.findall(r"report: (\S+)", done.stdout)
    assert Path(told).exists()
    done = CliRunner().invoke(app, ["backtest", "--folds", "2", "--through", str(NIGHT), "--json"])
    assert Backtest.model_validate_json(done.stdout) == found
    done = CliRunner().invoke(app, ["backtest", "--folds", "9"])
    assert done.exit_code == 1
    assert "4 are possible" in done.stderr
    assert "cure:  ask for 1 to 4" in done.stderr


def test_the_command_refuses_an_unknown_trainer_before_rows_are_frozen(uc: UseCase, project: None) -> None:
    done = CliRunner().invoke(app, ["backtest", "--trainer", "trees", "--trainer", "nobody"])
    assert done.exit_code == 1
    assert "there is no trainer 'nobody'; there are trees, line" in done.stderr
    assert open_store().list("snapshots/") == []
