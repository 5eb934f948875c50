"""Bootstrap by day: exact on each resample, as wide as the days differ, and paired between models."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nightshift.intervals import (
    differences,
    draw_days,
    interval,
    intervals,
    resampled_metrics,
    row_groups,
)
from nightshift.metrics import forecast_metrics
from nightshift.usecase import Costs

COSTS = Costs(false_positive=1, false_negative=3)
DAYS = 10


def made_up(rows: int = 1500, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, and days of different late rates."""
    random = np.random.default_rng(seed)
    day = random.integers(0, DAYS, rows)
    chance = np.clip(0.1 + 0.05 * day + random.normal(0, 0.15, rows), 0.01, 0.99)
    return (random.random(rows) < chance).astype(np.float32), np.round(chance, 2), day


def test_a_resample_is_judged_as_its_rows_would_be() -> None:
    label, score, day = made_up()
    drawn = draw_days(DAYS, 5, seed=3)
    found = resampled_metrics(label, score, day, drawn, threshold=0.25, costs=COSTS)
    for number, weights in enumerate(drawn):
        rows = np.concatenate([np.repeat(np.flatnonzero(day == d), int(weights[d])) for d in range(DAYS)])
        expected = forecast_metrics(label[rows], score[rows], threshold=0.25, costs=COSTS)
        # The bins of the calibration error stay those of all rows.
        for name in set(found) - {"ece"}:
            assert found[name][number] == pytest.approx(expected[name], abs=1e-12), name


def test_drawing_every_day_once_gives_the_metrics_themselves() -> None:
    label, score, day = made_up()
    found = resampled_metrics(label, score, day, np.ones((1, DAYS)), threshold=0.25, costs=COSTS)
    expected = forecast_metrics(label, score, threshold=0.25, costs=COSTS)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {name: expected[name] for name in found}
    )


def test_a_resample_of_rows_beyond_one_block_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    label, score, day = made_up()
    drawn = draw_days(DAYS, 70, seed=3)
    whole = resampled_metrics(label, score, day, drawn, threshold=0.25, costs=COSTS)
    monkeypatch.setattr("nightshift.intervals._GROUPS", 7)
    parts = resampled_metrics(label, score, day, drawn, threshold=0.25, costs=COSTS)
    for name in ("roc_auc", "pr_auc"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12)


def test_days_that_differ_make_the_interval_wide() -> None:
    label, score, day = made_up(4000)
    drawn = draw_days(DAYS, 1000, seed=3)
    shuffled = np.random.default_rng(5).permutation(day)
    by_day, by_chance = (
        interval(
            0.0,
            resampled_metrics(label, score, days, drawn, threshold=0.25, costs=COSTS)["base_rate"],
            0.9,
        )
        for days in (day, shuffled)
    )
    assert by_day is not None
    assert by_chance is not None
    assert by_day.high - by_day.low > 3 * (by_chance.high - by_chance.low)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(9)
    covered = 0
    for _ in range(200):
        rate = np.clip(random.normal(0.3, 0.08, 14), 0.02, 0.98)
        day = np.repeat(np.arange(14), 200)
        label = (random.random(day.size) < rate[day]).astype(np.float32)
        found = resampled_metrics(
            label,
            np.full(day.size, 0.3),
            day,
            draw_days(14, 200, seed=1),
            threshold=0.5,
            costs=COSTS,
            names=("base_rate",),
        )["base_rate"]
        made = interval(float(label.mean()), found, 0.9)
        assert made is not None
        covered += made.low <= 0.3 <= made.high
    # A percentile interval of 14 days is a little too narrow; far off it must not be.
    assert 0.8 <= covered / 200 <= 0.96


def test_the_difference_of_two_models_is_far_narrower_than_either() -> None:
    label, score, day = made_up(4000)
    worse = np.clip(score + np.random.default_rng(2).normal(0, 0.02, score.size), 0, 1)
    drawn = draw_days(DAYS, 1000, seed=3)
    found, samples = zip(
        *[
            (
                forecast_metrics(label, values, threshold=0.25, costs=COSTS),
                resampled_metrics(label, values, day, drawn, threshold=0.25, costs=COSTS),
            )
            for values in (score, worse)
        ],
        strict=True,
    )
    alone = intervals(found[0], samples[0], 0.9)["roc_auc"]
    paired = differences(found[0], samples[0], found[1], samples[1], 0.9)["roc_auc"]
    assert paired.value == pytest.approx(found[0]["roc_auc"] - found[1]["roc_auc"])
    assert paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)


def test_what_few_resamples_define_has_no_interval() -> None:
    label, score, day = made_up()
    label = np.where(day == 0, label, 0)
    drawn = draw_days(DAYS, 500, seed=3)
    found = forecast_metrics(label, score, threshold=0.25, costs=COSTS)
    made = intervals(found, resampled_metrics(label, score, day, drawn, threshold=0.25, costs=COSTS), 0.9)
    # A third of the resamples lack the only day with positives.
    assert "roc_auc" not in made
    assert "brier" in made


def test_the_same_seed_gives_the_same_draws() -> None:
    assert np.array_equal(draw_days(14, 50, 1), draw_days(14, 50, 1))
    assert not np.array_equal(draw_days(14, 50, 1), draw_days(14, 50, 2))
    assert (draw_days(14, 50, 1).sum(axis=1) == 14).all()


def test_rows_of_one_day_are_drawn_in_groups_as_if_one_by_one() -> None:
    random = np.random.default_rng(3)
    rows = 3000
    score = random.random(rows)
    label = random.random(rows) < score
    group = row_groups(rows, 7)
    assert (np.bincount(group) == 15).all()
    assert (group == row_groups(rows, 7)).all()
    drawn = draw_days(200, 1000, 7)
    samples = resampled_metrics(
        label, score, group, drawn, threshold=0.5, costs=COSTS, names=("brier", "roc_auc")
    )
    gap = (score - label) ** 2
    assert samples["brier"].std() == pytest.approx(gap.std() / np.sqrt(rows), rel=0.1)
    single = [roc_auc_score(label[chosen], score[chosen]) for chosen in random.integers(0, rows, (300, rows))]
    assert samples["roc_auc"].std() == pytest.approx(np.std(single), rel=0.15)


def test_a_threshold_a_row_decides_as_one_for_all() -> None:
    random = np.random.default_rng(5)
    score, day = random.random(90), np.arange(90) % 3
    label, drawn = random.random(90) < score, draw_days(3, 50, 1)
    one, each = (
        resampled_metrics(label, score, day, drawn, threshold=threshold, costs=COSTS, names=("cost",))
        for threshold in (0.4, np.where(score >= 0.4, -np.inf, np.inf))
    )
    assert (one["cost"] == each["cost"]).all()
