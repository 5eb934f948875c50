"""Training on a Ray cluster: the models that Ray's workers share are as good as those of one process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import synthetic
from tests.integration.scaleout.conftest import Machines
from tests.lakes import environment

from nightshift.lake.store import open_store
from nightshift.registry.models import load_candidate, register
from nightshift.registry.records import Candidate
from nightshift.training import manifest
from nightshift.training.reproduce import reproduce
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

NIGHT = date(2020, 2, 3)


def _usecase(name: str, engine: Any = "local", seed: int = 7, *, rounds: int = 0, **network: Any) -> UseCase:
    training = synthetic.use_case().training.model_dump()
    training |= {"seed": seed, "checkpoint_seconds": 1e-6}
    training["trainers"]["network"]["params"] |= network
    if rounds:
        training["trainers"]["trees"]["params"] |= {"rounds": rounds, "early_stopping_rounds": rounds}
    return synthetic.use_case(name=name, training=training, engine=engine)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the features and labels of two use cases: one is trained here, one on Ray."""
    state = tmp_path_factory.mktemp("published")
    with environment(state):
        for name in ("here", "shared"):
            synthetic.publish(_usecase(name), synthetic.START, NIGHT, rows=300)
    return state


@pytest.fixture
def state(published: Path) -> Iterator[Path]:
    with environment(published):
        yield published


def _standard_error(auc: float, rows: int, base_rate: float) -> float:
    """Of a ROC AUC: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", table 1."""
    late, others = base_rate * rows, (1 - base_rate) * rows
    twice_late, twice_others = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (late - 1) * (twice_late - auc**2) + (others - 1) * (twice_others - auc**2)
    return float(np.sqrt(spread / (late * others)))


def _weight_of_the_first_tree(uc: UseCase, candidate: Candidate) -> float:
    """Return the sum of second derivatives at its root: p(1-p) for each row that it was grown on."""
    scorer: Any = load_candidate(uc, candidate).scorer
    return float(json.loads(scorer.booster.get_dump(dump_format="json", with_stats=True)[0])["cover"])


def test_trees_of_two_workers_are_as_good_and_are_made_again(state: Path, machines: Machines) -> None:
    uc, here = _usecase("shared", "ray"), _usecase("here")
    taken = snapshot(uc, NIGHT)
    candidate, local = train(uc, taken, "trees"), train(here, snapshot(here, NIGHT), "trees")
    # Models that differ by less than the standard error cannot be told apart on these rows.
    auc, base_rate = local.metrics["roc_auc"], local.metrics["base_rate"]
    assert abs(candidate.metrics["roc_auc"] - auc) < _standard_error(auc, taken.validation.rows, base_rate)
    # Both grow on four fifths of all rows, drawn by chance: a worker that grew alone would have half of them.
    grown = [_weight_of_the_first_tree(one, of) for one, of in ((uc, candidate), (here, local))]
    assert 0.95 < grown[0] / grown[1] < 1.05
    recorded = manifest.kept(uc, candidate.snapshot_hash, candidate.content_hash)
    assert recorded is not None
    assert (recorded.environment.engine, recorded.environment.workers) == ("ray", 2)
    again = reproduce(uc, register(uc, candidate))
    assert again.verdict == "equal", again.explanation
    assert open_store().list(f"checkpoints/{uc.name}/") == []


def test_a_network_of_two_workers_is_that_of_two_processes(state: Path, machines: Machines) -> None:
    uc, here = _usecase("shared", "ray"), _usecase("here", processes=2)
    shared = train(uc, snapshot(uc, NIGHT), "network")
    alone = train(here, snapshot(here, NIGHT), "network")
    assert shared.content_hash == alone.content_hash
    assert shared.metrics == alone.metrics
    features = synthetic.features_of(NIGHT)
    scores = [load_candidate(one, of).predict_proba(features) for one, of in ((uc, shared), (here, alone))]
    np.testing.assert_array_equal(*scores)


def _has_checkpoint(uc: UseCase) -> bool:
    return any("/ray-" not in key for key in open_store().list(f"checkpoints/{uc.name}/"))


@contextmanager
def _when_a_checkpoint_is_there(uc: UseCase, act: Any) -> Iterator[None]:
    """Call ``act`` beside what runs meanwhile, once a training of ``uc`` has kept how far it is."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.05):
            if _has_checkpoint(uc):
                act()
                return

    beside = threading.Thread(target=wait)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def test_a_training_goes_on_when_a_machine_is_lost_and_another_has_room(
    state: Path, machines: Machines
) -> None:
    uc, undisturbed = (_usecase(name, "ray", seed=11, rounds=600) for name in ("shared", "here"))
    machines.add_another()
    lost = []

    def act() -> None:
        machines.lose_one_at_work()
        # A training that has ended has none any more.
        lost.append(_has_checkpoint(uc))

    with _when_a_checkpoint_is_there(uc, act):
        candidate = train(uc, snapshot(uc, NIGHT), "trees")
    assert lost == [True]
    assert candidate.content_hash == train(undisturbed, snapshot(undisturbed, NIGHT), "trees").content_hash
