"""What is ordinary for a model: the profile of what it learned from, and how far ordinary days lie from it.

A baseline belongs to a model version: made once from the rows it was trained on, when it is registered, or
when it is first needed. It holds sums over all those days, never the rows, so what a nightly check costs does
not grow with the length of history.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.monitoring import calibration
from nightshift.monitoring.calibration import Calibration, Fit, Statistic
from nightshift.monitoring.sketches import Grid, Sketches, make_grid
from nightshift.registry import models, states
from nightshift.registry.model import Model
from nightshift.registry.records import Deployment
from nightshift.training import manifest
from nightshift.training.snapshot import load_parts
from nightshift.usecase import Drift, UseCase

log = logging.getLogger(__name__)

SCORE = "score"
ALWAYS = "always"

# Raised when what a baseline holds changes: older ones are made again.
_FORM = 3
# With fewer days, ordinary days cannot be told from others.
_LEAST_DAYS = 7
# A window is calibrated on at least so many times its length.
_LEAST_WINDOWS = 2
# Days of one weekday, or of one season, that are worth a comparison of their own.
_LEAST_ALIKE = 8
_PAIRS = 300
# Days of fewer rows say little about what is ordinary in a column.
_ROWS = 30
# With so many days left, those at the beginning of history are left out.
_SETTLED_DAYS = 42

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Days of the reference that a window is compared with, and what is ordinary beside them.

    Attributes:
        reference: One sketch of all of them.
        calibrations: By length of a window, as far as there are days enough.
    """

    reference: Sketches
    calibrations: dict[int, Calibration]


@dataclass(frozen=True)
class Baseline:
    """The profile of a model's training rows.

    Attributes:
        grid: Where columns are cut.
        pairs: Positions of the numeric columns of each pair whose correlation is watched.
        strata: By name: ``always``; for seasonality also ``weekday 0`` to ``6``, or ``month 1`` to ``12``.
        most_missing: By column, the largest share of missing values on a day of the reference but one.
        most_new: By column, the largest share but one of values that no other day of the reference has.
        least_distinct: By column, the fewest cells but one that a day filled, missing ones aside.
        rows: By weekday, the median number of rows of a day.
        weekdays: By weekday, whether the reference has days of it.
        row_spread: Root mean square of log(rows / median) below and above 0.
        days: Days of the reference.
    """

    grid: Grid
    pairs: npt.NDArray[np.intp]
    strata: dict[str, Stratum]
    most_missing: Floats
    most_new: Floats
    least_distinct: npt.NDArray[np.int64]
    rows: Floats
    weekdays: npt.NDArray[np.bool_]
    row_spread: tuple[float, float]
    days: int

    @cached_property
    def statistics(self) -> list[Statistic]:
        """The distances that are taken, column by column."""
        return calibration.statistics(self.grid, SCORE)


class NoBaselineError(DataError):
    """A model has no baseline, and cannot get one."""


def learn(
    table: pa.Table,
    numeric: Sequence[str],
    categorical: Sequence[str],
    policy: Drift,
    *,
    sizes: Mapping[date, int] | None = None,
) -> Baseline:
    """Return the baseline of ``table``: rows of many days, with a column ``partition``.

    Args:
        table: The reference.
        numeric: Numeric columns, ``score`` among them where there are scores.
        categorical: Categorical columns.
        policy: Windows, rate of false alarms and seasonality.
        sizes: How many rows days had, where ``table`` does not hold all of them.

    Raises:
        NoBaselineError: There are fewer than seven days.
    """
    dates, day = np.unique(table.column("partition").to_numpy(), return_inverse=True)
    if dates.size < _LEAST_DAYS:
        raise NoBaselineError(
            f"{dates.size} days are too few to tell ordinary days from others",
            rule=f"a baseline is learned from at least {_LEAST_DAYS} days",
            where="the training rows of the model",
            cure="train on more days; until then, drift is not judged",
        )
    grid = make_grid(table, numeric, categorical)
    history = grid.sketch(table, day, dates.size)
    pairs = calibration.strongest_pairs(history, _PAIRS)
    taken = calibration.statistics(grid, SCORE)
    # 1970-01-01 was a Thursday.
    ordinals = dates.astype("datetime64[D]").astype(np.int64)
    weekdays = (ordinals + 3) % 7
    rate = policy.false_alarms / len(policy.windows)
    strata = {}
    for name, chosen in _strata(dates, weekdays, policy).items():
        lengths = (1,) if name.startswith("weekday") else policy.windows
        own = history.take(chosen)
        strata[name] = Stratum(
            own.total(),
            {
                length: calibration.calibrate(grid, taken, pairs, own, ordinals[chosen], length, rate)
                for length in lengths
                if length == 1 or chosen.size >= _LEAST_WINDOWS * length
            },
        )
    named = [date.fromisoformat(str(one)) for one in dates.astype("datetime64[D]")]
    whole = np.array([(sizes or {}).get(one, 0) for one in named])
    rows, spread = _volume(np.maximum(history.rows, whole), weekdays)
    return Baseline(
        grid,
        pairs,
        strata,
        *_ordinary(grid, history),
        rows,
        np.bincount(weekdays, minlength=7) > 0,
        spread,
        int(dates.size),
    )


