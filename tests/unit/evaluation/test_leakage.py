"""The leak alarm on made-up orders: what knows the outcome is stopped by its name, in whatever form."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from tests import synthetic

from nightshift.errors import DataError
from nightshift.evaluation.leakage import feature_aucs, refuse_leaks
from nightshift.usecase import UseCase

NIGHT = synthetic.START + timedelta(days=30)


def rows_and_labels() -> tuple[pa.Table, np.ndarray]:
    days = [synthetic.START + timedelta(days=number) for number in range(30)]
    rows = pa.concat_tables([synthetic.features_of(day) for day in days])
    labels = pa.concat_tables([synthetic.labels_of(day) for day in days])["returned"].fill_null(0)
    return rows.append_column("returned", labels), labels.to_numpy().astype(np.float32)


def with_feature(name: str, values: pa.Array, *, numeric: bool) -> tuple[UseCase, pa.Table]:
    rows, _ = rows_and_labels()
    features = {
        "relation": "features_synthetic",
        "lookback_days": 7,
        "categorical": (*synthetic.CATEGORICAL, *([] if numeric else [name])),
        "numeric": (*synthetic.NUMERIC, *([name] if numeric else [])),
    }
    return synthetic.use_case(features=features), rows.append_column(name, values)


def test_honest_features_pass_and_the_telling_one_leads() -> None:
    rows, _ = rows_and_labels()
    found = refuse_leaks(synthetic.use_case(), NIGHT, rows)
    assert list(found) == sorted(found, key=found.__getitem__, reverse=True)
    assert next(iter(found)) == "demand"
    assert 0.7 < found["demand"] < 0.9
    assert found["hour"] == pytest.approx(0.5, abs=0.05)


def _leak(form: str, label: np.ndarray) -> pa.Array:
    random = np.random.default_rng(4)
    noise = random.normal(0, 0.2, label.size)
    if form == "number":
        return pa.array(label + noise)
    if form == "turned over":
        return pa.array(-label + noise)
    if form == "distance from a middle":
        return pa.array((label + noise + 2) * random.choice([-1, 1], label.size))
    if form == "gap":
        return pa.array(noise, mask=label > 0.5)
    codes = np.where(label > 0.5, random.integers(0, 5, label.size), random.integers(5, 10, label.size))
    return pa.array([f"code {code}" for code in codes])


@pytest.mark.parametrize("form", ["number", "turned over", "distance from a middle", "gap", "category"])
def test_a_leak_is_stopped_by_name_in_whatever_form(form: str) -> None:
    _, label = rows_and_labels()
    uc, rows = with_feature("refund", _leak(form, label), numeric=form != "category")
    with pytest.raises(DataError, match=r"alone, refund \((0.9\d\d|1.000)\) reaches") as error:
        refuse_leaks(uc, NIGHT, rows)
    assert "demand" not in error.value.message
    assert error.value.rule == "evaluation.leaks.max_feature_auc: 0.9"


def test_a_category_of_single_rows_is_no_leak() -> None:
    rows, _ = rows_and_labels()
    uc, rows = with_feature("number", rows["order_id"], numeric=False)
    assert refuse_leaks(uc, NIGHT, rows)["number"] == pytest.approx(0.5, abs=0.05)


def test_the_limit_is_the_use_cases() -> None:
    rows, _ = rows_and_labels()
    strict = synthetic.use_case(evaluation={"leaks": {"max_feature_auc": 0.6}})
    with pytest.raises(DataError, match=r"demand \(0\.7"):
        refuse_leaks(strict, NIGHT, rows)


def test_rows_of_one_class_tell_nothing() -> None:
    rows, label = rows_and_labels()
    assert feature_aucs(synthetic.use_case(), rows, np.zeros_like(label)) == {}
