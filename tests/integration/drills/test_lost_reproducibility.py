"""Drill: the model in production cannot be made again.

The failure: half a year later somebody asks why the model said what it said, or has to retrain it with one
row fewer, and nobody can: the table was corrected since, a package was updated, the seed was of the moment.
The defence: every training writes a manifest, and ``nightshift reproduce`` makes the model again from it. It
ends with the same hash, or names the first cause. More: ``tests/integration/training/test_reproduce.py``.
"""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests import synthetic

from nightshift.lake import tables
from nightshift.registry import deployments, states
from nightshift.registry.records import Candidate, Decision
from nightshift.settings import settings
from nightshift.training import manifest
from nightshift.training.manifest import Manifest
from nightshift.training.reproduce import reproduce
from nightshift.training.snapshot import Snapshot, snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

NIGHT = date(2020, 2, 10)
CORRECTED = date(2020, 1, 10)


@pytest.fixture
def taken(shop: UseCase) -> Snapshot:
    return snapshot(shop, NIGHT)


@pytest.fixture
def champion(shop: UseCase, taken: Snapshot) -> Candidate:
    """The model in production, version 1."""
    candidate = train(shop, taken, "trees")
    decision = Decision(promote=True, candidate=candidate, metrics={}, reasons=["first champion"])
    deployments.promote(shop, decision, effective_from=NIGHT + timedelta(days=1))
    return candidate


def _manifest(shop: UseCase, champion: Candidate) -> Manifest:
    found = manifest.kept(shop, champion.snapshot_hash, champion.content_hash)
    assert found is not None
    return found


def test_the_same_snapshot_gives_the_same_model_where_nobody_knows_it(
    shop: UseCase, taken: Snapshot, champion: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another machine: the same lake, and no memory of a training.
    monkeypatch.setenv("NIGHTSHIFT_LAKE", (settings().home / "lake").as_uri())
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(settings().home.parent / "elsewhere"))
    settings.cache_clear()
    elsewhere = train(shop, taken, "trees")
    assert elsewhere.run_id != champion.run_id, "it was trained, not looked up"
    assert elsewhere.content_hash == champion.content_hash

    # It is the seed that does it: the model is not one that any seed would give.
    dice = shop.training.model_copy(update={"seed": shop.training.seed + 1})
    other = train(shop.model_copy(update={"training": dice}), taken, "trees")
    assert other.content_hash != champion.content_hash


def test_a_seed_that_was_changed_since_is_named_and_the_recorded_one_is_used(
    shop: UseCase, champion: Candidate
) -> None:
    dice = shop.training.model_copy(update={"seed": 8})
    found = reproduce(shop.model_copy(update={"training": dice}), "1")
    assert (found.verdict, found.model_rebuilt) == ("equal", champion.content_hash)
    (changed,) = found.differences
    assert (changed.cause, changed.what) == ("randomness", "seed of training")
    assert (changed.recorded, changed.current) == ("7", "8")


def _correct(shop: UseCase) -> None:
    rows = synthetic.features_of(CORRECTED)
    place = rows.column_names.index("demand")
    corrected = rows.set_column(place, "demand", pc.add(rows["demand"], pa.scalar(1.0)))
    tables.replace_partition(shop, "features", CORRECTED, corrected, [shop.entity])


def test_corrected_data_are_read_as_they_were_and_named_once_they_are_gone(
    shop: UseCase, champion: Candidate
) -> None:
    _correct(shop)
    found = reproduce(shop, "1")
    assert (found.verdict, found.model_rebuilt) == ("equal", champion.content_hash)
    assert [(one.cause, one.what) for one in found.differences] == [("data", f"features {CORRECTED}")]

    # Without the old versions of the table, only the frozen rows can tell what is to blame.
    assert tables.vacuum(shop, "features", retention_days=0)
    found = reproduce(shop, "1")
    assert found.verdict == "different"
    assert found.explanation.startswith(f"first cause: data: features {CORRECTED} was content")
    assert found.explanation.endswith("trained on the rows that were frozen at the time, the model is equal")


def test_another_environment_is_the_first_cause_of_another_model(shop: UseCase, champion: Candidate) -> None:
    """The model of the log is not what comes out today, and was made by another library."""
    recorded = _manifest(shop, champion)
    packages = {**recorded.environment.packages, "xgboost": "1.0"}
    environment = recorded.environment.model_copy(update={"packages": packages})
    manifest.keep(recorded.model_copy(update={"model_hash": "8" * 64, "environment": environment}))
    entry = deployments.history(shop)[0].model_copy(update={"version": "8", "model_hash": "8" * 64})
    states.write(shop, entry, len(states.read(shop)))
    found = reproduce(shop, "8")
    assert found.verdict == "different"
    assert found.snapshot_rebuilt == found.snapshot_recorded, "data are not to blame"
    assert "first cause: environment: package xgboost was 1.0, is " in found.explanation
