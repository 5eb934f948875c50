"""How a model holds out when its inputs are worse than those it was trained on.

Rows are disturbed in six ways and scored again. The scale of a disturbance is that of the training rows, from
the reference sample stored with the model. Whatever comes in, a model answers with a probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.metrics import forecast_metrics
from nightshift.registry.model import Model
from nightshift.registry.scaling import moments
from nightshift.usecase import Scenario, UseCase

Floats = npt.NDArray[np.float64]

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
UNSEEN = "(never seen in training)"
_MONTH = np.timedelta64(30, "D")
# Of the values made extreme, so many are infinite.
_INFINITE = 0.1


class Disturbed(BaseModel):
    """What one disturbance did.

    Attributes:
        scenario: Which one.
        rows: How many rows were scored.
        roc_auc_loss: Fall of ROC AUC; None where the rows hold one class.
        log_loss_rise: Rise of the log loss.
        flipped: Share of rows whose decision changed.
        failure: Why there are no such figures: an exception, or scores that are no probabilities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    rows: int
    roc_auc_loss: float | None = None
    log_loss_rise: float | None = None
    flipped: float | None = None
    failure: str = ""


def robustness(uc: UseCase, model: Model, rows: pa.Table, label: npt.NDArray[Any]) -> list[Disturbed]:
    """Disturb at most ``evaluation.robustness.rows`` of ``rows`` in every way and score them again.

    The same rows, model and seed give the same result.
    """
    random = np.random.default_rng(uc.training.seed)
    taken = np.sort(random.permutation(rows.num_rows)[: uc.evaluation.robustness.rows])
    sample = rows.select(list(model.feature_columns)).take(pa.array(taken)).combine_chunks()
    truth = label[taken]
    before = model.predict_proba(sample)

    def metrics(score: Floats) -> dict[str, float]:
        return forecast_metrics(truth, score, threshold=model.threshold, costs=uc.costs)

    calm = metrics(before)
    found = []
    for scenario in SCENARIOS:
        try:
            score = model.predict_proba(disturb(uc, model, sample, scenario))
        # Whatever it is, an exception is what this check looks for.
        except Exception as error:
            failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            found.append(Disturbed(scenario=scenario, rows=taken.size, failure=failure))
            continue
        wrong = int(np.count_nonzero(~((score >= 0) & (score <= 1))))
        if wrong:
            failure = f"{wrong} of {taken.size} scores are no probabilities"
            found.append(Disturbed(scenario=scenario, rows=taken.size, failure=failure))
            continue
        shaken = metrics(score)
        flipped = (score >= model.threshold) != (before >= model.threshold)
        found.append(
            Disturbed(
                scenario=scenario,
                rows=taken.size,
                roc_auc_loss=calm["roc_auc"] - shaken["roc_auc"] if "roc_auc" in calm else None,
                log_loss_rise=shaken["log_loss"] - calm["log_loss"],
                flipped=float(flipped.mean()),
            )
        )
    return found


def disturb(uc: UseCase, model: Model, rows: pa.Table, scenario: Scenario) -> pa.Table:
    """Return ``rows`` disturbed, in the same columns; numbers become doubles.

    - noise: every number moves by a normal draw of ``noise`` training standard deviations;
    - missing: a ``share`` of all values is null;
    - unseen: a ``share`` of categories is one that training never saw;
    - extreme: a ``share`` of numbers lies ``extreme`` standard deviations off, some at infinity;
    - swapped: in a ``share`` of rows every number stands in the column beside its own;
    - shifted: every number moves as far as its mean moved between the first and the last month of training.
    """
    rules, encoder = uc.evaluation.robustness, model.origin.encoder
    random = np.random.default_rng([uc.training.seed, SCENARIOS.index(scenario)])
    numbers = _matrix(rows, encoder.numeric)
    texts = {name: _texts(rows[name]) for name in encoder.categories}
    hit = random.random(numbers.shape) < rules.share  # nosec B311  # numpy, seeded
    reference = model.reference
    changes: dict[Scenario, Callable[[], Floats]] = {
        "noise": lambda: (
            numbers + rules.noise * random.normal(size=numbers.shape) * _spread(reference, encoder.numeric)
        ),
        "missing": lambda: np.where(hit, np.nan, numbers),
        "unseen": lambda: numbers,
        "extreme": lambda: np.where(
            hit, _extremes(random, reference, encoder.numeric, numbers.shape, rules.extreme), numbers
        ),
        "swapped": lambda: np.where(
            random.random((rows.num_rows, 1)) < rules.share,  # nosec B311  # numpy, seeded
            np.roll(numbers, 1, axis=1),
            numbers,
        ),
        "shifted": lambda: numbers + _season(reference, encoder.numeric),
    }
    changed = changes[scenario]()
    if scenario in ("missing", "unseen"):
        replaced = None if scenario == "missing" else UNSEEN
        for values in texts.values():
            values[random.random(rows.num_rows) < rules.share] = replaced  # nosec B311  # numpy, seeded
    arrays = [pa.array(values.tolist(), pa.string()) for values in texts.values()]
    arrays += [pa.array(column, pa.float64(), from_pandas=True) for column in changed.T]
    return pa.table(arrays, names=[*texts, *encoder.numeric])


def _matrix(rows: pa.Table, columns: tuple[str, ...]) -> Floats:
    """Return the numbers of shape (rows, columns), NaN for null."""
    values = np.empty((rows.num_rows, len(columns)))
    for position, name in enumerate(columns):
        values[:, position] = pc.cast(rows[name], pa.float64()).to_numpy()
    return values


def _texts(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    return np.array(pc.cast(column, pa.string()).to_pylist(), dtype=object)


def _spread(reference: pa.Table, columns: tuple[str, ...]) -> Floats:
    return moments(_matrix(reference, columns))[1]


def _extremes(
    random: np.random.Generator,
    reference: pa.Table,
    columns: tuple[str, ...],
    shape: tuple[int, ...],
    distance: float,
) -> Floats:
    mean, spread = moments(_matrix(reference, columns))
    side = random.choice([-1.0, 1.0], size=shape)  # nosec B311  # numpy, seeded
    infinite = random.random(shape) < _INFINITE  # nosec B311  # numpy, seeded
    return np.where(infinite, side * np.inf, mean + side * distance * spread)


def _season(reference: pa.Table, columns: tuple[str, ...]) -> Floats:
    """Return how far each mean moved from the first 30 days of training to the last 30, or half to half."""
    day = reference["partition"].to_numpy().astype("datetime64[D]")
    first, last = day.min(), day.max()
    span = min(_MONTH, (last - first + np.timedelta64(1, "D")) // 2)
    values = _matrix(reference, columns)
    before, _ = moments(values[day < first + span])
    after, _ = moments(values[day > last - span])
    return np.asarray(after - before)
