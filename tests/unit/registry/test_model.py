"""A stored model scores as it did when it was trained, whatever batch a row comes in."""

from __future__ import annotations

import itertools
import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xgboost
from tests import synthetic

from nightshift.errors import DataError
from nightshift.registry import model as stored
from nightshift.registry.encoder import Encoder
from nightshift.registry.model import BetaCalibration, Model, Origin
from nightshift.training.logistic_trainer import LogisticTrainer
from nightshift.training.plots import shap_importance
from nightshift.training.torch_trainer import TorchTrainer
from nightshift.training.trainer import Examples, Fit
from nightshift.training.watch import Unwatched
from nightshift.training.xgboost_trainer import XGBoostTrainer

DAYS = [synthetic.START + timedelta(days=i) for i in range(12)]
ENCODER = Encoder.fit(
    pa.concat_tables(synthetic.features_of(day) for day in DAYS[:10]),
    synthetic.CATEGORICAL,
    synthetic.NUMERIC,
)


def _examples(days: list[date]) -> Examples:
    labels = pa.concat_tables(synthetic.labels_of(day) for day in days)["returned"].fill_null(0)
    return Examples(
        pa.concat_tables(synthetic.features_of(day) for day in days),
        labels.to_numpy().astype(np.float32),
    )


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    train, validation = _examples(DAYS[:10]), _examples(DAYS[10:])
    network = {"hidden": [16], "epochs": 10, "batch_rows": 128, "learning_rate": 0.02}
    return {
        "xgboost": XGBoostTrainer().fit(train, validation, ENCODER, {"rounds": 20}, 1, watch=Unwatched()),
        "logistic": LogisticTrainer().fit(train, validation, ENCODER, {}, 1, watch=Unwatched()),
        "torch": TorchTrainer().fit(train, validation, ENCODER, network, 1, watch=Unwatched()),
    }


@pytest.fixture(params=["xgboost", "torch", "logistic"])
def model(request: pytest.FixtureRequest, fits: dict[str, Fit], tmp_path: Path) -> Model:
    origin = Origin(
        usecase="synthetic",
        trainer="one",
        kind=request.param,
        encoder=ENCODER,
        calibration=BetaCalibration(slope_low=0.8, slope_high=1.1, intercept=-0.2),
        threshold=0.25,
        snapshot_hash="s",
        trained_night=date(2020, 1, 13),
        trained_through=date(2020, 1, 11),
    )
    reference = synthetic.features_of(DAYS[0]).append_column("score", pa.array(np.zeros(80)))
    saved = stored.save(tmp_path, origin, fits[request.param].weights, reference)
    return stored.load(tmp_path, saved.identity)


def test_a_row_has_the_same_score_in_any_batch(model: Model) -> None:
    rows = pa.concat_tables(synthetic.features_of(day) for day in DAYS)
    together = model.predict_proba(rows)
    apart = [
        model.predict_proba(batch)
        for batch in rows.combine_chunks().to_batches(max_chunksize=7)
        if batch.num_rows
    ]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    assert together.dtype == np.float64
    assert ((together > 0) & (together < 1)).all()


def test_no_rows_give_no_scores(model: Model) -> None:
    assert model.predict_proba(synthetic.features_of(DAYS[0]).slice(0, 0)).shape == (0,)


def test_a_new_category_scores_as_a_missing_one(model: Model) -> None:
    rows = synthetic.features_of(DAYS[0])

    def with_shop(value: str | None) -> pa.Table:
        column = pa.array([value] * rows.num_rows, pa.string())
        return rows.set_column(rows.schema.get_field_index("shop"), "shop", column)

    np.testing.assert_array_equal(
        model.predict_proba(with_shop("never seen")), model.predict_proba(with_shop(None))
    )
    assert not np.array_equal(model.predict_proba(with_shop("a")), model.predict_proba(with_shop("c")))


def test_columns_are_found_by_name_and_extra_ones_ignored(model: Model) -> None:
    rows = synthetic.features_of(DAYS[0])
    turned = rows.select(rows.column_names[::-1]).append_column("extra", pa.array(["z"] * rows.num_rows))
    np.testing.assert_array_equal(model.predict_proba(rows), model.predict_proba(turned))


def test_a_damaged_model_is_refused(model: Model) -> None:
    weights = model.folder / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="content hash"):
        stored.load(model.folder, model.origin.identity)


def test_half_a_model_is_refused(model: Model) -> None:
    (model.folder / "weights.bin").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        stored.load(model.folder, model.origin.identity)


