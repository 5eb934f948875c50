"""Batch inference by the workers of a Ray cluster on this machine, against one process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.lake.store import open_store
from nightshift.usecase import Engine, UseCase

from .harness import Comparison, DifferentResultsError, Timed
from .inference import SCORED, to_score

_WORKERS = 2


@contextmanager
def comparison(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Score one partition of 300,000 rows (20,000 when ``quick``) with either engine."""
    rows = 20_000 if quick else 300_000
    with to_score(folder, rows, quick=quick) as uc:
        on_ray = uc.model_copy(update={"engine": Engine(name="ray", workers=_WORKERS)})
        yield Comparison(
            name="batch inference on Ray",
            against="the local engine, on the same machine",
            measure="overhead",
            at_most=30,
            ours=lambda number: _score(on_ray),
            other=lambda number: _score(uc),
            check=_check,
            note=f"{rows:,} rows, {_WORKERS} workers with one core each. Ours starts a cluster on this "
            "machine, scores, and stops it; the other scores in this process with all cores. Content hashes "
            "of the staged predictions are compared. One machine gains nothing by Ray: the overhead is what "
            "a job pays before more machines can make it faster.",
        )


def _score(uc: UseCase) -> Timed:
    from nightshift.inference.score import score

    start = time.perf_counter()
    staged = score(uc, SCORED)
    seconds = time.perf_counter() - start
    # The next round must write its predictions again.
    open_store().delete(staged.key)
    return Timed(seconds, staged.content_hash)


def _check(ours: str, other: str) -> None:
    if ours != other:
        raise DifferentResultsError("the predictions of the two engines have other content hashes")
