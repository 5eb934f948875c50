"""What would have to be otherwise for the decision to be: the smallest change within the allowed features.

Smallest is, first, the fewest features, at most three; then the least distance: numbers count in median
absolute deviations of the training reference (as in Wachter, Mittelstadt and Russell 2017, "Counterfactual
Explanations Without Opening the Black Box"), another category counts 1. No number leaves the range that
training saw, and what is missing stays missing. This is about the model, not about the world: nothing says
that the change would have this effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.inference.reasons import text
from nightshift.registry.model import Model
from nightshift.usecase import Steps, UseCase

_MOST_FEATURES = 3
# So many combinations of one number of features are all tried; of more, those that go on from the best.
_MOST_ROWS = 50_000


class Changed(BaseModel):
    """One feature that is otherwise. ``follows``: it moves along with a feature that is changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    before: str | None
    after: str
    follows: bool = False


class Counterfactual(BaseModel):
    """A change that flips the decision.

    Attributes:
        changes: What is otherwise.
        score: The score with it.
        distance: Sum over the changed features, in the units above; what follows adds nothing.
        exhaustive: Whether every combination of so many features, and of fewer, was tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    changes: list[Changed]
    score: float
    distance: float
    exhaustive: bool


@dataclass(frozen=True)
class _Option:
    """One other value of an allowed feature, with what follows from it."""

    values: Mapping[str, str | float]
    distance: float


_Combination = tuple[_Option, ...]


def counterfactual(uc: UseCase, model: Model, row: pa.Table) -> Counterfactual | None:
    """Return the smallest allowed change of ``row``, a table of one row, that flips the decision.

    Returns:
        None if no combination of at most three allowed features that was tried flips it. The same arguments
        give the same answer.

    Raises:
        DataError: As ``Model.predict_proba``.
    """
    decided = bool(model.predict_proba(row)[0] >= model.threshold)
    options = _options(uc, model, row)
    best: _Combination = ()
    exhaustive = True
    for size in range(1, min(_MOST_FEATURES, len(options)) + 1):
        tried = _combinations(options, size)
        if tried is None:
            exhaustive = False
            tried = _going_on(options, best)
        scores = _scores(model, row, tried)
        flips = np.flatnonzero((scores >= model.threshold) != decided)
        if flips.size:
            # Of equally small ones the first: rounding must not decide.
            chosen = min(flips.tolist(), key=lambda place: (round(_distance(tried[place]), 9), place))
            return _told(row, tried[chosen], float(scores[chosen]), exhaustive, uc)
        best = tried[int(np.argmin(scores) if decided else np.argmax(scores))]
    return None


def _options(uc: UseCase, model: Model, row: pa.Table) -> dict[str, list[_Option]]:
    """Return by feature what it may be instead; features without any other value are left out."""
    found: dict[str, list[_Option]] = {}
    for name, choice in uc.explanation.allowed.items():
        if name not in model.feature_columns:
            continue
        before = row[name][0].as_py()
        if isinstance(choice, Steps):
            options = list(_numbers(model, row, name, choice))
        else:
            known = model.origin.encoder.categories[name]
            options = [_Option({name: value}, 1.0) for value in choice if value != before and value in known]
        if options:
            found[name] = options
    return found


def _numbers(model: Model, row: pa.Table, name: str, steps: Steps) -> Iterator[_Option]:
    before = _number(row, name)
    if before is None:
        return
    followers = {moved: _number(row, moved) for moved in steps.moves if moved in model.feature_columns}
    scale = _deviation(model.reference[name])
    for step in steps.grid:
        change = step if steps.relative else step - before
        values = {name: before + change} | {
            moved: value + change for moved, value in followers.items() if value is not None
        }
        if change and all(_seen(model.reference[moved], value) for moved, value in values.items()):
            yield _Option(values, abs(change) / scale)


def _number(row: pa.Table, name: str) -> float | None:
    value = pc.cast(row[name], pa.float64())[0].as_py()
    return None if value is None or not np.isfinite(value) else float(value)


def _present(column: pa.ChunkedArray) -> Any:
    values = pc.cast(column.drop_null(), pa.float64()).to_numpy()
    return values[np.isfinite(values)]


def _seen(column: pa.ChunkedArray, value: float) -> bool:
    values = _present(column)
    return bool(values.size and values.min() <= value <= values.max())


def _deviation(column: pa.ChunkedArray) -> float:
    """Return the median absolute deviation; the mean one where that is 0, as of a column that mostly is."""
    values = _present(column)
    if not values.size:
        return 1.0
    away = np.abs(values - np.median(values))
    return float(np.median(away) or away.mean() or 1.0)


def _combinations(options: Mapping[str, list[_Option]], size: int) -> list[_Combination] | None:
    """Return every combination of ``size`` features; None where there are too many."""
    chosen = list(itertools.combinations(options.values(), size))
    if sum(int(np.prod([len(one) for one in some])) for some in chosen) > _MOST_ROWS:
        return None
    return [combination for some in chosen for combination in itertools.product(*some)]


def _going_on(options: Mapping[str, list[_Option]], best: _Combination) -> list[_Combination]:
    """Return ``best``, which came nearest to flipping the decision, with one more feature."""
    taken = {next(iter(option.values)) for option in best}
    return [(*best, option) for name, others in options.items() if name not in taken for option in others]


def _scores(model: Model, row: pa.Table, tried: Sequence[_Combination]) -> Any:
    """Return the score of ``row`` with each of the combinations."""
    values = [_values(combination) for combination in tried]
    changed = {name for one in values for name in one}
    arrays = []
    for name in model.feature_columns:
        column = row[name]
        if name not in changed:
            arrays.append(pa.repeat(column[0], len(tried)))
        elif name in model.origin.encoder.categories:
            before = pc.cast(column, pa.string())[0].as_py()
            arrays.append(pa.array([one.get(name, before) for one in values], pa.string()))
        else:
            before = _number(row, name)
            arrays.append(pa.array([one.get(name, before) for one in values], pa.float64()))
    return model.predict_proba(pa.table(arrays, names=list(model.feature_columns)))


def _values(combination: _Combination) -> dict[str, str | float]:
    """Return what the combination makes of the features."""
    return {name: value for option in combination for name, value in option.values.items()}


def _distance(combination: _Combination) -> float:
    return sum(option.distance for option in combination)


def _told(row: pa.Table, chosen: _Combination, score: float, exhaustive: bool, uc: UseCase) -> Counterfactual:
    return Counterfactual(
        changes=[
            Changed(
                feature=name,
                before=text(row[name][0].as_py()),
                after=str(text(value)),
                follows=name not in uc.explanation.allowed,
            )
            for name, value in _values(chosen).items()
        ],
        score=score,
        distance=_distance(chosen),
        exhaustive=exhaustive,
    )
