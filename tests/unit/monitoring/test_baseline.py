"""What is ordinary is learned from the days of training: quiet on more of the same, loud on what moved."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.monitoring import baseline, comparison, findings
from nightshift.monitoring.baseline import Baseline
from nightshift.monitoring.calibration import discoveries, draw_windows, measure
from nightshift.monitoring.sketches import Sketches
from nightshift.usecase import Drift

NUMERIC = ("row_level", "same_all_day", "follows", "with_gaps", "empty")
CATEGORICAL = ("shop", "city")
DAYS, LATER, ROWS = 90, 40, 150

Change = Callable[[dict[str, npt.NDArray[np.generic]]], None]


def _table(days: int = DAYS, seed: int = 0, change: Change | None = None) -> pa.Table:
    """Days of which some columns are made of their own, and some follow the day."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), ROWS)
    row_level = random.normal(size=day.size)
    columns: dict[str, npt.NDArray[np.generic]] = {
        "partition": np.datetime64("2013-01-07") + day,
        "row_level": row_level,
        "same_all_day": random.normal(size=days)[day],
        "follows": 0.9 * row_level + 0.4 * random.normal(size=day.size),
        "with_gaps": np.where(random.random(day.size) < 0.3, np.nan, random.normal(size=day.size)),
        "empty": np.full(day.size, np.nan),
        "shop": random.choice(["a", "b", "c"], size=day.size, p=[0.5, 0.3, 0.2]),
        "city": random.choice(["x", "y"], size=day.size),
    }
    if change is not None:
        change(columns)
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})


@pytest.fixture(scope="module")
def learned() -> Baseline:
    return baseline.learn(_table(), NUMERIC, CATEGORICAL, Drift(windows=(1, 7)))


def _sketches(learned: Baseline, table: pa.Table) -> Sketches:
    dates, day = np.unique(table.column("partition").to_numpy(), return_inverse=True)
    return learned.grid.sketch(table, day, dates.size)


def _moved(learned: Baseline, table: pa.Table, length: int = 1) -> list[set[str]]:
    days = _sketches(learned, table)
    found = []
    for last in range(length, len(days.rows) + 1):
        window = comparison.judge(
            learned, days.take(range(last - length, last)), length, "always", min_effect=0.03
        )
        found.append({signal.title for signal in window.signals})
    return found


@pytest.mark.parametrize("length", [1, 7])
def test_more_days_of_the_same_kind_are_quiet(learned: Baseline, length: int) -> None:
    found = _moved(learned, _table(days=LATER, seed=1), length)
    assert sum(map(bool, found)) <= 1


def test_what_is_the_same_all_day_may_lie_further_away_than_what_is_not(learned: Baseline) -> None:
    days = _sketches(learned, _table(days=1, seed=1))
    limits = comparison.judge(learned, days, 1, "always", min_effect=0.03).limits
    assert limits["same_all_day"] > 3 * limits["row_level"]


def test_days_of_scores_are_as_rare_as_they_are_said_to_be() -> None:
    """By each statistic, far out in its tail: one day in a thousand, of 2,400 whose rows share an effect."""
    rare: dict[str, int] = {}
    for seed in range(30):
        random = np.random.default_rng(seed)
        day = np.repeat(np.arange(DAYS + 80), 500)
        score = random.normal(size=day.size) + 0.5 * random.normal(size=DAYS + 80)[day]
        table = pa.table({"partition": np.datetime64("2013-01-07") + day, "score": 1 / (1 + np.exp(-score))})
        learned = baseline.learn(table.slice(0, DAYS * 500), ("score",), (), Drift(windows=(1,)))
        ordinary = learned.strata["always"]
        later = _sketches(learned, table.slice(DAYS * 500))
        values = measure(learned.grid, learned.statistics, later, ordinary.reference)
        probability = ordinary.calibrations[1].columns.probabilities(values)
        for place, statistic in enumerate(learned.statistics):
            found = int((probability[:, place] < 0.001).sum())
            rare[statistic.name] = rare.get(statistic.name, 0) + found
    assert set(rare) == {"wasserstein", "kolmogorov_smirnov", "psi"}
    assert max(rare.values()) <= 7


