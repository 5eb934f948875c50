"""Robustness, stress, fairness, calibration and latency, of models whose behaviour is known by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests import synthetic

from nightshift.evaluation.calibration import calibration
from nightshift.evaluation.fairness import Scored, fairness
from nightshift.evaluation.latency import measure
from nightshift.evaluation.robustness import SCENARIOS, UNSEEN, disturb, robustness
from nightshift.evaluation.stress import stress
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import BetaCalibration, Model, Origin, load, save
from nightshift.training.trainer import Examples
from nightshift.training.watch import Unwatched
from nightshift.training.xgboost_trainer import XGBoostTrainer

DAYS = [synthetic.START + timedelta(days=number) for number in range(40)]
ROWS = pa.concat_tables([synthetic.features_of(day) for day in DAYS])
LABEL = (
    pa.concat_tables([synthetic.labels_of(day) for day in DAYS])["returned"]
    .fill_null(0)
    .to_numpy()
    .astype(np.float32)
)
AS_IT_IS = BetaCalibration(slope_low=1, slope_high=1, intercept=0)


class Formula:
    """A model that is one line: it leans on demand, whatever else comes in."""

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> np.ndarray:
        demand = np.nan_to_num(pc.cast(data["demand"], pa.float64()).to_numpy(), posinf=9, neginf=-9)
        return 1 / (1 + np.exp(1.5 - 1.2 * np.asarray(demand)))


class Fragile:
    """A model that breaks on what it does not know."""

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> np.ndarray:
        if UNSEEN in data["shop"].to_pylist():
            raise KeyError(UNSEEN)
        demand = np.asarray(pc.cast(data["demand"], pa.float64()).to_numpy())
        return np.where(np.isnan(demand), np.nan, 0.5)


def model(scorer: Any, folder: Path, calibration: BetaCalibration = AS_IT_IS) -> Model:
    encoder = Encoder.fit(ROWS, synthetic.CATEGORICAL, synthetic.NUMERIC)
    origin = Origin(
        usecase="synthetic",
        trainer="by hand",
        kind="xgboost",
        encoder=encoder,
        calibration=calibration,
        threshold=0.25,
        snapshot_hash="snapshot",
        trained_night=DAYS[-1],
        trained_through=DAYS[-1],
    )
    reference = ROWS.select(["partition", *encoder.columns])
    origin = save(folder, origin, b"weights", reference)
    return Model(origin, scorer, folder)


@pytest.fixture
def formula(tmp_path: Path) -> Model:
    return model(Formula(), tmp_path / "model")


# Robustness -----------------------------------------------------------------------------------------


def test_each_disturbance_does_what_it_says(formula: Model) -> None:
    uc = synthetic.use_case(evaluation={"robustness": {"noise": 0.5, "share": 0.2, "extreme": 8}})
    made = {name: disturb(uc, formula, ROWS, name) for name in SCENARIOS}
    demand = ROWS["demand"].to_numpy()
    moved = {name: table["demand"].to_numpy() - demand for name, table in made.items()}
    assert moved["noise"].std() == pytest.approx(0.5 * demand.std(), rel=0.05)
    assert np.isnan(moved["missing"]).mean() == pytest.approx(0.2, abs=0.03)
    assert made["missing"]["shop"].null_count / ROWS.num_rows == pytest.approx(0.2, abs=0.03)
    assert np.mean(np.array(made["unseen"]["shop"].to_pylist()) == UNSEEN) == pytest.approx(0.2, abs=0.03)
    assert (moved["unseen"] == 0).all()
    extreme = moved["extreme"][moved["extreme"] != 0]
    assert extreme.size / ROWS.num_rows == pytest.approx(0.2, abs=0.03)
    assert np.isinf(extreme).any()
    assert np.abs(extreme[np.isfinite(extreme)]).min() > 4 * demand.std()
    swapped = made["swapped"]["lag"].to_numpy() == demand
    assert swapped.mean() == pytest.approx(0.2, abs=0.03)
    # The made-up demand has no season to speak of: it moves by one and the same small amount.
    assert np.ptp(moved["shifted"]) == pytest.approx(0, abs=1e-9)
    assert abs(moved["shifted"][0]) < 0.3


def test_a_season_in_the_training_rows_is_carried_on(tmp_path: Path) -> None:
    position = ROWS.schema.get_field_index("demand")
    day = pc.cast(ROWS["partition"], pa.int32()).to_numpy()
    risen = ROWS.set_column(position, "demand", pa.array((day - day.min()) * 0.1))
    seasonal = model(Formula(), tmp_path / "model")
    other = tmp_path / "other"
    saved = save(other, seasonal.origin, b"weights", risen.select(["partition", *seasonal.feature_columns]))
    seasonal = replace(seasonal, origin=saved, folder=other)
    shifted = disturb(synthetic.use_case(), seasonal, risen, "shifted")
    # Forty days, so half against half: twenty days at 0.1 a day.
    moved = shifted["demand"].to_numpy() - risen["demand"].to_numpy()
    assert moved == pytest.approx(2.0)


def test_what_a_disturbance_costs_is_measured(formula: Model) -> None:
    found = {item.scenario: item for item in robustness(synthetic.use_case(), formula, ROWS, LABEL)}
    assert set(found) == set(SCENARIOS)
    assert not any(item.failure for item in found.values())
    # The formula reads no category, and leans on the column that extremes and swaps destroy.
    assert (found["unseen"].roc_auc_loss, found["unseen"].flipped) == (0, 0)
    assert found["swapped"].roc_auc_loss > 0.01
    assert found["extreme"].log_loss_rise > 0.05
    assert 0 < found["noise"].flipped < found["extreme"].flipped


def test_a_model_that_breaks_or_answers_nonsense_is_told_apart(tmp_path: Path) -> None:
    fragile = model(Fragile(), tmp_path / "model")
    found = {item.scenario: item for item in robustness(synthetic.use_case(), fragile, ROWS, LABEL)}
    assert found["unseen"].failure.startswith("KeyError")
    assert "scores are no probabilities" in found["missing"].failure
    assert found["noise"].failure == ""


def test_real_trees_answer_whatever_comes_in(tmp_path: Path) -> None:
    encoder = Encoder.fit(ROWS, synthetic.CATEGORICAL, synthetic.NUMERIC)
    params = {"rounds": 20, "early_stopping_rounds": 5}
    trees = XGBoostTrainer().fit(
        Examples(ROWS, LABEL), Examples(ROWS, LABEL), encoder, params, 1, watch=Unwatched()
    )
    origin = model(Formula(), tmp_path / "model").origin
    saved = save(tmp_path / "model", origin, trees.weights, ROWS.select(["partition", *encoder.columns]))
    found = robustness(synthetic.use_case(), load(tmp_path / "model", saved.identity), ROWS, LABEL)
    assert [item.failure for item in found] == [""] * len(SCENARIOS)


# Stress ---------------------------------------------------------------------------------------------


def case(**changes: Any) -> dict[str, Any]:
    return {"name": "a_case", "why": "because", "kind": "monotonic", "score": "up"} | changes


@pytest.mark.parametrize(
    ("declared", "share"),
    [
        (case(change={"demand": {"add": 1}}), 1.0),
        (case(change={"demand": {"add": 1}}, score="down"), 0.0),
        (case(change={"demand": {"add": 1}}, score="down", tolerance=0.9), 1.0),
        (case(change={"hour": {"set": 3}}), 1.0),
        ({**case(change={"shop": {"set": "z"}}, kind="invariant"), "score": None}, 1.0),
        ({**case(change={"demand": {"multiply": 2}}, kind="invariant"), "score": None}, 0.0),
    ],
)
def test_a_case_says_which_share_of_rows_behaves(
    formula: Model, declared: dict[str, Any], share: float
) -> None:
    declared = {name: value for name, value in declared.items() if value is not None}
    (found,) = stress(synthetic.use_case(stress=[declared]), formula, ROWS)
    assert found.rows == ROWS.num_rows
    assert found.share == share
    assert found.passed is (share == 1)
    assert (found.worst > 0) is (share == 0 or "tolerance" in declared)


def test_a_case_may_ask_some_rows_only(formula: Model) -> None:
    uc = synthetic.use_case(stress=[case(change={"demand": {"add": 1}}, only={"shop": ["a", "b"]})])
    (found,) = stress(uc, formula, ROWS)
    assert found.rows == sum(value in ("a", "b") for value in ROWS["shop"].to_pylist())


def test_a_case_no_row_can_be_put_to_is_said_and_passes(formula: Model) -> None:
    uc = synthetic.use_case(stress=[case(change={"demand": {"add": 1}}, only={"shop": ["moon"]})])
    (found,) = stress(uc, formula, ROWS)
    assert (found.share, found.passed) == (None, True)
    assert "no row" in found.note


# Fairness -------------------------------------------------------------------------------------------


def test_rates_by_group_are_those_counted_by_hand() -> None:
    shop = ["a"] * 4 + ["b"] * 4 + ["c"]
    rows = pa.table({"shop": shop})
    label = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1], dtype=np.float32)
    score = np.array([0.9, 0.1, 0.8, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9])
    uc = synthetic.use_case(evaluation={"fairness": {"groups": ["shop"], "min_rows": 2}})
    judged = Scored(rows, label, score)
    (found,) = fairness(uc, judged, judged, 0.5)
    assert found.groups["a"].rates == pytest.approx(
        {
            "selection_rate": 0.5,
            "false_positive_rate": 0.5,
            "false_negative_rate": 0.5,
            "calibration": 1.9 / 4 - 0.5,
        }
    )
    assert found.groups["b"].rates["false_positive_rate"] == 0
    assert "false_positive_rate" not in found.groups["c"].rates
    # The third group is too small to take part.
    assert found.differences == pytest.approx(
        {
            "selection_rate": 0.25,
            "false_positive_rate": 0.5,
            "false_negative_rate": 0.5,
            "calibration": abs((1.9 / 4 - 0.5) - (1.2 / 4 - 0.25)),
        }
    )


def test_thresholds_per_group_even_out_false_alarms_on_rows_they_were_not_fitted_on(formula: Model) -> None:
    uc = synthetic.use_case(evaluation={"fairness": {"groups": ["shop"], "min_rows": 100}})
    half = ROWS.num_rows // 2
    fitted, judged = (
        Scored(part, label, formula.predict_proba(part))
        for part, label in (
            (ROWS.slice(0, half), LABEL[:half]),
            (ROWS.slice(half), LABEL[half:]),
        )
    )
    (found,) = fairness(uc, judged, fitted, formula.threshold)
    assert found.mitigation is not None
    before = found.differences["false_positive_rate"]
    # Shop d orders more than shop a, so one threshold warns of it far more often.
    assert before > 0.2
    assert found.mitigation.differences["false_positive_rate"] < before / 2
    assert found.mitigation.thresholds["d"] > found.mitigation.thresholds["a"]
    assert found.mitigation.cost_before != found.mitigation.cost_after


# Calibration and latency ----------------------------------------------------------------------------


def test_calibration_is_shown_before_and_after(tmp_path: Path) -> None:
    # The formula is about right, so turning it up by one logit spoils it.
    spoiled = model(Formula(), tmp_path / "model", BetaCalibration(slope_low=1, slope_high=1, intercept=1))
    found = calibration(synthetic.use_case(), spoiled, ROWS, LABEL, spoiled.predict_proba(ROWS))
    assert found.before["ece"] < 0.1 < found.after["ece"]
    assert found.before["log_loss"] < found.after["log_loss"]
    assert sum(item.rows for item in found.curve) == ROWS.num_rows
    assert [item.score for item in found.curve] == sorted(item.score for item in found.curve)


def test_latency_counts_the_files_of_the_model(formula: Model) -> None:
    found = measure(formula, ROWS)
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.rows_per_second > 0
    assert found.size_mb == sum(file.stat().st_size for file in formula.folder.iterdir()) / 1e6
