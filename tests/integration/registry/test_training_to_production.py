"""From published features to a champion and back again, on a real MLflow database and a real lake."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import numpy as np
import pyarrow as pa
import pytest
from tests import synthetic
from tests.forked import preload, start
from tests.lakes import on_both_storages, sealed_rows

from nightshift import stages
from nightshift.errors import DataError
from nightshift.evaluation.evaluate import evaluate
from nightshift.evaluation.gate import gate
from nightshift.lake import append_log, tables
from nightshift.monitoring.staleness import find_stale
from nightshift.partition import days
from nightshift.registry import card, deployments, network, states
from nightshift.registry import mlflow as tracking
from nightshift.registry.encoder import Encoder
from nightshift.registry.models import load_candidate, load_model, register
from nightshift.registry.records import Approval, Candidate, Decision
from nightshift.settings import settings
from nightshift.training.progress import TRAINING
from nightshift.training.snapshot import Snapshot, load, snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

FIRST = date(2020, 2, 3)
SECOND = date(2020, 2, 12)
DAY = timedelta(days=1)

preload(
    "nightshift.lake.tables",
    "nightshift.registry.deployments",
    "nightshift.registry.card",
    "markdown_it",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)


class Trained:
    """Candidates of two nights, trained once for all tests of this file."""

    def __init__(self) -> None:
        self.uc = synthetic.use_case()
        synthetic.publish(self.uc, synthetic.START, SECOND)
        self.first = snapshot(self.uc, FIRST)
        self.second = snapshot(self.uc, SECOND)
        self.trees = train(self.uc, self.first, "trees")
        self.network = train(self.uc, self.first, "network")
        self.later = train(self.uc, self.second, "trees")

    def decision(self, candidate: Candidate) -> Decision:
        """A gate's yes, whatever the metrics."""
        rival = deployments.rival(self.uc, {candidate.content_hash})
        return Decision(
            promote=True,
            candidate=candidate,
            metrics={"roc_auc": 0.7},
            reasons=["by the test"],
            rival=rival.version if rival else None,
        )


storage = on_both_storages


@pytest.fixture(scope="module")
def trained(
    storage: str, s3_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_HOME", str(tmp_path_factory.mktemp("state")))
        if storage == "s3":
            for name, value in s3_environment.items():
                patch.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket="trained")
            patch.setenv("NIGHTSHIFT_LAKE", "s3://trained/lake")
        settings.cache_clear()
        yield Trained()
    settings.cache_clear()


