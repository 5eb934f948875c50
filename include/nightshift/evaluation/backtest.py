"""Rolling-origin evaluation: the trainers on several cut-offs, so that a single lucky split decides nothing.

The rows of a snapshot that may be learned from are cut several times. At each cut-off a model is trained on
what its night knew and tested on the days that followed, as many as a holdout has; the newest test ends with
these rows, and each earlier one ends where the next begins. The holdout itself is sealed and stays so: a
backtest is no look at it.

A day's features read only what its own night knew, so no days are left out between training and test but
those whose labels were not known yet. Earlier cut-offs have a shorter history to learn from.

Every outcome is recorded as soon as it is known, by a hash of all that decides it. Whatever was killed goes
on from there, and two backtests that share a fold train it once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict

import nightshift.metrics
from nightshift.errors import DataError
from nightshift.lake import append_log, tables
from nightshift.metrics import forecast_metrics
from nightshift.registry.models import MODEL_FOLDER
from nightshift.training.snapshot import LABEL_AVAILABLE_ON, Snapshot, Window, labels_of, load_days
from nightshift.training.train import build, identity
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

HIGHER_IS_BETTER = {
    "roc_auc": True,
    "pr_auc": True,
    "log_loss": False,
    "brier": False,
    "ece": False,
    "cost": False,
}
"""The metrics by which one trainer does better than another, and in which direction."""

# Each weekday once. Whether so little is enough, the figures tell.
_MIN_TRAIN_DAYS = 7


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fold(_Record):
    """One cut-off. JSON-able.

    Attributes:
        cutoff: The night whose knowledge is trained on, and the first day that is tested.
        train: Days and rows to fit on, whose labels that night knew.
        validation: The same to stop early and calibrate on.
        test: Days and rows that the model is judged on.
    """

    cutoff: date
    train: Window
    validation: Window
    test: Window


class Outcome(_Record):
    """How one trainer did at one cut-off.

    Attributes:
        model_hash: Content hash of the model, which is not kept.
        metrics: Of the test rows, as ``forecast_metrics`` gives them.
        validation: The same of the validation rows.
        seconds: How long training took.
    """

    trainer: str
    cutoff: date
    model_hash: str
    metrics: dict[str, float]
    validation: dict[str, float]
    seconds: float


class Spread(_Record):
    """One metric over the folds that define it; ``deviation`` is the sample's, None of a single fold."""

    mean: float
    deviation: float | None
    low: float
    high: float
    folds: int


class Versus(_Record):
    """One metric of two trainers, fold by fold.

    Attributes:
        differences: ``first`` less ``second`` at each cut-off that defines both, the oldest first.
        mean: Their mean.
        wins: In how many ``first`` did better, by a lower figure where that is the better one.
        losses: In how many ``second`` did.
    """

    first: str
    second: str
    metric: str
    differences: tuple[float, ...]
    mean: float
    wins: int
    losses: int


class Backtest(_Record):
    """What came of all folds.

    Attributes:
        identity: Hash of snapshot, folds and outcomes.
        night: The night whose knowledge the snapshot holds.
        features: The columns that the models read.
        folds: The oldest first.
        outcomes: Trainer by trainer, the oldest fold first.
        spreads: By trainer and metric, of the test rows.
        versus: Each pair of trainers, by metric.
        recorded_at: When it was concluded first.
    """

    usecase: str
    identity: str
    night: date
    snapshot_hash: str
    features: tuple[str, ...]
    trainers: tuple[str, ...]
    folds: tuple[Fold, ...]
    outcomes: tuple[Outcome, ...]
    spreads: dict[str, dict[str, Spread]]
    versus: tuple[Versus, ...]
    recorded_at: AwareDatetime


