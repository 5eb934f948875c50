"""A holdout is opened once for each model, whoever asks and whatever happens in between."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import date, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import pyarrow as pa
import pytest
from tests.forked import PROCESSES, preload, run, start
from tests.lakes import on_both_storages, sealed_rows

from nightshift.errors import DataError
from nightshift.evaluation import ledger
from nightshift.evaluation.evaluate import evaluate
from nightshift.lake import append_log, audit
from nightshift.lake.frozen import thaw, unseal
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry import mlflow as tracking
from nightshift.registry.models import load_candidate
from nightshift.registry.records import Candidate, Decision
from nightshift.training.snapshot import Snapshot, load_parts, snapshot
from nightshift.training.train import train
from nightshift.usecase import Trainer, UseCase

storage = on_both_storages

preload(
    "nightshift.evaluation.evaluate",
    "nightshift.lake.s3",
    "xgboost",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)

NIGHT = date(2013, 1, 23)

Make = Callable[..., pa.Table]


@pytest.fixture
def uc(
    usecase: UseCase, day_of_features: Callable[..., pa.Table], publish_truth: Callable[..., pa.Table]
) -> UseCase:
    """A champion of the 16th, two trainers, and the truth of the week since."""
    for day in days(date(2013, 1, 16), NIGHT - timedelta(days=1)):
        publish_truth(day, day_of_features(day))
    flat = Trainer(kind="xgboost", params={"rounds": 10, "max_depth": 1})
    trainers = {**usecase.training.trainers, "flat": flat}
    return usecase.model_copy(update={"training": usecase.training.model_copy(update={"trainers": trainers})})


@pytest.fixture
def taken(uc: UseCase) -> Snapshot:
    return snapshot(uc, NIGHT)


@pytest.fixture
def deep(uc: UseCase, taken: Snapshot) -> Candidate:
    return train(uc, taken, "xgboost")


@pytest.fixture
def flat(uc: UseCase, taken: Snapshot) -> Candidate:
    return train(uc, taken, "flat")


def test_what_trains_and_searches_cannot_reach_the_holdout(uc: UseCase, taken: Snapshot) -> None:
    assert sealed_rows(taken.sealed).num_rows == taken.holdout.rows > 800
    for rows in (thaw(taken.data), *load_parts(taken, "train", "validation")):
        assert max(rows["partition"].to_pylist()) < taken.holdout.start
    with pytest.raises(DataError, match="rows of holdouts are sealed"):
        thaw(taken.sealed)
    with pytest.raises(DataError, match=r"says that holdouts .* is opened"):
        unseal(taken.sealed, "holdouts/by/hand")


def test_an_evaluation_is_one_look_however_often_it_runs(
    uc: UseCase, taken: Snapshot, deep: Candidate, flat: Candidate
) -> None:
    first = evaluate(uc, taken, [deep, flat], by="run-1")
    assert evaluate(uc, taken, [deep, flat], by="run-2") == first
    for candidate in (deep, flat):
        (look,) = ledger.looks(uc, candidate.content_hash)
        assert (look.by, look.override, look.rows) == ("run-1", "", taken.holdout.rows)
        assert (look.start, look.end) == (taken.holdout.start, taken.holdout.end)


def test_it_is_the_same_evaluation_after_its_winner_was_promoted_and_withdrawn(
    uc: UseCase, taken: Snapshot, deep: Candidate
) -> None:
    before = deployments.newest(uc)
    assert before is not None
    first = evaluate(uc, taken, [deep])
    yes = Decision(promote=True, candidate=deep, metrics={}, reasons=[], rival="1")
    deployments.promote(uc, yes, effective_from=NIGHT + timedelta(days=1))
    assert evaluate(uc, taken, [deep]) == first
    deployments.rollback(uc, before.version, effective_from=NIGHT + timedelta(days=2), reason="by the test")
    assert evaluate(uc, taken, [deep]) == first
    assert len(ledger.looks(uc, deep.content_hash)) == 1


def test_a_second_look_is_refused_and_leaves_nothing(
    uc: UseCase, taken: Snapshot, deep: Candidate, flat: Candidate
) -> None:
    evaluate(uc, taken, [deep], by="run-1")
    with pytest.raises(DataError, match=r"before: xgboost \(.*\) on .* by run-1") as error:
        evaluate(uc, taken, [deep, flat])
    assert "holdout_override" in error.value.cure
    assert ledger.looks(uc, flat.content_hash) == []
    assert len(ledger.looks(uc, deep.content_hash)) == 1
    # Asked of the library itself, past the evaluation, it is the same.
    with pytest.raises(DataError, match="looked at once for each model"):
        ledger.look(uc, taken, {deep.content_hash: load_candidate(uc, deep)}, None, by="by hand")


def test_an_override_stays_with_the_model(
    uc: UseCase, taken: Snapshot, deep: Candidate, flat: Candidate
) -> None:
    evaluate(uc, taken, [deep], by="run-1")
    evaluate(uc, taken, [deep, flat], by="run-2", override="the first report was wrong")
    assert [(look.by, look.override) for look in ledger.looks(uc, deep.content_hash)] == [
        ("run-1", ""),
        ("run-2", "the first report was wrong"),
    ]
    tags = tracking.client(uc).get_run(deep.run_id).data.tags
    assert tags["holdout_override"] == "the first report was wrong"
    opened = [(entry.who, entry.why) for entry in audit.read(uc.name) if entry.what == "open_holdout"]
    assert opened == [("run-2", "the first report was wrong")]
    # The other one was judged for the first time.
    assert [look.override for look in ledger.looks(uc, flat.content_hash)] == [""]
    assert "holdout_override" not in tracking.client(uc).get_run(flat.run_id).data.tags


def test_a_champion_is_compared_by_the_scores_it_had(
    uc: UseCase, taken: Snapshot, deep: Candidate, flat: Candidate
) -> None:
    challenger = evaluate(uc, taken, [deep]).challenges[0]
    yes = Decision(promote=True, candidate=deep, metrics={}, reasons=[], rival="1")
    deployments.promote(uc, yes, effective_from=NIGHT + timedelta(days=1))
    evaluation = evaluate(uc, taken, [flat])
    assert evaluation.champion is not None
    assert evaluation.champion.model_hash == deep.content_hash
    assert evaluation.champion_judged == challenger.judged
    assert len(ledger.looks(uc, deep.content_hash)) == 1


_KILLED = """
import os, signal, sys
from nightshift.evaluation.evaluate import evaluate
from nightshift.lake import s3, store
from nightshift.registry.records import Candidate
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.readline())
taken = Snapshot.model_validate_json(sys.stdin.readline())
candidate = Candidate.model_validate_json(sys.stdin.readline())
point, passed = int(sys.argv[1]), 0

