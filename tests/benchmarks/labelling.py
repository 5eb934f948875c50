"""How many labels it takes to reach a ROC AUC: those of the nightly queue against as many chosen at random.

``python -m tests.benchmarks.labelling`` prints a table for real days and one for made-up rows of which one in
a hundred is positive. Each night a learner that knows the labels bought so far scores the day, some of its
rows are labelled, and the learner is judged on later days that nobody was asked about. Everything but the
choice is the same: first labels, budget, learner, test rows.

The real days are those of the lake of ``NIGHTSHIFT_HOME``, after ``make demo`` for instance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xgboost
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from nightshift.lake import tables
from nightshift.monitoring.labelling import choose, encode, entropy
from nightshift.usecase import load_usecase

Array = npt.NDArray[np.float64]

_NIGHTS, _BUDGET, _FIRST_LABELS, _EVERY = 60, 20, 100, 3
_TEST_DAYS = 21
_TEST_ROWS = 10_000
# Budgets at which random choice sets the mark that the others are to reach.
_MARKS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Case:
    """Nights to ask about and rows to be judged on.

    Attributes:
        nights: Each night's rows: as the learner sees them, as the queue compares them, and their labels.
        test: Rows as the learner sees them, and their labels.
    """

    name: str
    nights: Sequence[tuple[Array, Array, Array]]
    test: tuple[Array, Array]


Choice = Callable[[Array, Array, int, np.random.Generator], npt.NDArray[np.int64]]

STRATEGIES: dict[str, Choice] = {
    "random": lambda score, vectors, budget, random: random.permutation(len(score))[:budget],
    "uncertainty": lambda score, vectors, budget, random: np.argsort(-entropy(score), kind="stable")[:budget],
    "queue": lambda score, vectors, budget, random: choose(entropy(score), vectors, budget)[0],
}


def real_days(seed: int = 2013) -> Case:
    """Return the first days of the lake, and test rows of the three weeks after them.

    Raises:
        SystemExit: The lake has too few days.
    """
    uc = load_usecase("flight_delays")
    there = sorted(tables.partition_versions(uc, "labels"))
    # The first weeks look back on a history that has only begun.
    start = uc.history_start + timedelta(days=uc.features.lookback_days)
    end = start + timedelta(days=_NIGHTS + _TEST_DAYS - 1)
    if not there or there[-1] < end:
        has = f"the lake has labels to {there[-1]}" if there else "the lake has no labels"
        sys.exit(f"{has}, needed are {start} to {end}: run make demo first")
    rows = _labelled(uc.entity, uc.label.column, start, end)
    learner = encode(rows, uc.features.categorical, uc.features.numeric)
    label = rows[uc.label.column].to_numpy().astype(float)
    day = rows["partition"].to_numpy()
    nights = []
    for number in range(_NIGHTS):
        of_day = day == np.datetime64(start + timedelta(days=number))
        table = rows.filter(pa.array(of_day))
        vectors = encode(table, uc.features.categorical, uc.features.numeric)
        nights.append((learner[of_day], vectors, label[of_day]))
    later = np.flatnonzero(day >= np.datetime64(start + timedelta(days=_NIGHTS)))
    test = np.random.default_rng(seed).permutation(later)[:_TEST_ROWS]
    return Case(f"real days, {label.mean():.0%} positive", nights, (learner[test], label[test]))


def _labelled(entity: str, label: str, start: date, end: date) -> pa.Table:
    uc = load_usecase("flight_delays")
    features = tables.read_partitions(uc, "features", start, end)
    labels = tables.read_partitions(uc, "labels", start, end, columns=[entity, label])
    labels = labels.filter(pc.is_valid(labels[label]))
    position = pc.index_in(features[entity], value_set=labels[entity].combine_chunks())
    rows = features.append_column(label, labels[label].take(position))
    return rows.filter(pc.is_valid(rows[label]))


def rare_events(seed: int = 7, rows: int = 800) -> Case:
    """Return made-up rows, one in a hundred positive: three small groups beside one large crowd."""
    random = np.random.default_rng(seed)
    centres = random.normal(scale=1.6, size=(3, 10))

    def draw(count: int) -> tuple[Array, Array]:
        label = (random.random(count) < 0.01).astype(float)
        numbers = random.normal(size=(count, 10))
        group = random.integers(0, 3, count)
        return np.where(label[:, None] == 1, centres[group] + 0.8 * numbers, numbers), label

    nights = [(numbers, numbers, label) for numbers, label in (draw(rows) for _ in range(_NIGHTS))]
    return Case("made up, 1% positive", nights, draw(2 * _TEST_ROWS))


def curve(case: Case, strategy: str, seed: int) -> list[tuple[int, float]]:
    """Return labels bought and ROC AUC on the test rows, after every few nights."""
    random = np.random.default_rng(seed)
    inputs = np.concatenate([numbers for numbers, _, _ in case.nights[:7]])
    labels = np.concatenate([truth for _, _, truth in case.nights[:7]])
    first = random.permutation(len(labels))
    # The same rows for every strategy, with two positives in any case: of one class nothing can be learned.
    first = np.concatenate([first[:_FIRST_LABELS], first[labels[first] == 1][:2]])
    known, said = [inputs[first]], [labels[first]]
    points = []
    model = _fit(known, said, seed)
    for number, (numbers, vectors, truth) in enumerate(case.nights, start=1):
        score = _score(model, numbers)
        chosen = STRATEGIES[strategy](score, vectors, _BUDGET, random)
        known.append(numbers[chosen])
        said.append(truth[chosen])
        model = _fit(known, said, seed)
        if number % _EVERY == 0:
            auc = float(roc_auc_score(case.test[1], _score(model, case.test[0])))
            points.append((sum(map(len, said)), auc))
    return points


def _fit(known: Sequence[Array], said: Sequence[Array], seed: int) -> xgboost.Booster:
    data = xgboost.DMatrix(np.concatenate(known), label=np.concatenate(said))
    params = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1, "subsample": 0.8, "seed": seed}
    return xgboost.train(params | {"colsample_bytree": 0.5, "nthread": 1}, data, 50)


def _score(model: xgboost.Booster, numbers: Array) -> Array:
    return model.predict(xgboost.DMatrix(numbers)).astype(np.float64)


def study(case: Case, seeds: int) -> Table:
    """Return the table: marks that random choice sets, and the labels that each strategy needs for them."""
    curves = {name: [curve(case, name, seed) for seed in range(seeds)] for name in STRATEGIES}
    means = {
        name: [(points[0][0], fmean(auc for _, auc in points)) for points in zip(*runs, strict=True)]
        for name, runs in curves.items()
    }
    table = Table(
        "ROC AUC", *(f"labels: {name}" for name in STRATEGIES), title=case.name, title_justify="left"
    )
    reference = means["random"]
    for share in _MARKS:
        mark = reference[round(share * len(reference)) - 1][1]
        table.add_row(f"{mark:.4f}", *(_needed(points, mark) for points in means.values()))
    last = {name: [points[-1][1] for points in runs] for name, runs in curves.items()}
    table.add_row(
        f"at {reference[-1][0]} labels", *(f"{fmean(auc):.4f} ± {stdev(auc):.4f}" for auc in last.values())
    )
    table.caption = f"{seeds} runs each; means, and standard deviations over runs"
    return table


def _needed(points: Sequence[tuple[int, float]], mark: float) -> str:
    """Return the labels from which on a curve stays at the mark or above."""
    below = [number for number, (_, auc) in enumerate(points) if auc < mark]
    first = below[-1] + 1 if below else 0
    return str(points[first][0]) if first < len(points) else f"more than {points[-1][0]}"


def main() -> None:
    """Measure both cases and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labelling", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="runs of each strategy, at least 2")
    arguments = parser.parse_args()
    console = Console(width=110, highlight=False)
    for case in (real_days, rare_events):
        console.print(study(case(), arguments.seeds))


if __name__ == "__main__":
    main()
