"""Observed quality: restated when labels come late, by window and slice, against estimate and baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from nightshift import stages
from nightshift.cli.quality import collect, print_quality
from nightshift.errors import DataError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.lake.delta import open_table, table_folder
from nightshift.lake.store import open_store
from nightshift.monitoring import estimates, predictions, quality, truth, windows
from nightshift.monitoring.alerting import read_alerts
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry import mlflow as tracking
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

DAY, LAST = date(2013, 1, 17), date(2013, 1, 24)
NIGHT = timedelta(days=1)
KEPT = (truth.OBSERVED, truth.RESTATED, windows.WINDOWS, windows.SLICES, estimates.LAYER, predictions.LAYER)


def _predict(uc: UseCase, *partitions: date) -> None:
    for day in partitions:
        publish_predictions(uc, score(uc, day))


def _labels(
    uc: UseCase, day: date, truth_of_day: pa.Table, late: int = 0, known_by: date | None = None
) -> None:
    """Publish labels as a night builds them: the last ``late`` rows are known a night after the others."""
    rows = truth_of_day.num_rows
    known = [day + (2 if row >= rows - late else 1) * NIGHT for row in range(rows)]
    table = pa.table(
        {
            "flight_id": truth_of_day["flight_id"],
            "arrived_late": pc.cast(truth_of_day["late"], pa.int64()),
            "label_available_on": pa.array(known, pa.date32()),
        }
    )
    if known_by:
        table = table.filter(pc.less_equal(table["label_available_on"], known_by))
    tables.replace_partition(uc, "labels", day, table, ["flight_id"])


def _contents(uc: UseCase) -> dict[tuple[str, date], str]:
    return {
        (layer, day): version.content_hash
        for layer in KEPT
        for day, version in tables.partition_versions(uc, layer).items()
    }


def _delta_versions(uc: UseCase) -> dict[str, int]:
    return {layer: open_table(uc, layer).version() for layer in tables.layers(uc)}


def test_late_labels_restate_the_day_and_keep_what_it_was(usecase: UseCase, day_of_features: Day) -> None:
    _predict(usecase, DAY)
    features = day_of_features(DAY)
    _labels(usecase, DAY, features, late=40, known_by=DAY + NIGHT)
    first = truth.judge(usecase, DAY + NIGHT)[DAY.isoformat()]
    assert truth.restatements(usecase, DAY, DAY) == []
    _labels(usecase, DAY, features, late=40)
    second = truth.judge(usecase, DAY + 2 * NIGHT)[DAY.isoformat()]
    (change,) = truth.restatements(usecase, DAY, DAY)
    assert (change.number, change.cause) == (1, "labels")
    assert (change.was["rows"], change.now["rows"]) == (260, 300)
    assert change.was["roc_auc"] == pytest.approx(first["roc_auc"])
    assert change.now["roc_auc"] == pytest.approx(second["roc_auc"])
    assert first["roc_auc"] != second["roc_auc"]
    chronological, versions = _contents(usecase), _delta_versions(usecase)
    for night in (DAY + 2 * NIGHT, DAY + NIGHT):
        truth.judge(usecase, night)
    assert _delta_versions(usecase) == versions
    # The later night first: it brings all labels, and the earlier one finds nothing to do.
    for layer in KEPT:
        tables.delete_partition(usecase, layer, DAY)
    for night in (DAY + 2 * NIGHT, DAY + NIGHT):
        truth.judge(usecase, night)
    assert _contents(usecase) == chronological


def test_a_corrected_label_keeps_the_figure_that_nothing_else_tells(
    usecase: UseCase, day_of_features: Day
) -> None:
    _predict(usecase, DAY)
    features = day_of_features(DAY)
    wrong = features.set_column(features.column_names.index("late"), "late", pc.invert(features["late"]))
    _labels(usecase, DAY, wrong)
    before = truth.judge(usecase, DAY + NIGHT)[DAY.isoformat()]
    _labels(usecase, DAY, features)
    after = truth.judge(usecase, DAY + NIGHT)[DAY.isoformat()]
    (change,) = truth.restatements(usecase, DAY, DAY)
    assert change.was["roc_auc"] == pytest.approx(before["roc_auc"])
    assert change.now["roc_auc"] == pytest.approx(after["roc_auc"]) == pytest.approx(1 - before["roc_auc"])
    assert change.was_labels_hash != change.labels_hash == _hash(usecase, "labels", DAY)


def test_windows_and_slices_are_those_of_a_join_by_hand(usecase: UseCase, day_of_features: Day) -> None:
    judged = list(days(DAY, LAST - NIGHT))
    _predict(usecase, *judged)
    for day in judged:
        _labels(usecase, day, day_of_features(day))
        stages.judge(usecase, day + NIGHT, day + NIGHT)
    last = judged[-1]
    week, month = windows.read(usecase, last, last)
    assert [(row["window_days"], row["days"], row["rows"]) for row in (week, month)] == [
        (7, 7, 2100),
        (28, 7, 2100),
    ]
    outcomes = tables.read_partitions(usecase, "predictions", DAY, last).to_pandas().set_index("flight_id")
    rows = pa.concat_tables(day_of_features(day) for day in judged).to_pandas().set_index("flight_id")
    rows["score"] = outcomes["score"].loc[rows.index]
    assert week["roc_auc"] == pytest.approx(roc_auc_score(rows["late"], rows["score"]), abs=1e-12)
    assert week["brier"] == pytest.approx(brier_score_loss(rows["late"], rows["score"]), abs=1e-12)
    assert week["roc_auc_low"] < week["roc_auc"] < week["roc_auc_high"]
    slices = {
        (row["slice"], row["value"]): row
        for row in windows.read_slices(usecase, last, last)
        if row["window_days"] == 7
    }
    assert set(slices) == {("carrier", name) for name in ("AA", "DL", "UA")} | {
        ("origin", name) for name in ("EWR", "JFK")
    }
    of_carrier = rows[rows["carrier"] == "DL"]
    assert slices["carrier", "DL"]["rows"] == len(of_carrier)
    assert slices["carrier", "DL"]["roc_auc"] == pytest.approx(
        roc_auc_score(of_carrier["late"], of_carrier["score"]), abs=1e-12
    )
    # UA has fewer rows than gate.slices.min_rows: its figures are there, an interval and a verdict are not.
    small = slices["carrier", "UA"]
    assert small["rows"] < usecase.gate.slices.min_rows <= slices["carrier", "AA"]["rows"]
    assert (small["roc_auc_low"], small["verdict"]) == (None, "")
    assert slices["carrier", "AA"]["roc_auc_low"] is not None


def test_a_slice_worse_than_on_the_champions_holdout_is_named(usecase: UseCase, day_of_features: Day) -> None:
    champion = deployments.champion_at(usecase, LAST)
    assert champion is not None
    held_out = {"carrier": {"AA": {"roc_auc": 0.99}, "DL": {"roc_auc": 0.6}, "UA": {"roc_auc": 0.99}}}
    evaluation = {"challenges": [{"candidate": {"run_id": champion.run_id}, "judged": {"slices": held_out}}]}
    tracking.client(usecase).log_text(champion.run_id, json.dumps(evaluation), "evaluation.json")
    judged = list(days(DAY, LAST - NIGHT))
    _predict(usecase, *judged)
    for day in judged:
        _labels(usecase, day, day_of_features(day))
    stages.judge(usecase, DAY, LAST)
    verdicts = {
        row["value"]: row["verdict"]
        for row in windows.read_slices(usecase, judged[-1], judged[-1])
        if row["window_days"] == 7 and row["slice"] == "carrier"
    }
    assert verdicts == {"AA": "worse", "DL": "ok", "UA": ""}
    # A single day is never enough for a verdict.
    assert not any(row["verdict"] for row in windows.read_slices(usecase, DAY, judged[-1]) if row["days"] < 7)


def test_nights_in_any_order_end_with_the_same_windows(usecase: UseCase, day_of_features: Day) -> None:
    nights = list(days(DAY, DAY + 4 * NIGHT))
    for day in nights[:-1]:
        _labels(usecase, day, day_of_features(day), late=20)
    _predict(usecase, *nights)
    for night in nights:
        stages.judge(usecase, night, night)
    forward, versions = _contents(usecase), _delta_versions(usecase)
    assert {layer for layer, _ in forward} == set(KEPT)
    stages.judge(usecase, nights[0], nights[-1])
    assert _delta_versions(usecase) == versions
    for layer, day in forward:
        tables.delete_partition(usecase, layer, day)
        tables.delete_partition(usecase, truth.OUTCOMES, day)
    for night in reversed(nights):
        stages.judge(usecase, night, night)
    assert _contents(usecase) == forward


def test_windows_follow_what_another_worker_judges_while_they_are_made(
    usecase: UseCase, day_of_features: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = list(days(DAY, DAY + 4 * NIGHT))
    for day in nights[:-1]:
        _labels(usecase, day, day_of_features(day))
    _predict(usecase, *nights)
    # The truth of a day comes with the next night, so the range judges a day before it, too.
    stages.judge(usecase, nights[1], nights[-1])
    alone = _contents(usecase)
    for layer, day in alone:
        tables.delete_partition(usecase, layer, day)
        tables.delete_partition(usecase, truth.OUTCOMES, day)
    stages.judge_days(usecase, nights[3], nights[-1])
    update = windows._update

    def update_after_another(*arguments: object) -> None:
        monkeypatch.setattr(windows, "_update", update)
        stages.judge_days(usecase, nights[1], nights[2])
        update(*arguments)

    monkeypatch.setattr(windows, "_update", update_after_another)
    for chunk in ((nights[3], nights[-1]), (nights[1], nights[2])):
        stages.judge_windows(usecase, *chunk, (nights[1], nights[-1]))
    assert _contents(usecase) == alone
    assert (windows.WINDOWS, nights[0]) in alone


def test_slices_that_do_not_belong_to_their_windows_are_made_again(
    usecase: UseCase, day_of_features: Day
) -> None:
    _labels(usecase, DAY, day_of_features(DAY))
    _predict(usecase, DAY)
    stages.judge(usecase, DAY, DAY + NIGHT)
    before = _contents(usecase)
    # As of a worker that knew other outcomes, and was killed before it came to the windows.
    other = tables.read_partitions(usecase, windows.SLICES, DAY, DAY).slice(1)
    tables.replace_partition(usecase, windows.SLICES, DAY, other, ["window_days", "slice", "value"])
    assert _contents(usecase) != before
    stages.judge(usecase, DAY, DAY + NIGHT)
    assert _contents(usecase) == before


def test_estimates_come_true_where_scores_are_calibrated(usecase: UseCase, day_of_features: Day) -> None:
    judged = list(days(DAY, LAST - NIGHT))
    _predict(usecase, *judged)
    estimated = {day: estimates.estimate(usecase, day) for day in judged}
    assert [item.observed for item in estimates.estimates(usecase, DAY, LAST)] == [None] * len(judged)
    for day in judged:
        _labels(usecase, day, day_of_features(day))
        truth.judge(usecase, day + NIGHT)
    kept = estimates.estimates(usecase, DAY, LAST)
    assert [item.estimated for item in kept] == [pytest.approx(estimated[day]) for day in judged]
    for name, tolerance in (("roc_auc", 0.03), ("brier", 0.02), ("cost", 0.08), ("base_rate", 0.05)):
        said = np.mean([item.estimated[name] for item in kept])
        was = np.mean([item.observed[name] for item in kept if item.observed])
        assert said == pytest.approx(was, abs=tolerance), name
    assert estimates.estimate(usecase, LAST) is None, "not scored yet"


def test_the_day_is_described_with_gaps_and_values_never_seen(usecase: UseCase, day_of_features: Day) -> None:
    features = day_of_features(DAY).drop_columns("late")
    delay = features["delay"].to_numpy().copy()
    delay[:30] = 1000.0
    features = features.set_column(
        features.column_names.index("delay"), "delay", pa.array(delay, mask=np.arange(300) >= 285)
    )
    carrier = pa.array(["XX"] * 6 + features["carrier"].to_pylist()[6:])
    features = features.set_column(features.column_names.index("carrier"), "carrier", carrier)
    tables.replace_partition(usecase, "features", DAY, features, ["flight_id"])
    assert predictions.profile(usecase, DAY) is None, "not scored yet"
    _predict(usecase, DAY)
    found = predictions.profile(usecase, DAY)
    assert found is not None
    scored = tables.read_partitions(usecase, "predictions", DAY, DAY).to_pandas()
    assert (found.rows, found.missing, found.rows_missing) == (300, {"delay": 0.05}, 0.05)
    assert 0.1 <= found.outside["delay"] < 0.11, "and a row or two beyond a small sample by nature"
    assert found.outside["carrier"] == pytest.approx(0.02)
    assert 0.1 <= found.rows_outside < 0.13
    assert found.mean == pytest.approx(scored["score"].mean(), abs=1e-6)
    assert found.deciles[4] == pytest.approx(scored["score"].median(), abs=1e-6)
    assert found.positive_rate == pytest.approx(scored["decision"].mean(), abs=1e-6)
    assert 0 < found.entropy < 1
    versions = _delta_versions(usecase)
    assert predictions.profile(usecase, DAY) == found
    assert _delta_versions(usecase) == versions


def test_the_truth_is_judged_where_predictions_cannot_be_described(
    usecase: UseCase, day_of_features: Day, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(uc: UseCase, version: str, model_hash: str | None = None) -> None:
        raise ConnectionError("MLflow does not answer")

    _predict(usecase, DAY, DAY + NIGHT)
    _labels(usecase, DAY, day_of_features(DAY))
    monkeypatch.setattr("nightshift.registry.models.load_model", unreachable)
    found = stages.judge(usecase, DAY + NIGHT, DAY + NIGHT)
    assert found[DAY.isoformat()]["status"] == "judged"
    assert f"the predictions of {DAY + NIGHT} could not be described" in caplog.text


def test_scoring_again_leaves_its_times_as_they_were(usecase: UseCase) -> None:
    _predict(usecase, DAY)
    kept = predictions.performance(usecase, DAY, DAY)[DAY]
    assert (kept["rows"], kept["chunks"], kept["attempts_failed"], kept["error_rate"]) == (300, 3, 0, 0.0)
    assert 0 < kept["p50_ms"] <= kept["p95_ms"] <= kept["p99_ms"]
    assert kept["rows_per_second"] == pytest.approx(300 / kept["seconds"])
    assert kept["predictions_hash"] == _hash(usecase, "predictions", DAY)
    versions = _delta_versions(usecase)
    _predict(usecase, DAY)
    assert _delta_versions(usecase) == versions


def test_attempts_that_failed_are_counted(usecase: UseCase, day_of_features: Day) -> None:
    folder = f"{table_folder(usecase, 'features')}/partition={DAY}/"
    for key in open_store().list(folder):
        open_store().delete(key)
    for attempts in (1, 2):
        with pytest.raises(DataError, match="damaged"):
            score(usecase, DAY)
        assert predictions.performance(usecase, DAY, DAY)[DAY]["attempts_failed"] == attempts
    features = day_of_features(DAY).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, features, ["flight_id"])
    _predict(usecase, DAY)
    kept = predictions.performance(usecase, DAY, DAY)[DAY]
    assert (kept["attempts_failed"], kept["rows"]) == (2, 300)
    assert kept["error_rate"] == pytest.approx(2 / 3)


def test_a_score_and_its_error_need_no_record_of_how_it_went(usecase: UseCase) -> None:
    """The record is of another form, so it can be neither read nor written."""
    other = pa.table({"partition": pa.array([DAY], pa.date32()), "other": ["form"]})
    tables.replace_partition(usecase, "monitoring_performance", DAY, other, ["partition"])
    assert score(usecase, DAY).rows == 300
    for key in open_store().list(f"{table_folder(usecase, 'features')}/partition={DAY}/"):
        open_store().delete(key)
    with pytest.raises(DataError, match="damaged"):
        score(usecase, DAY)


def _judged(uc: UseCase, day_of_features: Day, through: date, turned: bool = False) -> None:
    for day in days(DAY, through):
        features = day_of_features(day)
        if turned:
            place = features.column_names.index("late")
            features = features.set_column(place, "late", pc.invert(features["late"]))
        _labels(uc, day, features)
        stages.judge(uc, day + NIGHT, day + NIGHT)


def test_a_champion_as_good_as_on_its_holdout_is_left_alone(usecase: UseCase, day_of_features: Day) -> None:
    _predict(usecase, *days(DAY, LAST))
    _judged(usecase, day_of_features, LAST)
    assert quality.degradation(usecase, LAST + NIGHT) is None
    assert read_alerts(usecase.name) == []


def test_a_champion_that_became_worse_raises_one_alert(usecase: UseCase, day_of_features: Day) -> None:
    _predict(usecase, *days(DAY, LAST))
    _judged(usecase, day_of_features, LAST, turned=True)
    champion = deployments.champion_at(usecase, LAST)
    assert champion is not None
    assert quality.degradation(usecase, DAY + 6 * NIGHT) is None, "six judged days are too few to say"
    found = quality.degradation(usecase, DAY + 7 * NIGHT)
    assert found is not None
    assert (found.metric, found.days, found.rows) == ("roc_auc", 7, 2100)
    assert found.baseline == champion.metrics["roc_auc"]
    assert found.low <= found.observed <= found.high < found.baseline * 0.95
    alerts = read_alerts(usecase.name)
    assert [(alert.kind, alert.subject, alert.count) for alert in alerts] == [("quality", "version 1", 1)]
    assert f"{found.observed:.4f}" in alerts[0].message
    # What came to light after the night does not change what the night knew.
    _labels(usecase, LAST - NIGHT, day_of_features(LAST - NIGHT), late=300)
    truth.judge(usecase, LAST + NIGHT)
    assert quality.degradation(usecase, LAST + NIGHT) is not None
    known = quality.degradation(usecase, LAST)
    assert known is None, "of seven days, the labels of one were not known that night"


def test_a_higher_base_rate_alone_is_no_loss_of_quality(usecase: UseCase) -> None:
    champion = deployments.champion_at(usecase, LAST)
    assert champion is not None
    random = np.random.default_rng(1)
    for day in days(DAY, LAST - NIGHT):
        # Calibrated scores of the skill that the holdout had, at a rate of one half.
        rate, skill = champion.metrics["base_rate"], champion.metrics["brier"]
        relative = skill / (rate * (1 - rate))
        spread = math.sqrt((1 - relative) * 0.25)
        chance = np.where(random.random(600) < 0.5, 0.5 - spread, 0.5 + spread)
        chance = chance + random.normal(0, 0.002, 600)
        outcomes = pa.table(
            {
                "flight_id": [f"{day}-{number}" for number in range(600)],
                "score": chance,
                "decision": chance > 0.5,
                "model_hash": [champion.model_hash] * 600,
                "label": (random.random(600) < chance).astype(np.int64),
                "known_on": pa.array([day + NIGHT] * 600, pa.date32()),
            }
        )
        tables.replace_partition(usecase, truth.OUTCOMES, day, outcomes, ["flight_id"])
    lenient = deployments.history(usecase)[-1].model_copy(
        update={"metrics": {name: champion.metrics[name] for name in ("brier", "base_rate")}}
    )
    found = quality.degradation(usecase, LAST, [lenient])
    assert found is None
    strict = lenient.model_copy(
        update={"metrics": {"brier": rate * (1 - rate) * relative * 0.8, "base_rate": rate}}
    )
    worse = quality.degradation(usecase, LAST, [strict])
    assert worse is not None
    assert worse.metric == "brier"
    assert worse.baseline == pytest.approx(0.25 * relative * 0.8, rel=0.01)
    assert worse.low > worse.baseline * 1.05


def test_the_command_shows_it(
    usecase: UseCase, day_of_features: Day, capsys: pytest.CaptureFixture[str]
) -> None:
    print_quality(usecase, collect(usecase))
    assert "no prediction has been judged yet" in capsys.readouterr().out
    _predict(usecase, DAY, DAY + NIGHT)
    _labels(usecase, DAY, day_of_features(DAY), late=40)
    stages.judge(usecase, DAY, DAY + NIGHT)
    found = collect(usecase)
    assert found["last_judged"] == DAY
    assert [(of_day["day"], of_day["observed"] is None) for of_day in found["days"]] == [
        (DAY, False),
        (DAY + NIGHT, True),
    ]
    assert json.loads(json.dumps(found, default=str, allow_nan=False))["degradation"] is None
    print_quality(usecase, found)
    shown = capsys.readouterr().out
    assert "no sign that version 1 has become worse" in shown
    assert "restated 2013-01-17 (labels): rows 260 to 300" in shown
    assert f"{found['days'][0]['observed']['roc_auc']:.3f}" in shown
    assert f"{found['days'][1]['estimate']['roc_auc']:.3f}" in shown


def _hash(uc: UseCase, layer: str, day: date) -> str:
    version = tables.partition_version(uc, layer, day)
    assert version is not None
    return version.content_hash
