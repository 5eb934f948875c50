"""Which night the first page is about, when it is late, and which days the calendar misses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests import synthetic
from tests.deployed import FIRST, deploy

from nightshift.console import partitions, tonight
from nightshift.errors import DataError
from nightshift.lake import raw, tables
from nightshift.lake.append_log import append
from nightshift.monitoring.alerting import raise_alert
from nightshift.registry import states
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2020, 3, 2)
NOW = datetime.now(UTC)
LATER = NOW + 2 * tonight.GRACE


@pytest.fixture
def uc(home: Path) -> UseCase:
    """Two daily tables: plans are known on their day, results a day later."""
    columns = {"id": {"type": "string", "description": "Identifies the row."}}
    table = {"description": "Rows.", "key": ["id"], "refresh": "daily", "columns": columns}
    shop = {
        "connector": "shop:Shop",
        "description": "A shop.",
        "owner": "tests",
        "access": "none",
        "sla": "none",
        "tables": {"plans": table, "results": table | {"lag_days": 1}},
    }
    return synthetic.use_case(sources={"shop": shop})


def land(uc: UseCase, night: date, quarantined: int = 0) -> None:
    """Land what a night makes known: plans of its day, results of the day before."""
    for name, day in (("plans", night), ("results", night - timedelta(days=1))):
        rows = pa.table({"id": [f"{number}" for number in range(10)]})
        raw.land(
            uc,
            "shop",
            name,
            day,
            rows,
            rows_in=10 + quarantined,
            rows_quarantined=quarantined,
            as_of=uc.as_of(night),
            query="all",
        )


def score(uc: UseCase, night: date) -> None:
    rows = pa.table({uc.entity: [f"{number}" for number in range(10)], "score": [0.5] * 10})
    tables.replace_partition(uc, "predictions", night, rows, [uc.entity])


def test_a_night_that_has_just_landed_is_on_its_way_and_not_wrong(uc: UseCase) -> None:
    land(uc, DAY)
    score(uc, DAY)
    land(uc, DAY + timedelta(days=1), quarantined=2)
    running = tonight.last_night(uc, NOW)
    assert (running.night, running.on_its_way) == (DAY, DAY + timedelta(days=1))
    assert running.predictions == 10
    assert "there are no predictions" not in [signal.text for signal in running.signals]
    # After the time that a night takes, it is one that stopped.
    stopped = tonight.last_night(uc, LATER)
    assert (stopped.night, stopped.on_its_way, stopped.level) == (DAY + timedelta(days=1), None, "act")
    assert "there are no predictions" in [signal.text for signal in stopped.signals]
    assert stopped.rows == tonight.Rows(
        rows_in=24, accepted=20, quarantined=4, aside=(DAY, DAY + timedelta(days=1))
    )


def test_before_the_first_night_is_scored_nothing_is_wrong(uc: UseCase) -> None:
    assert "trigger the DAG bootstrap" in tonight.last_night(uc, NOW).sentence
    rows = pa.table({uc.entity: ["1"], "value": [0.5]})
    tables.replace_partition(uc, "features", DAY, rows, [uc.entity])
    built = tonight.last_night(uc, LATER)
    assert (built.night, built.level) == (None, "quiet")
    assert "no model is in production yet" in built.sentence
    deploy(uc, {"usecase": uc.name, "effective_from": f"{DAY + timedelta(days=1)}"})
    ready = tonight.last_night(uc, LATER)
    assert (ready.night, ready.level) == (None, "quiet")
    assert f"ingest {DAY + timedelta(days=1)}" in ready.sentence
    land(uc, DAY + timedelta(days=1))
    running = tonight.last_night(uc, NOW)
    assert (running.night, running.on_its_way) == (None, DAY + timedelta(days=1))
    # After the time that a night takes, it is one that stopped.
    stopped = tonight.last_night(uc, LATER)
    assert (stopped.night, stopped.level) == (DAY + timedelta(days=1), "act")


def test_a_newer_night_that_failed_before_it_landed_asks_for_somebody(uc: UseCase) -> None:
    land(uc, DAY)
    score(uc, DAY)
    tomorrow = DAY + timedelta(days=1)
    told = f"{uc.name}.ingest failed, partition {tomorrow} (run backfill__{tomorrow}T04)"
    raise_alert(uc.name, "run_failed", f"ingest {tomorrow}", told)
    raise_alert(uc.name, "run_failed", f"ingest {DAY - timedelta(days=1)}", "an earlier night failed")
    raise_alert(uc.name, "run_failed", "watch", "the watch failed (run manual__2001-01-01T00)")
    found = tonight.last_night(uc, NOW)
    assert found.level == "act"
    assert [alert.message for alert in found.alerts] == [told, "the watch failed (run manual__2001-01-01T00)"]


def test_a_challenger_that_waits_for_a_person_asks_for_somebody(uc: UseCase) -> None:
    land(uc, DAY)
    score(uc, DAY)
    step = {
        name: value for name, value in FIRST.items() if name not in ("previous_version", "effective_from")
    }
    for action in ("register", "challenge"):
        append(states.log_name(uc), step | {"usecase": uc.name, "version": "7", "action": action})
    found = tonight.last_night(uc, NOW)
    assert found.awaiting == ("7",)
    assert "a decision about version 7 is asked for" in [
        signal.text for signal in found.signals if signal.level == "watch"
    ]


def test_a_live_night_past_its_sla_is_late(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    land(uc, DAY)
    score(uc, DAY)
    monkeypatch.setenv("NIGHTSHIFT_LIVE_FROM", f"{DAY}")
    settings.cache_clear()
    due = uc.as_of(DAY + timedelta(days=1)) + timedelta(minutes=uc.schedule.sla_minutes)
    in_time = tonight.last_night(uc, due - timedelta(minutes=1))
    assert in_time.freshness is not None
    assert (in_time.freshness.expected, in_time.freshness.due_at) == (DAY + timedelta(days=1), due)
    assert not in_time.freshness.late
    late = tonight.last_night(uc, due + timedelta(minutes=1))
    assert late.freshness is not None
    assert late.freshness.late
    assert late.level == "act"
    assert any(signal.about == "freshness" for signal in late.signals)


def shown_states(uc: UseCase, start: date, end: date) -> list[str]:
    return [day.state for day in partitions.calendar(uc, start, end).layers["raw"]]


def test_what_a_later_night_brings_is_not_missing_yet(uc: UseCase) -> None:
    for number in range(3):
        land(uc, DAY + timedelta(days=number))
    newest = DAY + timedelta(days=2)
    assert shown_states(uc, DAY, newest + timedelta(days=1)) == ["present", "present", "present", "missing"]
    # Results of the day before the first night are there, its plans are not.
    (before,) = partitions.calendar(uc, DAY - timedelta(days=1), DAY - timedelta(days=1)).layers["raw"]
    assert (before.state, before.because) == ("missing", "not landed: shop.plans")


def test_what_never_landed_is_missing_in_a_window_that_ends_there(uc: UseCase) -> None:
    for number in (0, 1, 3):
        land(uc, DAY + timedelta(days=number))
    (last,) = partitions.calendar(uc, DAY + timedelta(days=1), DAY + timedelta(days=1)).layers["raw"]
    assert (last.state, last.because) == ("missing", "not landed: shop.results")


def test_a_day_with_rows_put_aside_says_how_many(uc: UseCase) -> None:
    land(uc, DAY)
    land(uc, DAY + timedelta(days=1), quarantined=3)
    days = partitions.calendar(uc, DAY, DAY + timedelta(days=1)).layers["raw"]
    assert [(day.state, day.quarantined) for day in days] == [("quarantined", 3), ("quarantined", 3)]


def test_a_calendar_that_ends_before_it_starts_is_refused(uc: UseCase) -> None:
    with pytest.raises(DataError, match="cannot be shown at once"):
        partitions.calendar(uc, DAY, DAY - timedelta(days=1))
