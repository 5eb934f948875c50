"""Nights that stopped halfway are sent again, but not without end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from nightshift.monitoring.gaps import claim
from nightshift.usecase import UseCase

NIGHTS = [date(2013, 7, 1), date(2013, 7, 2)]
NOW = datetime(2013, 7, 3, 6, tzinfo=UTC)


def test_a_night_is_sent_again_three_times_a_day_and_each_day_anew(
    home: Path, flight_delays: UseCase
) -> None:
    assert claim(flight_delays, "raw", NIGHTS[:1], now=NOW) == NIGHTS[:1]
    assert [claim(flight_delays, "raw", NIGHTS, now=NOW) for _ in range(3)] == [NIGHTS, NIGHTS, NIGHTS[1:]]
    assert claim(flight_delays, "raw", NIGHTS, now=NOW) == []
    assert claim(flight_delays, "features", NIGHTS, now=NOW) == NIGHTS, "another asset counts by itself"
    # What was sent while its consumer was paused is lost: a day later the night is tried again.
    assert claim(flight_delays, "raw", NIGHTS, now=NOW + timedelta(days=1)) == NIGHTS
