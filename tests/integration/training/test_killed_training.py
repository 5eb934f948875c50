"""A training that was killed (SIGKILL) at any step and started again ends with the very same weights."""

from __future__ import annotations

import json
import logging
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from killed_training import FOLDER, KINDS, Impatient, fit, train_until
from tests import synthetic
from tests.forked import preload, start
from tests.lakes import on_both_storages

from nightshift.lake import checkpoints as kept
from nightshift.lake.checkpoints import Checkpoints
from nightshift.lake.store import open_store
from nightshift.training.trainer import Fit

preload(
    "nightshift.lake.s3",
    "nightshift.training.xgboost_trainer",
    "nightshift.training.torch_trainer",
    "torch._dynamo",
)

storage = on_both_storages

# Steps after which a training is killed, one after the other: at the first, within a stretch between two
# checkpoints, beside its ends, twice at the same, and at the last.
DEATHS = {"xgboost": [1, 4, 10, 11, 17, 17, 20, 21, 30, 31, 34], "torch": [1, 2, 3, 4, 4, 7, 9, 11, 12]}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


_UNDISTURBED: dict[str, Fit] = {}


@pytest.fixture
def undisturbed(home: Path, kind: str) -> Fit:
    if kind not in _UNDISTURBED:
        watch = Impatient()
        _UNDISTURBED[kind] = fit(kind, watch)
        watch.checkpoints.clear()
    return _UNDISTURBED[kind]


def killed(kind: str, steps: Path, *, step: int = 0, write: int = 0) -> bool:
    """Train until killed; return whether it got that far."""
    victim = start(train_until, kind, step, write, str(steps))
    victim.join()
    assert victim.exitcode in (0, -signal.SIGKILL)
    return victim.exitcode != 0


def test_between_any_two_steps(undisturbed: Fit, kind: str, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    for step in DEATHS[kind]:
        assert killed(kind, steps, step=step)
    done = [json.loads(line) for line in steps.read_text(encoding="utf-8").splitlines()]
    assert done.count(1) < len(DEATHS[kind]), "no training went on from a checkpoint"
    watch = Impatient()
    ended = fit(kind, watch)
    assert watch.steps[0] > 1
    assert ended.weights == undisturbed.weights
    assert ended.history == undisturbed.history


def test_while_a_checkpoint_is_written(undisturbed: Fit, kind: str, tmp_path: Path) -> None:
    write = 1
    while killed(kind, tmp_path / "steps", write=write) and write < 14:
        write += 3
    assert write > 6, "a training writes more than that"
    assert fit(kind, Impatient()).weights == undisturbed.weights


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b""])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    undisturbed: Fit, kind: str, tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    assert killed(kind, tmp_path / "steps", step=DEATHS[kind][-1])
    before, newest = open_store().list(FOLDER)
    open_store().put(newest, damage(open_store().get(newest)))
    watch = Impatient()
    with caplog.at_level(logging.WARNING):
        ended = fit(kind, watch)
    assert newest in caplog.text
    assert watch.steps[0] == int(Path(before).name.partition("-")[0]) + 1
    assert ended.weights == undisturbed.weights


def test_all_damaged_means_from_the_beginning(undisturbed: Fit, kind: str, tmp_path: Path) -> None:
    assert killed(kind, tmp_path / "steps", step=DEATHS[kind][-1])
    for key in open_store().list(FOLDER):
        open_store().put(key, b"rubbish")
    watch = Impatient()
    assert fit(kind, watch).weights == undisturbed.weights
    assert watch.steps[0] == 1


def test_the_last_two_are_kept_until_they_are_cleared(home: Path) -> None:
    mine, other = (Checkpoints(synthetic.use_case(), name) for name in ("mine", "other"))
    other.keep(b"other", 1)
    for step in (1, 9, 10, 200):
        mine.keep(f"state {step}".encode(), step)
    assert mine.newest() == b"state 200"
    assert len(open_store().list("checkpoints/synthetic/mine/")) == 2
    mine.clear()
    assert mine.newest() is None
    assert other.newest() == b"other"


def test_forgotten_ones_are_swept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uc = synthetic.use_case()
    Checkpoints(uc, "mine").keep(b"state", 1)
    assert kept.sweep(uc, older_than_days=1) == 0

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=2)

    monkeypatch.setattr(kept, "datetime", Later)
    assert kept.sweep(uc, older_than_days=1) == 1
    assert Checkpoints(uc, "mine").newest() is None
