"""Drill: a feature knows the outcome.

The failure: a column made from the label, or from what came after it, is joined into the features. Every
offline figure is splendid, and production is as bad as before: the column is empty when it counts.
The defence: ``evaluation.leakage`` asks each feature alone before anything is trained, and names it.
More of it: ``tests/unit/evaluation/test_leakage.py`` (forms of leaks) and
``tests/integration/evaluation/test_real_leak.py`` (the departure delay of real flights).
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests import synthetic

from nightshift import stages
from nightshift.errors import DataError
from nightshift.lake import append_log, tables
from nightshift.partition import days
from nightshift.training.snapshot import Snapshot, load
from nightshift.usecase import EvaluationRules, LeakAlarm, UseCase

LAST = date(2020, 2, 9)
NIGHT = LAST + timedelta(days=1)


def _with_refunds(shop: UseCase) -> UseCase:
    """Join what the shop paid back later, which it does for returned orders, to the features of each day."""
    features = {}
    for day in days(synthetic.START, LAST):
        returned = np.asarray(synthetic.labels_of(day)["returned"].fill_null(0))
        paid_back = returned * 20.0 + np.random.default_rng(day.toordinal()).normal(size=returned.size)
        features[day] = synthetic.features_of(day).append_column("refund", [paid_back])
    tables.replace_partitions(shop, "features", features, [shop.entity])
    columns = shop.features.model_copy(update={"numeric": (*shop.features.numeric, "refund")})
    return shop.model_copy(update={"features": columns})


def test_a_feature_that_knows_the_outcome_stops_the_training_by_its_name(shop: UseCase, home: Path) -> None:
    assert stages.take_snapshot(shop, NIGHT)["night"] == NIGHT.isoformat()
    leaking = _with_refunds(shop)
    with pytest.raises(DataError) as stopped:
        stages.take_snapshot(leaking, NIGHT)
    assert "too good to be true: alone, refund (" in stopped.value.message
    assert "demand" not in stopped.value.message, "the honest signal is not blamed"
    assert "take it out of features" in stopped.value.cure
    assert append_log.names(f"holdouts/{shop.name}") == set(), "no holdout was opened for it"
    assert not (home / "mlflow").exists(), "nothing was trained"

    # Without the alarm the leak goes on to training, so it is the alarm that stopped it.
    off = EvaluationRules(leaks=LeakAlarm(max_feature_auc=1.0))
    assert stages.take_snapshot(leaking.model_copy(update={"evaluation": off}), NIGHT)


def test_what_becomes_known_after_the_night_is_not_in_its_training(shop: UseCase) -> None:
    """The other leak: time. The truth of a day is frozen only by nights that knew it."""
    frozen = Snapshot.model_validate(stages.take_snapshot(shop, NIGHT - timedelta(days=7)))
    known = load(frozen, "validation")
    assert max(known["partition"].to_pylist()) < NIGHT - timedelta(days=7)
    assert frozen.holdout.end < frozen.night
    # Every tenth label of the last day comes a night later: it is not there, others of the day are.
    assert 0 < frozen.holdout.rows < 7 * synthetic.features_of(LAST).num_rows