def newest_night(uc: UseCase) -> date:
    """Return the newest night whose snapshot can be taken: the one that brought the newest labels.

    Raises:
        DataError: No labels are published.
    """
    labels = tables.partition_versions(uc, "labels")
    if not labels:
        raise DataError(
            "there is nothing to test on: no labels are published",
            rule="a backtest trains and tests on published features and labels",
            where=uc.name,
            cure="bootstrap a range of days first",
        )
    return max(labels) + timedelta(days=uc.label.lag_days)


def folds_of(uc: UseCase, snapshot: Snapshot, number: int | None = None) -> tuple[Fold, ...]:
    """Return the folds of a snapshot, the oldest first.

    Args:
        uc: The use case.
        snapshot: What is cut. The labels that it read tell since when each was known.
        number: How many; by default as many as the use case says.

    Raises:
        DataError: The history is too short, a part of a fold has no rows, or retention has removed the labels
            as the snapshot read them.
    """
    wanted = uc.evaluation.backtest.folds if number is None else number
    start, end = snapshot.train.start, snapshot.validation.end
    before = uc.label.lag_days - 1 + uc.training.validation_days + _MIN_TRAIN_DAYS
    possible = max(0, ((end - start).days + 1 - before) // uc.training.holdout_days)
    if not 1 <= wanted <= possible:
        raise DataError(
            f"{wanted} folds do not fit into {(end - start).days + 1} days, {start} to {end}: "
            f"{possible} {'is' if possible == 1 else 'are'} possible",
            rule=f"each fold is tested on {uc.training.holdout_days} days of its own "
            f"(training.holdout_days), and {before} days or more lie before the first of them, "
            f"{uc.training.validation_days} for validation (training.validation_days)",
            where=f"{uc.name}, snapshot of {snapshot.night}",
            cure=f"ask for 1 to {possible}"
            if possible
            else "bootstrap a longer range, or lower training.validation_days and training.holdout_days",
        )
    cutoffs = [end + timedelta(days=1 - back * uc.training.holdout_days) for back in range(wanted, 0, -1)]
    stretches = [_stretches(uc, snapshot, cutoff) for cutoff in cutoffs]
    rows = iter(load_days(snapshot, *(days for parts in stretches for days in parts.values())))
    known_since = _known_since(uc, snapshot)
    found = []
    for cutoff, parts in zip(cutoffs, stretches, strict=True):
        windows = {}
        for part, (first, last) in parts.items():
            inside = _known(uc, next(rows), known_since, snapshot.night if part == "test" else cutoff)
            if inside.num_rows == 0:
                raise DataError(
                    f"no labelled row from {first} to {last} for {part} at the cut-off {cutoff}",
                    rule="each part of a fold has rows",
                    where=f"{uc.name}, snapshot of {snapshot.night}",
                    cure="ask for fewer folds, or look why these days have no labels",
                )
            windows[part] = Window(start=first, end=last, rows=inside.num_rows)
        found.append(Fold(cutoff=cutoff, **windows))
    return tuple(found)


def evaluate_fold(uc: UseCase, snapshot: Snapshot, fold: Fold, trainer: str) -> Outcome:
    """Train with one of the use case's trainers at one cut-off, and judge it on the days that follow.

    What the same rows, configuration and code gave before is returned as it was recorded.

    Raises:
        DataError: The use case declares no such trainer, a feature column is missing, or a part of the fold
            holds only one class.
    """
    record = f"{_folder(uc)}outcomes/{_outcome_hash(uc, snapshot, fold, trainer)}"
    if kept := append_log.read_log(record):
        return Outcome.model_validate(kept[0])
    parts = _stretches(uc, snapshot, fold.cutoff)
    rows = dict(zip(parts, load_days(snapshot, *parts.values()), strict=True))
    known_since = _known_since(uc, snapshot)
    train, validation = (_known(uc, rows[part], known_since, fold.cutoff) for part in ("train", "validation"))
    test = _known(uc, rows["test"], known_since, snapshot.night)
    with tempfile.TemporaryDirectory() as scratch:
        built = build(
            uc,
            trainer,
            {"train": train, "validation": validation},
            _cut(snapshot, fold),
            Path(scratch) / MODEL_FOLDER,
        )
        metrics = forecast_metrics(
            labels_of(uc, test).to_numpy(zero_copy_only=False),
            built.model.predict_proba(test),
            threshold=built.model.threshold,
            costs=uc.costs,
        )
    outcome = Outcome(
        trainer=trainer,
        cutoff=fold.cutoff,
        model_hash=built.model.content_hash,
        metrics=metrics,
        validation=dict(built.metrics["validation"]),
        seconds=built.seconds,
    )
    log.info(
        "%s, cut-off %s: trained on %d rows in %.1f s; test to %s: %s",
        trainer,
        fold.cutoff,
        fold.train.rows,
        built.seconds,
        fold.test.end,
        {name: round(value, 4) for name, value in metrics.items()},
    )
    append_log.begin(record, outcome.model_dump(mode="json"))
    return Outcome.model_validate(append_log.read_log(record)[0])


def conclude(uc: UseCase, snapshot: Snapshot, folds: Sequence[Fold], outcomes: Sequence[Outcome]) -> Backtest:
    """Put the outcomes of all folds together, record the result for good, and return it.

    Concluded again, it is what was recorded first. Outcomes are given, not looked up by what decides them:
    that holds the device, and whoever concludes may have another one.

    Args:
        uc: The use case.
        snapshot: What was cut.
        folds: The oldest first.
        outcomes: Of every fold, trainer by trainer, the oldest fold first.
    """
    decides = [snapshot.content_hash, *(item.model_dump(mode="json") for item in (*folds, *outcomes))]
    # Sorted: what went through Airflow's database comes back with its keys in another order.
    whole = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    record = f"{_folder(uc)}results/{whole}"
    if not append_log.read_log(record):
        trainers = list(dict.fromkeys(outcome.trainer for outcome in outcomes))
        concluded = Backtest(
            usecase=uc.name,
            identity=whole,
            night=snapshot.night,
            snapshot_hash=snapshot.content_hash,
            features=uc.features.columns,
            trainers=tuple(trainers),
            folds=tuple(folds),
            outcomes=tuple(outcomes),
            spreads={name: _spreads(outcomes, name) for name in trainers},
            versus=tuple(_versus(outcomes, trainers)),
            recorded_at=datetime.now(UTC),
        )
        append_log.begin(record, concluded.model_dump(mode="json"))
    return Backtest.model_validate(append_log.read_log(record)[0])


def backtest(
    uc: UseCase,
    snapshot: Snapshot,
    *,
    folds: int | None = None,
    trainers: Sequence[str] = (),
    tell: Callable[[Outcome, float], object] | None = None,
) -> Backtest:
    """Test trainers at every cut-off of ``snapshot``, in this process, and record what came of it.

    Interrupted, it goes on where no outcome is recorded yet. The same snapshot, configuration and code give
    the recorded result.

    Args:
        uc: The use case.
        snapshot: What is cut; its holdout is not opened.
        folds: How many cut-offs; by default as many as the use case says.
        trainers: Names of trainers; by default all that the use case declares.
        tell: Called with each outcome, and the seconds it took to get it.

    Raises:
        DataError: As ``folds_of`` and ``evaluate_fold``.
    """
    declared = list(uc.training.trainers)
    # In the declared order, whatever the order asked for; an unknown one comes first, to be refused at once.
    names = sorted(
        set(trainers or declared), key=lambda name: declared.index(name) if name in declared else -1
    )
    cut = folds_of(uc, snapshot, folds)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for fold in cut:
        for name in names:
            began = time.monotonic()
            outcome = evaluate_fold(uc, snapshot, fold, name)
            outcomes[name].append(outcome)
            if tell is not None:
                tell(outcome, time.monotonic() - began)
    return conclude(uc, snapshot, cut, [outcome for found in outcomes.values() for outcome in found])


def recorded(uc: UseCase) -> list[Backtest]:
    """Return every recorded backtest of a use case, by night, then by when it was recorded."""
    found = [
        Backtest.model_validate(record)
        for name in append_log.names(f"{_folder(uc)}results")
        for record in append_log.read_log(name)
    ]
    return sorted(found, key=lambda item: (item.night, item.recorded_at))


def _stretches(uc: UseCase, snapshot: Snapshot, cutoff: date) -> dict[str, tuple[date, date]]:
    """Return first and last day of each part at a cut-off."""
    day = timedelta(days=1)
    known = cutoff - timedelta(days=uc.label.lag_days)
    validation = known - timedelta(days=uc.training.validation_days - 1)
    return {
        "train": (snapshot.train.start, validation - day),
        "validation": (validation, known),
        "test": (cutoff, cutoff + timedelta(days=uc.training.holdout_days - 1)),
    }


def _known_since(uc: UseCase, snapshot: Snapshot) -> pa.Table:
    """Return the night from which each label was known, as the snapshot read them, the holdout's left out.

    Those that people gave are not among them: no cut-off of the past knew what was said much later.
    """
    labels = tables.read_partitions(
        uc,
        "labels",
        snapshot.train.start,
        snapshot.validation.end,
        columns=[uc.entity, uc.label.column, LABEL_AVAILABLE_ON],
        at=snapshot.label_table,
    )
    return labels.filter(pc.is_valid(labels[uc.label.column])).drop_columns(uc.label.column)


def _known(uc: UseCase, rows: pa.Table, known_since: pa.Table, cutoff: date) -> pa.Table:
    """Return the rows whose labels the night of ``cutoff`` knew."""
    position = pc.index_in(rows[uc.entity], value_set=known_since[uc.entity].combine_chunks())
    since = pc.cast(known_since[LABEL_AVAILABLE_ON], pa.date32()).take(position)
    return rows.filter(pc.less_equal(since, cutoff))


def _cut(snapshot: Snapshot, fold: Fold) -> Snapshot:
    """Return the snapshot as one training of the fold sees it."""
    return snapshot.model_copy(update={"train": fold.train, "validation": fold.validation})


def _outcome_hash(uc: UseCase, snapshot: Snapshot, fold: Fold, trainer: str) -> str:
    """Return a hash of everything that decides an outcome."""
    decides = {
        "training": identity(uc, _cut(snapshot, fold), trainer),
        "cutoff": fold.cutoff.isoformat(),
        "test": fold.test.model_dump(mode="json"),
        "costs": uc.costs.model_dump(mode="json"),
        "code": [
            hashlib.sha256(Path(file).read_bytes()).hexdigest()
            for file in (__file__, nightshift.metrics.__file__)
        ],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _spreads(outcomes: Sequence[Outcome], trainer: str) -> dict[str, Spread]:
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.trainer == trainer:
            for name, value in outcome.metrics.items():
                found.setdefault(name, []).append(value)
    return {
        name: Spread(
            mean=statistics.fmean(values),
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            low=min(values),
            high=max(values),
            folds=len(values),
        )
        for name, values in found.items()
    }


def _versus(outcomes: Sequence[Outcome], trainers: Sequence[str]) -> Iterator[Versus]:
    metrics = {name: [o.metrics for o in outcomes if o.trainer == name] for name in trainers}
    for first, second in combinations(trainers, 2):
        for metric, higher in HIGHER_IS_BETTER.items():
            both = zip(metrics[first], metrics[second], strict=True)
            differences = tuple(
                one[metric] - other[metric] for one, other in both if metric in one and metric in other
            )
            if differences:
                better = [value if higher else -value for value in differences]
                yield Versus(
                    first=first,
                    second=second,
                    metric=metric,
                    differences=differences,
                    mean=statistics.fmean(differences),
                    wins=sum(value > 0 for value in better),
                    losses=sum(value < 0 for value in better),
                )


def _folder(uc: UseCase) -> str:
    return f"backtests/{uc.name}/"
