"""Batch inference from published features to staged predictions, against the bare booster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightshift.lake import tables
from nightshift.lake.staging import read_staged
from nightshift.lake.store import open_store
from nightshift.partition import days
from nightshift.registry.deployments import champion_at, promote
from nightshift.registry.models import load_model
from nightshift.registry.records import Decision
from nightshift.usecase import UseCase, load_usecase

if TYPE_CHECKING:
    from nightshift.training.snapshot import Snapshot

from .harness import Comparison, DifferentResultsError, Timed, environment

_FIRST = date(2013, 1, 1)
_TRAINED = date(2013, 2, 15)
SCORED = date(2013, 3, 1)
"""The day that is scored."""
_VALUES = 30


@contextmanager
def comparison(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Score one partition of a million rows (20,000 when ``quick``) with the features of the use case."""
    rows = 20_000 if quick else 1_000_000
    with to_score(folder, rows, quick=quick) as uc:
        champion = champion_at(uc, SCORED)
        assert champion is not None
        model = load_model(uc, champion.version)
        features = _features(uc, SCORED, rows)
        # Delta keeps rows in key order, which is the order they were made in.
        codes, numbers = model.origin.encoder.tensors(features)
        array = np.concatenate([np.where(codes > 0, codes - 1, np.nan), numbers], axis=1).astype(np.float32)
        del features, codes, numbers
        booster: Any = model.scorer.booster

        def ours(number: int) -> Timed:
            from nightshift.inference.score import score

            start = time.perf_counter()
            staged = score(uc, SCORED)
            seconds = time.perf_counter() - start
            predictions = read_staged(staged)["score"].to_numpy()
            # The next round must write its predictions again.
            open_store().delete(staged.key)
            return Timed(seconds, predictions)

        def other(number: int) -> Timed:
            start = time.perf_counter()
            raw = booster.inplace_predict(array, validate_features=False)
            seconds = time.perf_counter() - start
            return Timed(seconds, model.origin.calibration.apply(raw.astype(np.float64)))

        yield Comparison(
            name="batch inference",
            against="Booster.inplace_predict on an array in memory",
            measure="ratio",
            at_most=round(1 / 0.7, 2),
            ours=ours,
            other=other,
            check=_check,
            note=f"{rows:,} rows, {array.shape[1]} features, {booster.num_boosted_rounds()} trees. Ours "
            "finds and loads the champion, reads the features partition from Delta, encodes, predicts, "
            "calibrates, hashes and writes the predictions. Neither side gives reasons: they are switched "
            "off, and docs/explanations.md says what they cost. The bare call predicts only: it is the "
            "limit.",
        )


@contextmanager
def to_score(folder: Path, rows: int, *, quick: bool) -> Iterator[UseCase]:
    """Yield a use case with a champion, and features of ``SCORED`` that wait for it."""
    with environment(folder):
        uc = load_usecase("flight_delays")
        uc = uc.model_copy(update={"explanation": uc.explanation.model_copy(update={"top_reasons": 0})})
        _promote(uc, 100 if quick else 1000)
        tables.replace_partition(uc, "features", SCORED, _features(uc, SCORED, rows), [uc.entity])
        yield uc


def _check(ours: Any, other: Any) -> None:
    if ours.shape != other.shape or not np.allclose(ours, other, rtol=0, atol=1e-9):
        raise DifferentResultsError("scored predictions are not those of the bare booster, calibrated")


def publish(uc: UseCase, rows_a_day: int) -> Snapshot:
    """Publish made-up features and labels with something to learn, and freeze them as a snapshot."""
    from nightshift.training.snapshot import snapshot

    for day in days(_FIRST, _TRAINED - timedelta(days=1)):
        features = _features(uc, day, rows_a_day)
        tables.replace_partition(uc, "features", day, features, [uc.entity])
        late = np.random.default_rng(day.toordinal()).random(rows_a_day) < 0.2
        # Something to learn, so that the trees are not stumps.
        for name in uc.features.numeric[:4]:
            late = late ^ (np.nan_to_num(features[name].to_numpy()) > 1.5)
        labels = pa.table(
            {
                uc.entity: features[uc.entity],
                uc.label.column: late.astype(np.int64),
                "label_available_on": pa.repeat(pa.scalar(day + timedelta(days=1)), rows_a_day),
            }
        )
        tables.replace_partition(uc, "labels", day, labels, [uc.entity])
    return snapshot(uc, _TRAINED)


def _promote(uc: UseCase, rows_a_day: int) -> None:
    from nightshift.training.train import train

    candidate = train(uc, publish(uc, rows_a_day), "xgboost")
    decision = Decision(promote=True, candidate=candidate, metrics={}, reasons=["made for a benchmark"])
    promote(uc, decision, effective_from=_TRAINED + timedelta(days=1))


def _features(uc: UseCase, day: date, rows: int) -> pa.Table:
    random = np.random.default_rng(day.toordinal() + rows)
    noon = datetime.combine(day, clock(12), tzinfo=UTC)
    values = np.array([f"value {number:02d}" for number in range(_VALUES)])
    columns: dict[str, Any] = {
        uc.entity: [f"{day}-{number:07d}" for number in range(rows)],
        uc.event_time: pa.repeat(pa.scalar(noon, pa.timestamp("us", tz="UTC")), rows),
    }
    columns |= {name: values[random.integers(0, _VALUES, rows)] for name in uc.features.categorical}
    for name in uc.features.numeric:
        numbers = random.normal(size=rows)
        numbers[random.random(rows) < 0.05] = np.nan
        columns[name] = numbers
    return pa.table(columns)