def around(put):
    def wrapped(*arguments, **options):
        global passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)
        result = put(*arguments, **options)
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

for kind in (store.FileStore, s3.S3Store):
    kind.put, kind.put_new = around(kind.put), around(kind.put_new)
evaluate(uc, taken, [candidate], by="run-1")
"""


def test_killed_at_any_write_and_run_again_it_ends_the_same(
    uc: UseCase, taken: Snapshot, deep: Candidate
) -> None:
    given = "\n".join(item.model_dump_json() for item in (uc, taken, deep))
    kills = 0
    while run(_KILLED, given, str(kills + 1)) == -signal.SIGKILL:
        kills += 1
    # Each run goes on where the one before was killed, so there are fewer than writes.
    assert kills >= 4
    assert len(ledger.looks(uc, deep.content_hash)) == 1
    logged = tracking.client(uc).get_run(deep.run_id)
    judged = evaluate(uc, taken, [deep]).challenges[0].judged
    assert logged.data.metrics["holdout_roc_auc"] == judged.metrics["roc_auc"]


def _race(uc: str, taken: str, candidates: list[str], begin: Barrier, result: Connection) -> None:
    usecase, frozen = UseCase.model_validate_json(uc), Snapshot.model_validate_json(taken)
    challengers = [Candidate.model_validate_json(item) for item in candidates]
    begin.wait()
    try:
        evaluate(usecase, frozen, challengers)
        result.send("judged")
    except DataError:
        result.send("refused")


def test_of_two_evaluations_at_once_one_is_refused(
    uc: UseCase, taken: Snapshot, deep: Candidate, flat: Candidate
) -> None:
    begin, pipes = PROCESSES.Barrier(2), [PROCESSES.Pipe(duplex=False) for _ in range(2)]
    both = [item.model_dump_json() for item in (deep, flat)]
    racers = [
        start(_race, uc.model_dump_json(), taken.model_dump_json(), candidates, begin, ours)
        for candidates, (_, ours) in zip((both[:1], both), pipes, strict=True)
    ]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert sorted(theirs.recv() for theirs, _ in pipes) == ["judged", "refused"]
    kept = [
        record
        for name in append_log.names(f"holdouts/{uc.name}/{deep.content_hash}")
        if name.endswith("/scores")
        for record in append_log.read_log(name)
    ]
    assert len(kept) == 1
