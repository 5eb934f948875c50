"""Yesterday's predictions against what happened, whenever that becomes known."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from tests import synthetic
from tests.forked import preload, run

from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.monitoring import truth
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

DAY, NIGHT, NEXT_NIGHT = date(2013, 1, 17), date(2013, 1, 18), date(2013, 1, 19)

preload("sklearn.metrics", "nightshift.monitoring.truth")


def _predict(usecase: UseCase, *days: date) -> None:
    for day in days:
        publish_predictions(usecase, score(usecase, day))


def _hashes(usecase: UseCase) -> dict[tuple[str, date], str]:
    return {
        (layer, day): version.content_hash
        for layer in (truth.OUTCOMES, truth.OBSERVED)
        for day, version in tables.partition_versions(usecase, layer).items()
    }


def test_metrics_are_those_of_a_join_by_hand(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    _predict(usecase, DAY)
    features = day_of_features(DAY)
    publish_truth(DAY, features, unknown=280)
    found = truth.judge(usecase, NIGHT)[DAY.isoformat()]
    predictions = tables.read_partitions(usecase, "predictions", DAY, DAY).to_pandas().set_index("flight_id")
    late = features.to_pandas().set_index("flight_id")["late"].iloc[:280].astype(int)
    scores = predictions["score"].loc[late.index]
    assert (found["status"], found["rows"], found["unlabelled"], found["unpredicted"]) == (
        "judged",
        280,
        20,
        0,
    )
    assert found["roc_auc"] == pytest.approx(roc_auc_score(late, scores), abs=1e-12)
    assert found["pr_auc"] == pytest.approx(average_precision_score(late, scores), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(late, scores), abs=1e-12)
    acted_on = predictions["decision"].loc[late.index]
    assert found["precision"] == pytest.approx(late[acted_on].mean())
    assert found["recall"] == pytest.approx(acted_on[late == 1].mean())
    # Expected calibration error over 15 bins of equally many rows.
    order = np.argsort(scores.to_numpy(), kind="stable")
    bins = np.array_split(order, 15)
    gaps = [abs(scores.to_numpy()[rows].mean() - late.to_numpy()[rows].mean()) * len(rows) for rows in bins]
    assert found["ece"] == pytest.approx(sum(gaps) / 280)
    assert truth.observed(usecase)[DAY]["roc_auc"] == pytest.approx(found["roc_auc"])


def test_labels_may_say_at_what_moment_they_were_known(home: Path) -> None:
    uc = synthetic.use_case()
    day = synthetic.START
    night = day + timedelta(days=1)
    labels = synthetic.labels_of(day)
    scored = labels.select(["order_id", "partition"])
    for name, value in (("score", 0.3), ("decision", False), ("model_hash", "m")):
        scored = scored.append_column(name, pa.repeat(value, scored.num_rows))
    tables.replace_partition(uc, "predictions", day, scored, ["order_id"])
    days = labels["label_available_on"].to_pylist()
    moments = pa.array([datetime.combine(known, time(3), UTC) for known in days])
    labels = labels.set_column(labels.column_names.index("label_available_on"), "label_available_on", moments)
    tables.replace_partition(uc, "labels", day, labels, ["order_id"])
    assert truth.judge(uc, night)[day.isoformat()]["status"] == "judged"
    known_on = tables.read_partitions(uc, truth.OUTCOMES, day, day)["known_on"].drop_null().to_pylist()
    assert set(known_on) == {night, night + timedelta(days=1)}
    assert len(truth.restatements(uc, day, day)) == 1


def test_labels_that_were_never_predicted_are_counted(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    _predict(usecase, DAY)
    publish_truth(DAY, day_of_features(DAY, rows=310))
    found = truth.judge(usecase, NIGHT)[DAY.isoformat()]
    assert (found["rows"], found["unpredicted"]) == (300, 10)


def test_a_correction_restates_the_day(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    _predict(usecase, DAY, NIGHT)
    features = day_of_features(DAY)
    publish_truth(DAY, features, unknown=250)
    first = truth.judge(usecase, NIGHT)[DAY.isoformat()]
    publish_truth(DAY, features)
    publish_truth(NIGHT, day_of_features(NIGHT))
    second = truth.judge(usecase, NEXT_NIGHT)
    assert set(second) == {DAY.isoformat(), NIGHT.isoformat()}
    assert (first["rows"], second[DAY.isoformat()]["rows"]) == (250, 300)
    assert truth.observed(usecase)[DAY]["rows"] == 300


def test_missing_predictions_and_labels_are_reported(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    publish_truth(DAY, day_of_features(DAY))
    _predict(usecase, NIGHT)
    found = truth.judge(usecase, NEXT_NIGHT)
    assert found == {
        DAY.isoformat(): {"status": "no predictions"},
        NIGHT.isoformat(): {"status": "no labels"},
    }
    assert truth.observed(usecase) == {}


def test_nights_in_reverse_end_with_the_same(
    usecase: UseCase, day_of_features: Day, publish_truth: Day
) -> None:
    nights = [DAY, NIGHT, NEXT_NIGHT]
    for day in (DAY, NIGHT):
        publish_truth(day, day_of_features(day))
    for night in nights:
        _predict(usecase, night)
        truth.judge(usecase, night)
    forward = _hashes(usecase)
    assert len(forward) == 4
    for layer in ("predictions", truth.OUTCOMES, truth.OBSERVED):
        for day in nights:
            tables.delete_partition(usecase, layer, day)
    for night in reversed(nights):
        _predict(usecase, night)
        truth.judge(usecase, night)
    assert _hashes(usecase) == forward


def test_judged_again_nothing_changes(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    _predict(usecase, DAY)
    publish_truth(DAY, day_of_features(DAY))
    first = truth.judge(usecase, NIGHT)
    versions = (
        tables.partition_versions(usecase, truth.OUTCOMES),
        tables.partition_versions(usecase, truth.OBSERVED),
    )
    again = truth.judge(usecase, NIGHT)
    assert again[DAY.isoformat()] == pytest.approx(first[DAY.isoformat()])
    assert versions == (
        tables.partition_versions(usecase, truth.OUTCOMES),
        tables.partition_versions(usecase, truth.OBSERVED),
    )


def test_a_day_of_one_class_has_no_auc(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    _predict(usecase, DAY)
    features = day_of_features(DAY)
    place = features.column_names.index("late")
    publish_truth(DAY, features.set_column(place, "late", pa.array([False] * features.num_rows)))
    truth.judge(usecase, NIGHT)
    kept = truth.observed(usecase)[DAY]
    assert kept["rows"] == 300
    assert "roc_auc" not in kept
    assert "brier" in kept


_KILLED = """
import os, signal, sys
from datetime import date
from nightshift.lake import tables
from nightshift.monitoring import truth
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.read())
real = tables.replace_partition
# Outcomes are published, their metrics are not.
def replace(usecase, layer, *rest):
    if layer == truth.OBSERVED:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(usecase, layer, *rest)
tables.replace_partition = replace
truth.judge(uc, date(2013, 1, 18))
"""


def test_killed_halfway_and_run_again(usecase: UseCase, day_of_features: Day, publish_truth: Day) -> None:
    _predict(usecase, DAY)
    publish_truth(DAY, day_of_features(DAY))
    assert run(_KILLED, usecase.model_dump_json()) == -signal.SIGKILL
    assert set(_hashes(usecase)) == {(truth.OUTCOMES, DAY)}
    truth.judge(usecase, NIGHT)
    recovered = _hashes(usecase)
    for layer in (truth.OUTCOMES, truth.OBSERVED):
        tables.delete_partition(usecase, layer, DAY)
    truth.judge(usecase, NIGHT)
    assert _hashes(usecase) == recovered