def _shifted(columns: dict[str, npt.NDArray[np.generic]]) -> None:
    columns["row_level"] = columns["row_level"] + 0.8
    columns["follows"] = columns["follows"] + 0.8


def _mixed(columns: dict[str, npt.NDArray[np.generic]]) -> None:
    columns["shop"] = np.where(columns["shop"] == "a", "c", columns["shop"])


def _broken(columns: dict[str, npt.NDArray[np.generic]]) -> None:
    columns["follows"] = np.random.default_rng(5).permutation(columns["follows"])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_shifted, {"row_level", "follows"}),
        (_mixed, {"shop"}),
        (_broken, {"row_level with follows"}),
    ],
)
def test_what_moved_is_named_and_nothing_else(learned: Baseline, change: Change, names: set[str]) -> None:
    found = _moved(learned, _table(days=10, seed=2, change=change))
    assert [moved for moved in found if not names <= moved] == []
    assert sum(moved != names for moved in found) <= 1


def test_a_week_shows_what_a_day_hides(learned: Baseline) -> None:
    def slightly(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        columns["with_gaps"] = columns["with_gaps"] + 0.3

    table = _table(days=14, seed=3, change=slightly)
    days, weeks = _moved(learned, table), _moved(learned, table, length=7)
    assert all("with_gaps" in moved for moved in weeks)
    assert not all("with_gaps" in moved for moved in days)


def test_a_small_effect_is_none_however_sure(learned: Baseline) -> None:
    days = _sketches(learned, _table(days=1, seed=2, change=_shifted))
    assert comparison.judge(learned, days, 1, "always", min_effect=0.1).signals
    assert not comparison.judge(learned, days, 1, "always", min_effect=1.0).signals


def test_kept_and_read_back_it_judges_the_same(learned: Baseline) -> None:
    again = baseline._unpacked(baseline._packed(learned))
    days = _sketches(learned, _table(days=1, seed=2, change=_mixed))
    first, second = (comparison.judge(one, days, 1, "always", min_effect=0.03) for one in (learned, again))
    assert first == second
    assert first.signals


def test_learned_twice_it_is_the_same(learned: Baseline) -> None:
    again = baseline.learn(_table(), NUMERIC, CATEGORICAL, Drift(windows=(1, 7)))
    assert baseline._packed(again) == baseline._packed(learned)


def test_weekdays_are_compared_with_their_own() -> None:
    def quiet_sundays(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        day = columns["partition"].astype("datetime64[D]").astype(np.int64)
        columns["row_level"] = columns["row_level"] - 6.0 * ((day + 3) % 7 == 6)

    table = _table(days=140, seed=6, change=quiet_sundays)
    policy = Drift(windows=(1,), seasonality="weekday")
    learned = baseline.learn(table, NUMERIC, CATEGORICAL, policy)
    monday, sunday = date(2013, 6, 3), date(2013, 6, 9)
    like_a_sunday = _table(days=1, seed=7)
    place = like_a_sunday.column_names.index("row_level")
    like_a_sunday = like_a_sunday.set_column(
        place, "row_level", pa.array(like_a_sunday["row_level"].to_numpy() - 6.0)
    )
    days = _sketches(learned, like_a_sunday)
    found = {}
    for day in (monday, sunday):
        stratum = baseline.stratum_of(learned, day, 1)
        window = comparison.judge(learned, days, 1, stratum, min_effect=0.03)
        found[day] = {signal.column for signal in window.signals}
    assert "row_level" in found[monday]
    assert "row_level" not in found[sunday]


@pytest.mark.parametrize(
    ("kind", "column", "values"),
    [
        ("outage", "row_level", lambda n: np.full(n, np.nan)),
        ("constant", "row_level", lambda n: np.full(n, 0.3)),
        ("missing", "row_level", lambda n: np.where(np.arange(n) % 5 == 0, np.nan, 0.1 * np.arange(n))),
        ("new_category", "shop", lambda n: np.where(np.arange(n) % 4 == 0, "new", "a")),
    ],
)
def test_what_is_wrong_with_a_column_is_told_apart(
    learned: Baseline, kind: str, column: str, values: Callable[[int], npt.NDArray[np.generic]]
) -> None:
    def break_it(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        columns[column] = values(ROWS)

    sketch = _sketches(learned, _table(days=1, seed=8, change=break_it))
    found = findings.of_columns(learned, sketch)
    assert [(finding.kind, finding.column) for finding in found] == [(kind, column)]


def test_values_far_away_are_no_constant(learned: Baseline) -> None:
    def in_another_unit(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        columns["row_level"] = 1000.0 + np.arange(ROWS)

    sketch = _sketches(learned, _table(days=1, seed=8, change=in_another_unit))
    assert findings.of_columns(learned, sketch) == []
    window = comparison.judge(learned, sketch, 1, "always", min_effect=0.03)
    assert "row_level" in {signal.column for signal in window.signals}


def test_a_column_of_ever_new_values_is_ordinary_where_it_always_was() -> None:
    def numbered(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        ids = np.arange(columns["shop"].size) + 10**6 * int(columns["row_level"][0] * 1000)
        columns["shop"] = np.where(np.arange(ids.size) % 10 == 0, ids.astype(str), columns["shop"])

    learned = baseline.learn(_table(change=numbered), NUMERIC, CATEGORICAL, Drift(windows=(1,)))
    sketch = _sketches(learned, _table(days=1, seed=8, change=numbered))
    assert findings.of_columns(learned, sketch) == []


def test_one_bad_day_of_training_excuses_no_later_one() -> None:
    def feed_down_once(columns: dict[str, npt.NDArray[np.generic]]) -> None:
        columns["row_level"] = np.where(
            np.arange(columns["row_level"].size) < ROWS, np.nan, columns["row_level"]
        )

    learned = baseline.learn(_table(change=feed_down_once), NUMERIC, CATEGORICAL, Drift(windows=(1,)))
    sketch = _sketches(learned, _table(days=1, seed=8, change=feed_down_once))
    assert [(one.kind, one.column) for one in findings.of_columns(learned, sketch)] == [
        ("outage", "row_level")
    ]


def test_rows_and_days_that_are_not_there_are_told_apart(learned: Baseline) -> None:
    day, absent = date(2013, 6, 3), [date(2013, 6, 1)]
    assert [one.kind for one in findings.of_rows(learned, day, ROWS // 2, [])] == ["volume"]
    assert [one.kind for one in findings.of_rows(learned, day, ROWS, absent)] == ["late"]
    assert findings.of_rows(learned, day, ROWS, []) == []


def test_a_baseline_of_few_days_is_refused_with_the_cure() -> None:
    with pytest.raises(DataError, match="6 days are too few") as raised:
        baseline.learn(_table(days=6), NUMERIC, CATEGORICAL, Drift())
    assert "train on more days" in raised.value.cure


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    # Of the example in their paper of 1995, 0.05 lets the four smallest of fifteen pass.
    given = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
    found = discoveries(np.array([*given, 0.6528, 0.7590, 1.0]), 0.05)
    assert list(np.flatnonzero(found)) == [0, 1, 2, 3]


def test_blocks_keep_their_weekday() -> None:
    # Ten days are not there.
    ordinals = np.delete(np.arange(110), np.arange(40, 50))
    drawn = draw_windows(ordinals, 28)
    assert drawn.shape == (400, 28)
    assert (np.diff(ordinals[drawn], axis=1) % 7 == 1).all()
    assert (np.diff(ordinals[drawn], axis=1)[:, :6] == 1).all(), "a block does not cross the gap"
