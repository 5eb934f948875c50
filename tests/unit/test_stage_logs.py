"""What a stage says about its night, for whoever opens the log of its task."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from nightshift import stages
from nightshift.lake.staging import stage
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)


def _publish(uc: UseCase, *days: date, value: float = 1.0) -> None:
    rows = pa.table({uc.entity: ["a", "b"], "value": [value, 2.0]})
    stages.publish_features(
        uc, [stage(uc, "features", day, rows, [uc.entity]).model_dump(mode="json") for day in days]
    )


def test_publishing_says_rows_and_whether_anything_changed(
    home: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightshift.stages")
    _publish(flight_delays, DAY)
    _publish(flight_delays, DAY)
    _publish(flight_delays, DAY, DAY + timedelta(days=1))
    _publish(flight_delays, DAY, value=3.0)
    assert caplog.messages == [
        "published features 2013-07-01: 2 rows, new version",
        "published features 2013-07-01: 2 rows, unchanged",
        "published features 2013-07-01 to 2013-07-02: 4 rows in 2 partitions, 1 with a new version",
        "published features 2013-07-01: 2 rows, new version",
    ]


@pytest.fixture
def quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds it four seconds on, and a day finds no drift."""
    seconds = count(0.0, 4.0)
    monkeypatch.setattr(stages, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr("nightshift.monitoring.drift.check_through", lambda uc, day, deployed: [])


@pytest.mark.usefixtures("quick")
def test_a_long_range_says_how_far_it_is(flight_delays: UseCase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nightshift.stages")
    stages.check_drift_quietly(flight_delays, DAY, DAY + timedelta(days=7))
    assert caplog.messages == [
        "compared 2 of 8 nights, about 36 s to go",
        "compared 5 of 8 nights, about 14 s to go",
    ]


@pytest.mark.usefixtures("quick")
def test_a_single_night_says_nothing_of_that(
    flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightshift.stages")
    stages.check_drift_quietly(flight_delays, DAY, DAY)
    assert caplog.messages == []
