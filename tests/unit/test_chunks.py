"""How a range is cut: nothing lost, nothing twice, pieces that are worth a task, labels with their night."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from nightshift import nights
from nightshift.partition import chunks, days
from nightshift.settings import settings
from nightshift.usecase import UseCase

START = date(2013, 1, 1)


@pytest.mark.parametrize("parallel", [1, 2, 4, 16, 64])
def test_chunks_are_the_range_in_stretches_of_a_week_to_a_month(parallel: int) -> None:
    for length in range(1, 400):
        end = START + timedelta(days=length - 1)
        cut = chunks(START, end, parallel)
        assert [cut[0][0], cut[-1][1]] == [START, end]
        assert all(before[1] + timedelta(days=1) == after[0] for before, after in pairwise(cut))
        lengths = [(last - first).days + 1 for first, last in cut]
        assert max(lengths) <= 31
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 7 or len(cut) == 1


@pytest.mark.parametrize(
    ("length", "parallel", "number"),
    [(1, 4, 1), (13, 4, 1), (14, 4, 2), (28, 4, 4), (60, 4, 4), (60, 16, 8), (365, 4, 12), (365, 16, 16)],
)
def test_a_range_has_as_many_chunks_as_workers_can_share(length: int, parallel: int, number: int) -> None:
    assert len(chunks(START, START + timedelta(days=length - 1), parallel)) == number


def test_labels_are_in_the_chunk_of_the_night_that_knew_them_first(
    flight_delays: UseCase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PARALLELISM", "2")
    settings.cache_clear()
    end = START + timedelta(days=20)
    staged = [{"layer": "features", "partition": f"{day}"} for day in days(START, end)]
    # A build also brings labels of days before its range.
    labels = days(START - timedelta(days=3), end - timedelta(days=1))
    staged += [{"layer": "labels", "partition": f"{day}"} for day in labels]
    first, second = nights.cut(flight_delays, staged, START, end)
    found = [[(item["layer"], item["partition"]) for item in chunk] for chunk in (first, second)]
    assert sorted(found[0] + found[1]) == sorted((item["layer"], item["partition"]) for item in staged)
    assert ("features", "2013-01-10") in found[0]
    assert ("features", "2013-01-11") in found[1]
    # The truth of a day is known on the next one.
    assert ("labels", "2013-01-10") in found[1]
    assert ("labels", "2012-12-29") in found[0]


def test_a_chunk_of_which_nothing_was_built_is_no_chunk(
    flight_delays: UseCase, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PARALLELISM", "2")
    settings.cache_clear()
    staged = [{"layer": "features", "partition": f"{START + timedelta(days=20)}"}]
    assert nights.cut(flight_delays, staged, START, START + timedelta(days=20)) == [staged]