@pytest.mark.parametrize(
    "change", [{"threshold": 0.3}, {"calibration": BetaCalibration(slope_low=1, slope_high=1, intercept=0)}]
)
def test_all_that_decides_a_score_is_in_the_content_hash(
    model: Model, change: dict[str, object], tmp_path: Path
) -> None:
    weights = (model.folder / "weights.bin").read_bytes()
    changed = stored.save(
        tmp_path / "other", model.origin.model_copy(update=change), weights, model.reference
    )
    assert changed.content_hash != model.content_hash


def test_where_it_was_trained_is_not_in_the_content_hash(model: Model, tmp_path: Path) -> None:
    weights = (model.folder / "weights.bin").read_bytes()
    moved = model.origin.model_copy(update={"trained_night": date(2021, 1, 1), "snapshot_hash": "other"})
    assert stored.save(tmp_path / "other", moved, weights, model.reference).content_hash == model.content_hash


def test_trees_score_as_the_booster_itself(fits: dict[str, Fit]) -> None:
    rows = synthetic.features_of(DAYS[-1])
    booster = xgboost.Booster(model_file=bytearray(fits["xgboost"].weights))
    expected = booster.predict(xgboost.DMatrix(ENCODER.encode(rows), enable_categorical=True))
    scorer = stored.scorer_of("xgboost", fits["xgboost"].weights, ENCODER)
    np.testing.assert_array_equal(scorer.probabilities(rows), expected.astype(np.float64))


# Explanations ---------------------------------------------------------------------------------------

TOLERANCE = 1e-5  # XGBoost adds in float32.


def test_contributions_and_base_sum_to_the_log_odds(model: Model) -> None:
    rows = pa.concat_tables(synthetic.features_of(day) for day in DAYS)
    found = model.contributions(rows)
    assert found.values.shape == (rows.num_rows, len(model.feature_columns))
    raw = model.scorer.probabilities(rows)
    np.testing.assert_allclose(
        found.base + found.values.sum(axis=1), np.log(raw) - np.log1p(-raw), atol=TOLERANCE
    )


def test_a_row_has_the_same_contributions_in_any_batch(model: Model) -> None:
    rows = synthetic.features_of(DAYS[0])
    together = model.contributions(rows)
    apart = [model.contributions(batch) for batch in rows.combine_chunks().to_batches(max_chunksize=7)]
    np.testing.assert_array_equal(together.values, np.concatenate([part.values for part in apart]))
    assert {part.base for part in apart} == {together.base}
    np.testing.assert_array_equal(model.contributions(rows).values, together.values)
    none = model.contributions(rows.slice(0, 0))
    assert none.values.shape == (0, len(model.feature_columns))
    assert none.base == together.base


def test_the_feature_with_the_signal_contributes_most(model: Model) -> None:
    rows = pa.concat_tables(synthetic.features_of(day) for day in DAYS)
    found = model.contributions(rows).values
    demand = model.feature_columns.index("demand")
    assert np.abs(found).mean(axis=0).argmax() == demand
    assert np.corrcoef(found[:, demand], rows["demand"].to_numpy())[0, 1] > 0.6
    assert next(iter(shap_importance(model, rows, seed=1))) == "demand"


def test_contributions_are_shapley_values(model: Model) -> None:
    """Against the definition: every order of the features, and every row of the reference as background."""
    rows, names = synthetic.features_of(DAYS[-1]).slice(0, 12), model.feature_columns
    background, count = model.reference, model.reference.num_rows
    values = {}
    for chosen in itertools.product([False, True], repeat=len(names)):
        mixed = pa.table(
            {
                name: pa.concat_arrays([pa.repeat(value, count) for value in rows[name]])
                if inside
                else pa.concat_arrays([background[name].combine_chunks()] * rows.num_rows)
                for name, inside in zip(names, chosen, strict=True)
            }
        )
        raw = model.scorer.probabilities(mixed)
        values[chosen] = (np.log(raw) - np.log1p(-raw)).reshape(rows.num_rows, count).mean(axis=1)
    exact = np.zeros((rows.num_rows, len(names)))
    for order in itertools.permutations(range(len(names))):
        chosen = [False] * len(names)
        for place in order:
            before = values[tuple(chosen)]
            chosen[place] = True
            exact[:, place] += values[tuple(chosen)] - before
    exact /= math.factorial(len(names))
    found = model.contributions(rows)
    if model.origin.kind == "logistic":
        np.testing.assert_allclose(found.values, exact, atol=1e-9)
    else:
        # Trees take the paths of their training rows as background, the network samples the way there.
        assert np.corrcoef(found.values.ravel(), exact.ravel())[0, 1] > 0.97
    # Exact ones begin at the mean over the background; trees at that over all training rows.
    assert found.base == pytest.approx(
        values[(False,) * len(names)][0], abs=0.25 if model.origin.kind == "xgboost" else 1e-6
    )