def identity(uc: UseCase, model_hash: str, snapshot_hash: str) -> str:
    """Return the name of a model's baseline: a hash of all that decides it."""
    decides = {
        "form": _FORM,
        "model": model_hash,
        "snapshot": snapshot_hash,
        "policy": uc.drift.model_dump(mode="json", include={"false_alarms", "windows", "seasonality"}),
        "columns": uc.features.model_dump(mode="json", include={"categorical", "numeric", "lookback_days"}),
        "history_start": str(uc.history_start),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def of_model(uc: UseCase, version: str, model_hash: str, snapshot_hash: str) -> Baseline:
    """Return the baseline of a registered version, made and kept when it is asked for first.

    Raises:
        DataError: Its training rows are too few days, or nobody kept which ones they were.
    """
    name = identity(uc, model_hash, snapshot_hash)
    store, key = open_store(), f"{_folder(uc)}{name}.npz"
    try:
        content = store.get(key)
    except NoSuchObjectError:
        pass
    else:
        try:
            return _unpacked(content)
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
            log.warning("baseline %s is damaged (%s): it is made again", store.uri(key), error)
    found = learn(
        _training_rows(uc, models.load_model(uc, version, model_hash), snapshot_hash),
        (*uc.features.numeric, SCORE),
        uc.features.categorical,
        uc.drift,
        # The rows that trained it have labels, and those of a night need not.
        sizes={day: one.rows for day, one in tables.partition_versions(uc, "features").items()},
    )
    store.put(key, _packed(found))
    log.info("%s version %s: baseline of %d days kept", uc.name, version, found.days)
    return found


def sweep(uc: UseCase, older_than_days: int) -> int:
    """Remove baselines that were kept so long ago and are of no champion and no challenger; return how many.

    Champions of the past count, for their days may be judged again, but only by the policy of today: one that
    is missing is made again when it is asked for.
    """
    entries = states.read(uc)
    challengers = {name for name, of in states.standings(entries).items() if of.state == "challenger"}
    wanted = {
        f"{_folder(uc)}{identity(uc, entry.model_hash, entry.snapshot_hash)}.npz"
        for entry in entries
        if isinstance(entry, Deployment) or entry.version in challengers
    }
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    unwanted = [
        key for key, kept in store.modified(_folder(uc)).items() if key not in wanted and kept < limit
    ]
    for key in unwanted:
        store.delete(key)
    return len(unwanted)


def stratum_of(baseline: Baseline, day: date, length: int) -> str:
    """Return the name of the days that a window ending on ``day`` is compared with."""
    for name in (f"weekday {day.weekday()}", f"month {day.month}"):
        if name in baseline.strata and length in baseline.strata[name].calibrations:
            return name
    return ALWAYS


def _folder(uc: UseCase) -> str:
    return f"baselines/{uc.name}/"


def _training_rows(uc: UseCase, model: Model, snapshot_hash: str) -> pa.Table:
    try:
        made_by = manifest.kept(uc, snapshot_hash, model.content_hash)
    except ValueError:
        # Another release wrote it, in another form.
        made_by = None
    if made_by is None:
        raise NoBaselineError(
            f"nobody kept what model {model.content_hash[:12]} was trained on",
            rule="a baseline is learned from the rows that a model was trained on",
            where=f"{uc.name}, version {model.version}",
            cure=f"train again with {uc.name}.train: new models keep their manifest",
        )
    # Validation rows, too: they are the newest, and were not fitted to.
    rows = pa.concat_tables(load_parts(made_by.data.snapshot, "train", "validation"))
    # Features that look back are made of less at the beginning of history: those days are like no later one.
    full = uc.history_start + timedelta(days=uc.features.lookback_days)
    settled = rows.filter(pc.greater_equal(rows.column("partition"), full))
    if pc.count_distinct(settled.column("partition")).as_py() >= _SETTLED_DAYS:
        rows = settled
    return rows.append_column(SCORE, pa.array(model.predict_proba(rows)))


def _strata(
    dates: npt.NDArray[Any], weekdays: npt.NDArray[np.intp], policy: Drift
) -> dict[str, npt.NDArray[np.intp]]:
    whole = np.arange(dates.size)
    found = {ALWAYS: whole}
    if policy.seasonality == "weekday":
        alike = {f"weekday {day}": whole[weekdays == day] for day in range(7)}
    elif policy.seasonality == "year":
        months = dates.astype("datetime64[M]").astype(np.int64) % 12
        # A month and its neighbours: the same season of every year that there is.
        alike = {
            f"month {month + 1}": whole[(months - month + 1) % 12 <= 2]
            for month in range(12)
            if (months == month).any()
        }
    else:
        alike = {}
    return found | {name: chosen for name, chosen in alike.items() if chosen.size >= _LEAST_ALIKE}


def _ordinary(grid: Grid, history: Sketches) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Return missing values, values of one day alone and distinct values, as ``Baseline`` has them.

    The most extreme day is left out: one bad day of training must not excuse all later ones. So are days of
    few rows, where there are others.
    """
    enough = history.rows >= _ROWS
    days = history.take(np.flatnonzero(enough if enough.any() else history.rows >= 0))
    size = np.maximum(1, days.rows)
    missing, new, distinct = [], [], []
    for own in grid.cells.values():
        counts = days.counts[:, own.start : own.stop - 1]
        alone = (counts > 0).sum(axis=0) == 1
        missing.append(_second(days.counts[:, own.stop - 1] / size))
        new.append(_second(counts[:, alone].sum(axis=1) / size))
        distinct.append(-_second(-(counts > 0).sum(axis=1)))
    return np.array(missing), np.array(new), np.array(distinct, dtype=np.int64)


def _second(values: npt.NDArray[Any]) -> Any:
    """Return the largest value but one."""
    return np.sort(values)[-min(2, values.size)]


def _volume(
    rows: npt.NDArray[np.int64], weekdays: npt.NDArray[np.intp]
) -> tuple[Floats, tuple[float, float]]:
    whole = float(np.median(rows))
    usual = np.array(
        [
            np.median(rows[weekdays == day]) if (weekdays == day).sum() >= _LEAST_ALIKE else whole
            for day in range(7)
        ]
    )
    apart = np.log(np.maximum(1, rows) / usual[weekdays])
    spread = [
        float(np.sqrt((side**2).sum() / max(1, np.count_nonzero(side))))
        for side in (np.minimum(apart, 0.0), np.maximum(apart, 0.0))
    ]
    return usual, (spread[0], spread[1])


# At rest: numbers as arrays, and what names them as JSON beside them. No pickle.


def _packed(baseline: Baseline) -> bytes:
    grid = baseline.grid
    arrays: dict[str, npt.NDArray[Any]] = {
        "pairs": baseline.pairs,
        "most_missing": baseline.most_missing,
        "most_new": baseline.most_new,
        "least_distinct": baseline.least_distinct,
        "rows": baseline.rows,
        "weekdays": baseline.weekdays,
    }
    for place, (points, ranks) in enumerate(zip(grid.points, grid.ranks, strict=True)):
        arrays[f"points/{place}"], arrays[f"ranks/{place}"] = points, ranks
    strata: dict[str, dict[str, Any]] = {}
    for name, stratum in baseline.strata.items():
        for part, array in asdict(stratum.reference).items():
            arrays[f"{name}/{part}"] = array
        strata[name] = {}
        for length, found in stratum.calibrations.items():
            strata[name][str(length)] = [found.rows, found.column_level, found.pair_level]
            for kind, fit in (("columns", found.columns), ("pairs", found.pairs)):
                arrays[f"{name}/{length}/{kind}"] = np.stack([fit.median, fit.spread, fit.effective])
    words = {
        "numeric": grid.numeric,
        "deviations": grid.deviations,
        "categorical": grid.categorical,
        "categories": grid.categories,
        "strata": strata,
        "row_spread": baseline.row_spread,
        "days": baseline.days,
    }
    sink = io.BytesIO()
    arrays["words"] = np.array(json.dumps(words))
    np.savez_compressed(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def _unpacked(content: bytes) -> Baseline:
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        words = json.loads(str(found["words"]))
        grid = Grid(
            tuple(words["numeric"]),
            tuple(found[f"points/{place}"] for place in range(len(words["numeric"]))),
            tuple(words["deviations"]),
            tuple(found[f"ranks/{place}"] for place in range(len(words["numeric"]))),
            tuple(words["categorical"]),
            tuple(tuple(known) for known in words["categories"]),
        )
        strata = {
            name: Stratum(
                Sketches(*(found[f"{name}/{part}"] for part in ("rows", "counts", "sums", "products"))),
                {
                    int(length): Calibration(
                        int(length),
                        rows,
                        Fit(*found[f"{name}/{length}/columns"]),
                        Fit(*found[f"{name}/{length}/pairs"]),
                        column_level,
                        pair_level,
                    )
                    for length, (rows, column_level, pair_level) in lengths.items()
                },
            )
            for name, lengths in words["strata"].items()
        }
        return Baseline(
            grid,
            found["pairs"],
            strata,
            found["most_missing"],
            found["most_new"],
            found["least_distinct"],
            found["rows"],
            found["weekdays"],
            (words["row_spread"][0], words["row_spread"][1]),
            words["days"],
        )
