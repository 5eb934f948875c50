"""Drill: the model is served something else than it learnt from.

The failure: features are computed twice, for training by one team and for serving by another, and one of the
two changes: minutes instead of hours, zero instead of missing, columns in another order. Nothing crashes.
The defences: features are computed once, published, and read by both; a model takes its columns by name; each
night is compared with what training saw, by the name of the feature; the scores of a day are made again from
the published features before they are published; and what was published anew since is stale by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests import synthetic

from nightshift import stages
from nightshift.errors import DataError
from nightshift.inference import score as scoring
from nightshift.inference.score import score
from nightshift.inference.verify import verify
from nightshift.lake import tables
from nightshift.lake.staging import read_staged, stage
from nightshift.registry import deployments
from nightshift.registry.models import load_model
from nightshift.registry.records import Decision
from nightshift.training.snapshot import load, snapshot
from nightshift.usecase import UseCase

NIGHT = date(2020, 2, 10)
DAY = date(2020, 2, 11)

Edit = Callable[[pa.RecordBatch], pa.RecordBatch]


@pytest.fixture
def served(shop: UseCase) -> UseCase:
    """The shop with a champion, and the features of the day it scores first."""
    taken = stages.take_snapshot(shop, NIGHT)
    candidate = stages.train_candidate(shop, taken, "trees")
    decision = Decision.model_validate(
        {"promote": True, "candidate": candidate, "metrics": {}, "reasons": ["first champion"]}
    )
    deployments.promote(shop, decision, effective_from=DAY)
    synthetic.publish(shop, NIGHT, DAY)
    return shop


def _set(name: str, change: Callable[[pa.Array], Any]) -> Edit:
    def edit(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(batch.schema.get_field_index(name), name, change(batch.column(name)))

    return edit


EDITS = {
    "minutes instead of hours": _set("hour", lambda hours: pc.multiply(hours, 60)),
    "zero instead of missing": _set("lag", lambda lags: pc.fill_null(lags, 0.0)),
    "another spelling": _set("shop", pc.utf8_upper),
    "columns in another order": lambda batch: batch.rename_columns(
        [{"demand": "lag", "lag": "demand"}.get(name, name) for name in batch.schema.names]
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_feature_that_is_computed_otherwise_for_serving_only_stops_the_day(
    served: UseCase, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify(served, score(served, DAY)) == synthetic.features_of(DAY).num_rows

    def scan(*arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        """What somebody added to scoring, between reading features and asking the model."""
        return map(edit, original(*arguments, **options))

    original = tables.scan
    monkeypatch.setattr(scoring.tables, "scan", scan)
    skewed = score(served, DAY)
    with pytest.raises(DataError, match=r"training-serving skew: \d+ of 80 scores of 2020-02-11") as stopped:
        verify(served, skewed)
    entity = stopped.value.message.split("features: ")[1].split(" has ")[0]
    assert entity in read_staged(skewed)[served.entity].to_pylist(), "it is shown where to look"
    assert "do" in stopped.value.cure


def test_order_and_type_of_published_columns_change_no_score(served: UseCase) -> None:
    before = read_staged(score(served, DAY)).sort_by(served.entity)["score"]
    rows = synthetic.features_of(DAY)
    rows = rows.set_column(rows.column_names.index("hour"), "hour", pc.cast(rows["hour"], pa.float64()))
    turned = rows.select(rows.column_names[::-1])
    model = load_model(served, "1")
    again = model.predict_proba(turned.sort_by(served.entity))
    np.testing.assert_array_equal(before.to_numpy(), again)
    with pytest.raises(DataError, match="feature column 'lag' is missing"):
        model.predict_proba(turned.drop_columns(["lag"]))


def test_training_freezes_the_very_rows_that_were_scored(served: UseCase) -> None:
    """Computed once: what a later training learns of a day is what its predictions were made from."""
    scored = read_staged(score(served, DAY))
    later = DAY + timedelta(days=20)
    synthetic.publish(served, DAY, later)
    frozen = load(snapshot(served, later + timedelta(days=1)), "train")
    learnt = frozen.filter(pc.equal(frozen["partition"], pa.scalar(DAY, pa.date32())))
    assert learnt.num_rows > 70
    scores = dict(zip(scored[served.entity].to_pylist(), scored["score"].to_pylist(), strict=True))
    again = load_model(served, "1").predict_proba(learnt)
    assert [scores[entity] for entity in learnt[served.entity].to_pylist()] == again.tolist()


def test_another_unit_in_the_features_of_a_night_is_warned_of_by_name(
    served: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    """Changed where features are computed, so that training would see it too, only later."""
    night = DAY + timedelta(days=1)
    rows = synthetic.features_of(night)
    in_minutes = rows.set_column(rows.column_names.index("hour"), "hour", pc.multiply(rows["hour"], 60))
    for table in (rows, in_minutes):
        caplog.clear()
        item = stage(served, "features", night, table, [served.entity]).model_dump(mode="json")
        with caplog.at_level(logging.WARNING, logger="nightshift"):
            assert stages.validate_features(served, [item])[0]["rows"] == rows.num_rows
        named = [line for line in caplog.messages if "unlike what the champion learnt from" in line]
        assert len(named) == (table is in_minutes)
    assert named[0].startswith(
        "synthetic, features of 2020-02-12 unlike what the champion learnt from: hour (mean 6"
    )


def test_predictions_of_features_that_were_replaced_are_not_taken_for_skewed(
    served: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    """Training will learn other values than were served: such days are stale, tests/dbt/test_staleness.py."""
    scored = score(served, DAY)
    rows = synthetic.features_of(DAY)
    other = rows.set_column(rows.column_names.index("lag"), "lag", pc.fill_null(rows["lag"], 0.0))
    tables.replace_partition(served, "features", DAY, other, [served.entity])
    assert verify(served, scored) == 0
    assert "scores of 2020-02-11 are not compared: their features were replaced" in caplog.text
