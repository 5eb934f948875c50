"""A partition's content is found in whichever version of the table still holds it, or said to be gone."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest
from tests.lakes import on_both_storages

from nightshift.lake import contents, tables
from nightshift.lake.contents import Located
from nightshift.usecase import UseCase

storage = on_both_storages

FIRST = date(2013, 3, 1)
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)


def _publish(uc: UseCase, day: date, value: float) -> str:
    rows = pa.table({uc.entity: [f"{day}-a", f"{day}-b"], "value": [value, value + 1]})
    return tables.replace_partition(uc, "features", day, rows, [uc.entity]).content_hash


def _values(uc: UseCase, located: Located) -> list[float]:
    values: list[float] = contents.read(uc, "features", located)["value"].to_pylist()
    return values


@pytest.fixture
def wanted(home: object, flight_delays: UseCase) -> dict[date, str]:
    """The contents of three days, two of which were since replaced, one of them back and forth."""
    old = {day: _publish(flight_delays, day, float(day.day)) for day in (FIRST, SECOND, THIRD)}
    _publish(flight_delays, SECOND, 20.0)
    _publish(flight_delays, THIRD, 30.0)
    _publish(flight_delays, THIRD, float(THIRD.day))
    return old


def test_replaced_content_is_read_beside_what_still_stands(
    flight_delays: UseCase, wanted: dict[date, str]
) -> None:
    newest = tables.partition_versions(flight_delays, "features")[FIRST].table_version
    located = contents.locate(flight_delays, "features", wanted, hint=newest - 3)
    assert located.gone == ()
    assert located.versions == {FIRST: newest, SECOND: newest - 3, THIRD: newest}
    assert _values(flight_delays, located) == [1.0, 2.0, 2.0, 3.0, 3.0, 4.0]
    # A wrong hint costs time, nothing else.
    again = contents.locate(flight_delays, "features", wanted, hint=999)
    assert _values(flight_delays, again) == _values(flight_delays, located)


def test_what_retention_removed_is_gone(flight_delays: UseCase, wanted: dict[date, str]) -> None:
    assert tables.vacuum(flight_delays, "features", retention_days=0)
    located = contents.locate(flight_delays, "features", wanted, hint=3)
    assert located.gone == (SECOND,)
    assert _values(flight_delays, located) == [1.0, 2.0, 3.0, 4.0]
    assert contents.locate(flight_delays, "labels", wanted, hint=0).gone == (FIRST, SECOND, THIRD)