@pytest.fixture
def fresh_log(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """The same MLflow, and a use case of another name whose deployment log and registry are empty."""
    name = f"synthetic_{os.urandom(4).hex()}"
    everything, trained.uc = trained.uc, synthetic.use_case(name=name)
    yield trained
    trained.uc = everything


def _aliases(uc: UseCase) -> dict[str, str]:
    return {
        alias: str(version)
        for alias, version in tracking.client(uc).get_registered_model(uc.name).aliases.items()
    }


def _run_ids(uc: UseCase) -> set[str]:
    return {run.info.run_id for run in tracking.client(uc).search_runs([tracking.setup(uc)])}


# Training -------------------------------------------------------------------------------------------


def test_the_run_holds_all_that_made_the_model(trained: Trained) -> None:
    uc, client = trained.uc, tracking.client(trained.uc)
    run = client.get_run(trained.trees.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["snapshot_hash"] == trained.first.content_hash
    assert run.data.tags["model_hash"] == trained.trees.content_hash
    assert run.data.params["rounds"] == "60"
    assert run.data.metrics["validation_roc_auc"] == trained.trees.metrics["roc_auc"] > 0.7
    assert run.data.metrics["train_roc_auc"] > 0.7
    contexts = {i.tags[0].value: json.loads(i.dataset.source)["rows"] for i in run.inputs.dataset_inputs}
    assert contexts == {
        "train": trained.first.train.rows,
        "validation": trained.first.validation.rows,
        "holdout": trained.first.holdout.rows,
    }
    files = {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
    assert {"plots/convergence.png", "plots/shap.png"} <= files
    manifest = json.loads(
        Path(client.download_artifacts(run.info.run_id, "manifest.json")).read_text(encoding="utf-8")
    )
    assert manifest["data"]["snapshot_hash"] == trained.first.content_hash
    assert manifest["model_hash"] == trained.trees.content_hash
    assert len(manifest["environment"]["lock_hash"]) == 64
    assert manifest["configuration"]["usecase"]["features"]["numeric"] == list(synthetic.NUMERIC)
    assert manifest["randomness"]["seeds"] == {"training": uc.training.seed}


def test_the_feature_with_the_signal_is_the_most_important(trained: Trained) -> None:
    client = tracking.client(trained.uc)
    for candidate in (trained.trees, trained.later):
        file = client.download_artifacts(candidate.run_id, "shap.json")
        assert next(iter(json.loads(Path(file).read_text(encoding="utf-8")))) == "demand"


@pytest.mark.parametrize("name", ["trees", "network"])
def test_training_again_gives_the_same_model_and_no_second_run(
    trained: Trained, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    uc, client, known = trained.uc, tracking.client(trained.uc), getattr(trained, name)
    before = _run_ids(uc)
    # As after an update of the code: nobody can say what comes of this training.
    training = client.get_run(known.run_id).data.tags[TRAINING]
    client.set_tag(known.run_id, TRAINING, "of other code")
    with caplog.at_level("INFO"):
        again = train(uc, trained.first, name)
    client.set_tag(known.run_id, TRAINING, training)
    assert re.search(rf"{name}: \d+ rounds in", caplog.text)
    assert again == known
    assert _run_ids(uc) == before


def test_what_was_trained_to_the_end_is_not_trained_again(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    before = _run_ids(trained.uc)
    with caplog.at_level("INFO"):
        assert train(trained.uc, trained.first, "trees") == trained.trees
    assert f"trees: trained before, in run {trained.trees.run_id}" in caplog.text
    assert "rounds in" not in caplog.text
    assert _run_ids(trained.uc) == before


def test_a_run_that_was_killed_while_logging_is_not_taken_for_a_finished_one(trained: Trained) -> None:
    uc, client = trained.uc, tracking.client(trained.uc)
    client.update_run(trained.trees.run_id, status="RUNNING")
    again = train(uc, trained.first, "trees")
    # It is logged again, to the end, and in the same run.
    assert again.model_uri != trained.trees.model_uri
    assert again.run_id == trained.trees.run_id
    assert again.content_hash == trained.trees.content_hash
    assert client.get_run(again.run_id).info.status == "FINISHED"
    client.set_tag(again.run_id, "model_uri", trained.trees.model_uri)


def test_the_model_can_be_read_by_mlflow_alone(trained: Trained) -> None:
    mlflow = tracking.fluent(trained.uc)
    rows = sealed_rows(trained.first.sealed)
    model = load_candidate(trained.uc, trained.trees)
    frame = rows.select(list(model.feature_columns)).to_pandas().astype({"hour": "float64"})
    scores = mlflow.pyfunc.load_model(trained.trees.model_uri).predict(frame)
    np.testing.assert_array_equal(scores, model.predict_proba(rows))
    logged = mlflow.models.get_model_info(trained.trees.model_uri)
    assert logged.signature.inputs.input_names() == list(model.feature_columns)
    assert logged.saved_input_example_info is not None


def test_the_reference_is_a_sample_of_the_training_rows_with_their_scores(trained: Trained) -> None:
    model = load_candidate(trained.uc, trained.network)
    reference = model.reference
    assert reference.num_rows == trained.uc.drift.reference_rows
    assert reference.column_names == ["partition", *trained.uc.features.columns, "score"]
    assert max(reference["partition"].to_pylist()) <= trained.first.train.end
    # Spread over the whole window, not its first days.
    assert len(set(reference["partition"].to_pylist())) > 15
    np.testing.assert_array_equal(reference["score"].to_numpy(), model.predict_proba(reference))


def test_a_trainer_that_is_not_declared_is_refused(trained: Trained) -> None:
    with pytest.raises(DataError, match="there are trees, network"):
        train(trained.uc, trained.first, "forest")


def test_outcomes_of_one_kind_are_refused(trained: Trained) -> None:
    uc = synthetic.use_case(name="one_kind")
    last = synthetic.START + 19 * DAY
    synthetic.publish(uc, synthetic.START, last)
    labels = {day: synthetic.labels_of(day) for day in days(synthetic.START, last)}
    none = {
        day: rows.set_column(2, "returned", pa.array([0] * rows.num_rows)) for day, rows in labels.items()
    }
    tables.replace_partitions(uc, "labels", none, [uc.entity])
    with pytest.raises(DataError, match=r"all \d+ train rows have returned = 0"):
        train(uc, snapshot(uc, synthetic.START + 20 * DAY), "trees")


# Evaluation -----------------------------------------------------------------------------------------


def test_candidates_are_judged_on_the_holdout(trained: Trained) -> None:
    uc = trained.uc
    evaluation = evaluate(uc, trained.first, [trained.trees, trained.network])
    assert (evaluation.start, evaluation.end) == (trained.first.holdout.start, trained.first.holdout.end)
    judged = evaluation.challenges[0].judged
    assert judged.metrics["rows"] == trained.first.holdout.rows
    assert set(judged.slices["shop"]) == set(synthetic.SHOPS)
    assert sum(m["rows"] for m in judged.slices["shop"].values()) == trained.first.holdout.rows
    run = tracking.client(uc).get_run(trained.trees.run_id)
    assert run.data.metrics["holdout_roc_auc"] == judged.metrics["roc_auc"]
    files = {item.path for item in tracking.client(uc).list_artifacts(trained.trees.run_id, "plots")}
    assert {f"plots/holdout_{name}.png" for name in ("roc", "precision_recall", "calibration")} <= files
    assert evaluate(uc, trained.first, [trained.trees, trained.network]) == evaluation


def test_candidates_of_another_snapshot_do_not_compete(trained: Trained) -> None:
    with pytest.raises(DataError, match="another snapshot: trees"):
        evaluate(trained.uc, trained.first, [trained.later])


def test_champion_and_challenger_meet_on_rows_neither_knows(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    champion = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    evaluation = evaluate(uc, fresh_log.second, [fresh_log.later])
    assert evaluation.champion == champion
    assert evaluation.champion_judged is not None
    # The holdout of the second snapshot begins after all that shaped the champion.
    assert champion.trained_through < evaluation.start == fresh_log.second.holdout.start
    rows = sealed_rows(fresh_log.second.sealed)
    assert evaluation.champion_judged.metrics["rows"] == rows.num_rows
    assert evaluation.champion_judged.metrics["rows"] == evaluation.challenges[0].judged.metrics["rows"]
    # The other way round, days the champion was trained on are left out for both.
    deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    with pytest.raises(DataError, match="trained on days up to 2020-02-04"):
        evaluate(uc, fresh_log.first, [fresh_log.network])


def test_days_that_shaped_the_champion_are_left_out_for_both(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    long = synthetic.use_case(
        name=uc.name,
        training={**uc.training.model_dump(), "holdout_days": 20},
        gate={"primary": "roc_auc", "floors": {"roc_auc": 0.6}},
    )
    synthetic.publish(long, synthetic.START, SECOND)
    taken = snapshot(long, SECOND)
    assert taken.holdout.start <= fresh_log.trees.trained_through
    evaluation = evaluate(long, taken, [train(long, taken, "trees")])
    assert evaluation.start == fresh_log.trees.trained_through + DAY
    expected = sealed_rows(taken.sealed)["partition"].to_pylist()
    rows = sum(day > fresh_log.trees.trained_through for day in expected)
    assert evaluation.champion_judged is not None
    assert evaluation.champion_judged.metrics["rows"] == rows
    assert evaluation.challenges[0].judged.metrics["rows"] == rows


def test_a_champion_whose_columns_are_gone_is_said_to_be_so(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    features = {**uc.features.model_dump(), "numeric": ["demand", "hour"]}
    fewer = synthetic.use_case(name=uc.name, features=features)
    left = days(synthetic.START, SECOND)
    rows = {day: synthetic.features_of(day).drop_columns(["lag"]) for day in left}
    labels = {day: synthetic.labels_of(day) for day in rows}
    tables.replace_partitions(fewer, "features", rows, [uc.entity])
    tables.replace_partitions(fewer, "labels", labels, [uc.entity])
    taken = snapshot(fewer, SECOND)
    evaluation = evaluate(fewer, taken, [train(fewer, taken, "trees")])
    assert evaluation.champion_judged is None
    assert "no longer have: lag" in evaluation.champion_note
    assert gate(fewer, evaluation).promote


def test_a_champion_that_cannot_be_read_is_said_to_be_so(
    fresh_log: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier release may have stored its weights in a form of its own."""
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.network), effective_from=FIRST + DAY)

    class Reformed:
        def __init__(self, weights: bytes, encoder: Encoder) -> None:
            raise KeyError("scale")

    monkeypatch.setattr(network, "NetworkScorer", Reformed)
    evaluation = evaluate(uc, fresh_log.second, [fresh_log.later])
    assert evaluation.champion_judged is None
    assert "cannot be read" in evaluation.champion_note
    assert "scale" in evaluation.champion_note


# Registry and promotion -----------------------------------------------------------------------------


def test_a_model_is_registered_once(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    version = deployments.propose(uc, fresh_log.decision(fresh_log.trees)).version
    assert _aliases(uc) == {"challenger": version}
    assert register(uc, fresh_log.trees) == version
    later = deployments.propose(uc, fresh_log.decision(fresh_log.later)).version
    assert later != version
    # Proposing the earlier one again changes nothing: the newest stays the challenger.
    assert deployments.propose(uc, fresh_log.decision(fresh_log.trees)).version == version
    assert _aliases(uc) == {"challenger": later}
    assert len(tracking.client(uc).search_model_versions(f"name = '{uc.name}'")) == 2


def test_a_registered_version_scores_as_the_candidate(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    rows = sealed_rows(fresh_log.first.sealed)
    for candidate in (fresh_log.trees, fresh_log.network):
        version = register(uc, candidate)
        model = load_model(uc, version)
        assert model.version == version
        assert model.content_hash == candidate.content_hash
        assert model.threshold == 0.25
        assert model.trained_night == FIRST
        assert model.trained_through == fresh_log.first.validation.end
        expected = load_candidate(uc, candidate).predict_proba(rows)
        np.testing.assert_array_equal(model.predict_proba(rows), expected)


def test_an_unknown_version_is_an_error(fresh_log: Trained) -> None:
    with pytest.raises(DataError, match="no model version '99'"):
        load_model(fresh_log.uc, "99")


def test_the_log_answers_what_was_in_production_on_any_day(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    first = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=date(2020, 2, 4))
    second = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=date(2020, 2, 13))
    assert deployments.champion_at(uc, date(2020, 2, 3)) is None
    assert deployments.champion_at(uc, date(2020, 2, 4)) == first
    assert deployments.champion_at(uc, date(2020, 2, 12)) == first
    assert deployments.champion_at(uc, date(2020, 2, 13)) == second
    assert second.previous_version == first.version
    assert deployments.newest(uc) == second
    assert _aliases(uc) == {"champion": second.version}


def test_promoting_again_changes_nothing(fresh_log: Trained) -> None:
    uc, decision = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    first = deployments.promote(uc, decision, effective_from=FIRST + DAY)
    assert deployments.promote(uc, decision, effective_from=FIRST + DAY) == first
    assert deployments.history(uc) == [first]


def test_a_promotion_does_not_rewrite_the_past(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    with pytest.raises(DataError, match="replace it in the past"):
        deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    assert len(deployments.history(uc)) == 1


def test_a_retried_promotion_does_not_undo_a_rollback(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    first = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    decision = fresh_log.decision(fresh_log.later)
    second = deployments.promote(uc, decision, effective_from=SECOND + DAY)
    deployments.rollback(uc, effective_from=SECOND + 2 * DAY, reason="too many alarms")
    before = states.read(uc)
    for retried, entry in ((decision, second), (fresh_log.decision(fresh_log.trees), first)):
        assert deployments.promote(uc, retried, effective_from=SECOND + 9 * DAY) == entry
    assert states.read(uc) == before
    assert _aliases(uc) == {"champion": first.version}


def test_what_was_held_against_another_champion_is_judged_again_first(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    none = fresh_log.decision(fresh_log.network)
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    with pytest.raises(DataError, match="judged when there was no champion, and the champion is version 1"):
        deployments.promote(uc, none, effective_from=SECOND + DAY)
    waiting = fresh_log.decision(fresh_log.network)
    version = deployments.propose(uc, waiting).version
    deployments.decide(uc, version, _approval("approved"))
    # Hours later, when it is approved, another one is in production.
    other = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    with pytest.raises(DataError, match=f"held against version 1, and .* version {other.version}") as error:
        deployments.promote(uc, waiting, effective_from=SECOND + DAY)
    assert "holdout_override" in error.value.cure
    assert deployments.newest(uc) == other
    assert states.standings(states.read(uc))[version].overtaken
    assert (_aliases(uc), _tags(uc, version)["state"]) == ({"champion": other.version}, "archived")
    # Held against that one, it is a challenger again.
    again = fresh_log.decision(fresh_log.network)
    assert deployments.propose(uc, again).state == "challenger"
    promoted = deployments.promote(uc, again, effective_from=SECOND + 2 * DAY)
    assert (promoted.version, deployments.newest(uc)) == (version, promoted)


def test_days_that_were_scored_stay_with_the_champion_that_scored_them(fresh_log: Trained) -> None:
    uc, scored = fresh_log.uc, list(days(FIRST + DAY, SECOND + 3 * DAY))
    first = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    rows = pa.table({"order_id": ["a"], "model_version": [first.version], "feature_version": ["f"]})
    tables.replace_partitions(uc, "predictions", dict.fromkeys(scored, rows), [uc.entity])
    # Approved three days late.
    decision = fresh_log.decision(fresh_log.later)
    for _ in range(2):
        late = deployments.promote(uc, decision, effective_from=SECOND + DAY)
        assert late.effective_from == scored[-1] + DAY
    assert find_stale(uc) == []
    # What another version scored than is in force is to be built again.
    deployments.rollback(uc, late.version, effective_from=scored[-1], reason="from the day before on")
    (stale,) = find_stale(uc)
    assert (stale.layer, stale.partition) == ("predictions", scored[-1])
    assert stale.because.startswith(f"version {first.version} scored it, and version {late.version} is in")


def test_a_rollback_scores_no_day_that_the_model_was_trained_on(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    later = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    deployments.rollback(uc, effective_from=SECOND + 2 * DAY, reason="a drill")
    with pytest.raises(DataError, match="would score 2020-02-12, and was trained on what was known") as error:
        deployments.rollback(uc, later.version, effective_from=SECOND, reason="all of it again")
    assert f"{SECOND + DAY} or later" in error.value.cure
    deployments.rollback(uc, later.version, effective_from=SECOND + DAY, reason="all of it again")


def test_rollback_returns_to_an_earlier_champion(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    first = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=date(2020, 2, 4))
    second = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=date(2020, 2, 13))
    for _ in range(2):
        back = deployments.rollback(
            uc, first.version, effective_from=date(2020, 2, 11), reason="too many alarms"
        )
    assert back.version == first.version
    assert back.model_hash == first.model_hash
    assert back.previous_version == second.version
    assert back.reasons == ["too many alarms"]
    for day, version in ((10, first.version), (11, first.version), (20, first.version)):
        in_force = deployments.champion_at(uc, date(2020, 2, day))
        assert in_force is not None
        assert in_force.version == version
    assert len(deployments.history(uc)) == 3
    assert _aliases(uc)["champion"] == first.version
    assert deployments.rolled_back(uc, second.model_hash) == back
    deployments.rollback(
        uc, second.version, effective_from=date(2020, 2, 20), reason="it was right after all"
    )
    assert deployments.rolled_back(uc, second.model_hash) is None


def test_rollback_to_what_never_was_champion_is_refused(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    version = register(uc, fresh_log.network)
    with pytest.raises(DataError, match="champions so far: none"):
        deployments.rollback(uc, version, effective_from=SECOND, reason="try")


# States and approval --------------------------------------------------------------------------------


def _approval(decision: Any, comment: str = "") -> Approval:
    return Approval(decision=decision, by="ada", at=datetime(2020, 2, 12, 9, tzinfo=UTC), comment=comment)


def _tags(uc: UseCase, version: str) -> dict[str, str]:
    tags: dict[str, str] = tracking.client(uc).get_model_version(uc.name, version).tags
    return tags


@contextmanager
def _in_between(monkeypatch: pytest.MonkeyPatch, decision: Callable[[], object]) -> Iterator[None]:
    """Have somebody else decide after the log was read, and before what was decided by it is written."""
    append_next, others = append_log.append_next, [decision]

    def late(*arguments: Any) -> bool:
        while others:
            others.pop()()
        return append_next(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(append_log, "append_next", late)
        yield


def test_a_rollback_during_a_promotion_stands(fresh_log: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    uc = fresh_log.uc
    first = deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    decision = fresh_log.decision(fresh_log.network)
    deployments.propose(uc, decision)
    back = partial(deployments.rollback, uc, first.version, effective_from=SECOND + 2 * DAY, reason="alarms")
    with _in_between(monkeypatch, back), pytest.raises(DataError, match="held against version 2"):
        deployments.promote(uc, decision, effective_from=SECOND + 2 * DAY)
    newest = deployments.newest(uc)
    assert newest is not None
    assert (newest.action, newest.version) == ("rollback", first.version)


def test_a_promotion_during_a_rollback_is_looked_at_first(
    fresh_log: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes back from the second to the first does not mean to go back from the third to the second."""
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    decision = fresh_log.decision(fresh_log.network)
    third = partial(deployments.promote, uc, decision, effective_from=SECOND + 2 * DAY)
    with _in_between(monkeypatch, third), pytest.raises(DataError, match="recorded meanwhile") as error:
        deployments.rollback(uc, reason="alarms")
    assert "decide again" in error.value.cure
    # As between a terminal's question and its answer.
    with pytest.raises(DataError, match="recorded meanwhile"):
        deployments.rollback(uc, "1", instead_of="2", reason="alarms")
    assert [entry.action for entry in deployments.history(uc)] == ["promote"] * 3


def test_of_two_answers_at_once_one_stands(fresh_log: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    uc = fresh_log.uc
    version = deployments.propose(uc, fresh_log.decision(fresh_log.trees)).version
    no = partial(deployments.decide, uc, version, _approval("rejected"))
    with _in_between(monkeypatch, no), pytest.raises(DataError, match="was rejected by ada"):
        deployments.decide(uc, version, _approval("approved"))
    assert states.find(uc, version).rejected
    assert len(states.read(uc)) == 3


def test_a_number_that_mlflow_gives_out_twice_promotes_nothing(fresh_log: Trained) -> None:
    """As after an older dump of its database was restored."""
    uc, client = fresh_log.uc, tracking.client(fresh_log.uc)
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    before = states.read(uc)
    client.delete_registered_model(uc.name)
    client.create_registered_model(uc.name)
    with pytest.raises(DataError, match=r"MLflow calls model .* version 1, which is model") as error:
        deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    assert "newest backup" in error.value.cure
    assert states.read(uc) == before
    deployments.mirror(uc)
    assert _aliases(uc) == {}, "another model is not called champion"


def test_a_version_goes_from_candidate_to_archived_and_mlflow_says_the_same(fresh_log: Trained) -> None:
    uc, yes = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    no = yes.model_copy(update={"promote": False, "reasons": ["roc_auc breaks its floor"]})
    seen = []

    def look(version: str) -> None:
        state = states.standings(states.read(uc))[version].state
        assert _tags(uc, version)["state"] == state
        seen.append(state)

    version = deployments.propose(uc, no).version
    look(version)
    assert _aliases(uc) == {}
    deployments.propose(uc, yes)
    look(version)
    deployments.promote(uc, yes, effective_from=FIRST + DAY)
    look(version)
    later = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    look(version)
    assert seen == ["candidate", "challenger", "champion", "archived"]
    deployments.rollback(uc, effective_from=SECOND + 2 * DAY, reason="a drill")
    look(version)
    assert seen[-1] == "champion"
    assert _tags(uc, later.version)["state"] == "archived"
    register_entry = states.read(uc)[0]
    assert register_entry.reasons == ["roc_auc breaks its floor"]
    assert register_entry.run_id == fresh_log.trees.run_id


def test_what_a_person_must_approve_is_not_promoted_before(fresh_log: Trained) -> None:
    uc, decision = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    with pytest.raises(DataError, match="nobody has approved version 1 yet"):
        deployments.promote(uc, decision, effective_from=FIRST + DAY, policy="manual")
    assert deployments.newest(uc) is None
    for _ in range(2):
        deployments.decide(uc, "1", _approval("approved", "fewer false alarms"))
    promoted = deployments.promote(uc, decision, effective_from=FIRST + DAY, policy="manual")
    assert promoted.approval == _approval("approved", "fewer false alarms")
    assert [entry.action for entry in states.read(uc)] == ["register", "challenge", "approve", "promote"]
    tags = _tags(uc, "1")
    assert (tags["approval"], tags["approval_by"]) == ("approved", "ada, 2020-02-12 09:00 UTC")
    assert tags["approval_comment"] == "fewer false alarms"


def test_what_was_rejected_is_never_promoted_whoever_asks_again(fresh_log: Trained) -> None:
    uc, decision = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    version = deployments.propose(uc, decision).version
    deployments.decide(uc, version, _approval("rejected", "too many false alarms"))
    again = deployments.propose(uc, decision)
    assert (again.state, again.rejected) == ("archived", True)
    with pytest.raises(DataError, match="was rejected by ada on 2020-02-12: too many false alarms"):
        deployments.promote(uc, decision, effective_from=FIRST + DAY)
    with pytest.raises(DataError, match="was rejected by ada"):
        deployments.decide(uc, version, _approval("approved"))
    refused = stages.propose(uc, decision.model_dump(mode="json"))
    assert not refused["promote"]
    assert refused["reasons"][-1] == f"version {version} was rejected by ada"
    assert deployments.newest(uc) is None
    assert (_tags(uc, version)["approval"], _tags(uc, version)["state"]) == ("rejected", "archived")
    assert _aliases(uc) == {}


def test_nobody_decides_about_what_the_gate_refused(fresh_log: Trained) -> None:
    uc, decision = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    version = deployments.propose(uc, decision.model_copy(update={"promote": False})).version
    with pytest.raises(DataError, match=f"version '{version}' is candidate, not a challenger"):
        deployments.decide(uc, version, _approval("approved"))


def test_nobody_decides_about_what_is_champion_already(fresh_log: Trained) -> None:
    uc, decision = fresh_log.uc, fresh_log.decision(fresh_log.trees)
    asked = decision.model_dump(mode="json")
    version = deployments.propose(uc, decision).version
    assert stages.open_question(uc, asked)
    deployments.promote(uc, decision, effective_from=FIRST + DAY)
    # The tasks `gate` and `approve` again, now with a person to ask.
    stages.propose(uc, asked)
    assert not stages.open_question(uc, asked)
    for answer in ("approved", "rejected"):
        with pytest.raises(DataError, match=f"version '{version}' is champion, not a challenger"):
            deployments.decide(uc, version, _approval(answer))


# Model cards ----------------------------------------------------------------------------------------


def test_the_card_and_the_question_show_candidate_champion_and_evidence(fresh_log: Trained) -> None:
    uc = fresh_log.uc
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    evaluation = evaluate(uc, fresh_log.second, [fresh_log.later])
    decision = fresh_log.decision(fresh_log.later)
    folder = _forget_card(uc, fresh_log.later)
    version = deployments.propose(uc, decision).version
    text = card.read_card(uc, version)
    page = (folder / card.HTML).read_text(encoding="utf-8")
    metrics = evaluation.challenges[0].judged.metrics
    for heading in (
        "Intended use",
        "Data",
        "Metrics",
        "Limits and known leaks",
        "Ethics",
        "How to reproduce",
    ):
        assert f"## {heading}" in text
        assert f"<h2>{heading}</h2>" in page
    assert f"{metrics['roc_auc']:.4f}" in text
    assert all(f"| {shop} |" in text for shop in synthetic.SHOPS)
    assert f"| train | {fresh_log.second.train.start} to {fresh_log.second.train.end} |" in text
    assert "Owner: tests" in text
    asked = card.summary(uc, version, decision, "http://mlflow.example")
    assert "champion (version 1)" in asked
    assert f"{metrics['roc_auc']:.4f}" in asked
    assert "- by the test" in asked
    assert f"/runs/{fresh_log.later.run_id})" in asked
    assert f"[card.html](http://mlflow.example/#/experiments/{tracking.setup(uc)}/runs/" in asked
    assert states.read(uc)[-1].evaluation_hash
    assert page.count("<table>") >= 3
    # A cost is a mean of a row; every figure comes with its interval.
    cost, interval = metrics["cost"], evaluation.challenges[0].judged.intervals["cost"]
    assert 0 < cost < 1
    for shown in (text, asked):
        assert f"| cost | {cost:.4f} ({interval.low:.4f} to {interval.high:.4f}) |" in shown


def test_every_evaluation_is_kept_and_who_was_judged_again_says_so(fresh_log: Trained) -> None:
    uc, client = fresh_log.uc, tracking.client(fresh_log.uc)
    run_id = fresh_log.later.run_id
    deployments.promote(uc, fresh_log.decision(fresh_log.trees), effective_from=FIRST + DAY)
    evaluate(uc, fresh_log.second, [fresh_log.later])
    version = deployments.propose(uc, fresh_log.decision(fresh_log.later)).version
    promoted = deployments.promote(uc, fresh_log.decision(fresh_log.later), effective_from=SECOND + DAY)
    assert "more than once" not in card.read_card(uc, version)
    # The same night with another one beside it.
    other = train(uc, fresh_log.second, "network")
    evaluate(uc, fresh_log.second, [fresh_log.later, other], override="the first report was wrong")
    second = client.get_run(run_id).data.tags["evaluation_hash"]
    assert promoted.evaluation_hash != second
    for kept, models in ((promoted.evaluation_hash, 1), (second, 2)):
        content = Path(client.download_artifacts(run_id, f"evaluations/{kept}.json")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == kept
        assert len(json.loads(content)["challenges"]) == models
    decision = fresh_log.decision(fresh_log.later)
    deployments.propose(uc, decision)
    for shown in (card.read_card(uc, version), card.summary(uc, version, decision, "http://mlflow.example")):
        assert "Judged on this holdout more than once: the first report was wrong" in shown


def test_the_gate_run_again_after_a_promotion_does_not_touch_its_report(fresh_log: Trained) -> None:
    uc, client = fresh_log.uc, tracking.client(fresh_log.uc)
    lenient = uc.model_copy(update={"gate": uc.gate.model_copy(update={"floors": {}, "ceilings": {}})})
    evaluation = evaluate(lenient, fresh_log.first, [fresh_log.trees]).model_dump(mode="json")
    decision = stages.gate(lenient, evaluation)
    assert decision["promote"]
    folder = settings().home / "reports" / uc.name / "evaluation"

    def reports() -> list[bytes]:
        names = [f"evaluation_report.{kind}" for kind in ("html", "json")]
        logged = [Path(client.download_artifacts(fresh_log.trees.run_id, name)) for name in names]
        return [file.read_bytes() for file in (*sorted(folder.iterdir()), *logged)]

    before = reports()
    stages.promote(lenient, FIRST, stages.propose(lenient, decision))
    again = stages.gate(lenient, evaluation)
    assert "champion already" in again["reasons"][-1]
    assert reports() == before


# Bad luck -------------------------------------------------------------------------------------------

# Every call that changes MLflow or the deployment log; a killed process dies just before one of them.
WRITES = (
    "create_model_version",
    "delete_model_version",
    "delete_registered_model_alias",
    "log_text",
    "set_model_version_tag",
    "set_registered_model_alias",
)


def _promote_and_die(name: str, decision: dict[str, Any], write: int) -> None:
    """Promote in a process of its own that is killed just before its write number ``write``."""
    # MLflow hands its setting down to children; a task of its own would not have it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from mlflow import MlflowClient

    calls = count(1)

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    holders: list[tuple[Any, str]] = [(append_log, "append"), *((MlflowClient, name) for name in WRITES)]
    for holder, function in holders:
        setattr(holder, function, counted(getattr(holder, function)))
    deployments.promote(
        synthetic.use_case(name=name), Decision.model_validate(decision), effective_from=SECOND + DAY
    )


def _forget_card(uc: UseCase, candidate: Candidate) -> Path:
    """Remove what an earlier registration of the same run wrote."""
    folder = Path(unquote(urlsplit(tracking.client(uc).get_run(candidate.run_id).info.artifact_uri).path))
    for name in (card.MARKDOWN, card.HTML):
        (folder / name).unlink(missing_ok=True)
    return folder


def _end_state(uc: UseCase) -> dict[str, Any]:
    """All that a promotion leaves: the log but for its times, MLflow's aliases and tags, and the card."""
    entries = [entry.model_dump(mode="json", exclude={"usecase", "recorded_at"}) for entry in states.read(uc)]
    registered = tracking.client(uc).search_model_versions(f"name = '{uc.name}'")
    return {
        "log": entries,
        "aliases": _aliases(uc),
        "tags": {str(version.version): version.tags for version in registered},
        "cards": [card.read_card(uc, str(version.version)).count("\n") for version in registered],
    }


def test_killed_before_any_write_there_is_one_champion_and_a_rerun_ends_as_if_undisturbed(
    fresh_log: Trained,
) -> None:
    name, first = fresh_log.uc.name, fresh_log.decision(fresh_log.trees)
    decision = fresh_log.decision(fresh_log.later).model_copy(update={"rival": "1"})
    undisturbed: dict[str, Any] = {}
    for write in count():
        uc = synthetic.use_case(name=f"{name}_{write}")
        before = deployments.promote(uc, first, effective_from=FIRST + DAY)
        _forget_card(uc, fresh_log.later)
        # Without a write of number 0, the first round is the undisturbed one.
        process = start(_promote_and_die, uc.name, decision.model_dump(mode="json"), write)
        process.join()
        if not undisturbed:
            assert process.exitcode == 0
            undisturbed = _end_state(uc)
            continue
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        standings = states.standings(states.read(uc))
        (champion,) = [of.version for of in standings.values() if of.state == "champion"]
        newest, alias = deployments.newest(uc), _aliases(uc)["champion"]
        assert newest is not None
        assert newest.version == champion
        assert alias in (before.version, champion), "MLflow is at most one step behind the log"
        registered = tracking.client(uc).search_model_versions(f"name = '{uc.name}'")
        assert sum(version.tags["state"] == "champion" for version in registered) <= 1
        deployments.promote(uc, decision, effective_from=SECOND + DAY)
        assert _end_state(uc) == undisturbed, f"killed before write {write}"
    # Version, two files of the card, three entries of the log, aliases and tags.
    assert write > 9


def _set_up(name: str) -> None:
    tracking.setup(synthetic.use_case(name=name))


@pytest.mark.parametrize("storage", ["file"])  # MLflow's own; the lake has no part in it
def test_many_processes_may_set_up_at_once(home: Path) -> None:
    processes = [start(_set_up, name) for name in ("one", "one", "two")]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    experiments = tracking.client(synthetic.use_case(name="one")).search_experiments()
    assert sorted(experiment.name for experiment in experiments) == ["Default", "one", "two"]


def test_a_snapshot_loaded_elsewhere_is_the_same(trained: Trained) -> None:
    copied = Snapshot.model_validate_json(trained.first.model_dump_json())
    assert load(copied, "train").equals(load(trained.first, "train"))
