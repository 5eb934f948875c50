"""Drill: one outcome in fifty, and a model that says "never".

The failure: 98% accuracy looks like success, and the model finds none of what it was made to find.
The defence: accuracy is no metric of Nightshift. The gate asks for ROC AUC, PR AUC and recall, which a model
without any knowledge does not reach however rare the positives are, and every figure stands per slice.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from tests import synthetic
from tests.lakes import sealed_rows

from nightshift import stages
from nightshift.errors import DataError
from nightshift.evaluation.evaluate import Evaluation
from nightshift.evaluation.gate import gate
from nightshift.lake import tables
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.models import load_candidate
from nightshift.registry.records import Candidate, Decision
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import Gate, UseCase

LAST = date(2020, 2, 9)
NIGHT = date(2020, 2, 10)
ROWS = 250
FLOORS = {"roc_auc": 0.6, "pr_auc": 0.06, "recall": 0.3}


def _publish(uc: UseCase, *, knowable: bool) -> None:
    """Publish orders of which one in fifty returns: the large ones do, or, not ``knowable``, just any."""
    features, labels = {}, {}
    for day in days(synthetic.START, LAST):
        random = np.random.default_rng(day.toordinal() + 5)
        rows = synthetic.features_of(day, ROWS)
        chance = 1 / (1 + np.exp(-(1.5 * rows["demand"].to_numpy() - 5.6))) if knowable else 0.02
        returned = random.random(ROWS) < chance
        features[day] = rows
        labels[day] = pa.table(
            {
                "order_id": rows["order_id"],
                "returned": pa.array(returned.astype(np.int64)),
                "label_available_on": pa.repeat(pa.scalar(day), ROWS),
            }
        )
    tables.replace_partitions(uc, "features", features, [uc.entity])
    tables.replace_partitions(uc, "labels", labels, [uc.entity])


@pytest.fixture
def rare(shop: UseCase) -> UseCase:
    """The shop, where a missed return costs fifteen needless checks, and the floors of its gate."""
    costs = shop.costs.model_copy(update={"false_positive": 1, "false_negative": 15})
    gates = Gate(primary="roc_auc", floors=FLOORS)
    return shop.model_copy(update={"costs": costs, "gate": gates})


def _through_the_gate(uc: UseCase) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    snapshot = stages.take_snapshot(uc, NIGHT)
    candidate = stages.train_candidate(uc, snapshot, "trees")
    evaluation = stages.evaluate(uc, snapshot, [candidate])
    return snapshot, evaluation, stages.gate(uc, evaluation)


def test_a_model_that_says_never_is_right_98_times_in_100_and_refused(rare: UseCase) -> None:
    _publish(rare, knowable=False)
    snapshot, evaluation, decision = _through_the_gate(rare)
    candidate = Candidate.model_validate(decision["candidate"])
    rows = sealed_rows(Snapshot.model_validate(snapshot).sealed)
    model = load_candidate(rare, candidate)
    acted_on = model.predict_proba(rows) >= model.threshold
    right = acted_on == rows["returned"].to_numpy().astype(bool)
    assert right.mean() > 0.97, "accuracy alone would call it a success"

    said = Decision.model_validate(decision)
    assert not said.promote
    told = "; ".join(said.reasons)
    assert "breaks its floor 0.6" in told
    assert "recall 0.0" in told
    assert "breaks its floor 0.3" in told
    with pytest.raises(DataError, match=r"the gate refused trees: .*recall"):
        stages.promote(rare, NIGHT, decision)
    assert deployments.newest(rare) is None

    # Without floors nothing holds it back: it is they that do.
    blind = rare.model_copy(update={"gate": Gate(primary="roc_auc")})
    assert gate(blind, Evaluation.model_validate(evaluation)).promote


def test_a_model_that_finds_them_passes_the_same_gate(rare: UseCase) -> None:
    _publish(rare, knowable=True)
    _, evaluation, decision = _through_the_gate(rare)
    said = Decision.model_validate(decision)
    assert said.promote, said.reasons
    assert said.metrics["base_rate"] < 0.04
    assert said.metrics["recall"] > 0.5
    by_shop = Evaluation.model_validate(evaluation).challenges[0].judged.slices["shop"]
    # Returns are several times as frequent in one shop as in another, and each is judged by itself.
    assert set(by_shop) == set(synthetic.SHOPS)
    assert all("recall" in figures and "base_rate" in figures for figures in by_shop.values())
