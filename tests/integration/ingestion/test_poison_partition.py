"""One bad day in a range of a hundred good ones costs that day, and whatever looks back on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.faults import RecordFault
from tests.mutations import Given, orders
from tests.stacks import contents

from nightshift import nights
from nightshift.errors import DataError, TransientError
from nightshift.features.build import require_raw
from nightshift.lake import raw
from nightshift.partition import days
from nightshift.settings import settings
from nightshift.usecase import UseCase

POISONS: dict[str, Callable[[date], pa.Table]] = {
    "another number of columns": lambda day: orders(day).drop_columns("paid"),
    "no rows": lambda day: orders(day, 0),
    "all rows out of range": lambda day: orders(day).set_column(3, "pieces", pa.array([-1] * 24)),
}


@pytest.mark.parametrize("poison", POISONS)
def test_of_101_days_a_hundred_land_and_the_bad_one_is_named(
    home: Path,
    orders_use_case: UseCase,
    move_to: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    record_fault: RecordFault,
    poison: str,
) -> None:
    uc = orders_use_case
    first, last = uc.history_start, uc.history_start + timedelta(days=100)
    bad = first + timedelta(days=40)
    good = {("orders", day): orders(day) for day in days(first, last)}
    good |= {("shops", day): pa.table({"shop": ["a", "b"]}) for day in days(first, last)}

    monkeypatch.setattr(Given, "tables", good)
    move_to("undisturbed")
    nights.land_range(uc, first, last)
    undisturbed = contents(uc)
    assert len(undisturbed["raw orders"]) == 101

    monkeypatch.setattr(Given, "tables", good | {("orders", bad): POISONS[poison](bad)})
    move_to("poisoned")
    with pytest.raises(DataError, match=f"shop.orders of {bad}") as refused:
        nights.land_range(uc, first, last)
    assert str(refused.value).count("shop.orders of ") == 2, "in the message and the place, and no other day"
    assert f"land {bad} again" in refused.value.cure
    landed = raw.current_many(uc, "shop", "orders")
    assert set(days(first, last)) - set(landed) == {bad}

    looking_back = [day for day in days(first, last) if bad <= day <= bad + timedelta(days=7)]
    for day in days(first, last):
        if day in looking_back:
            with pytest.raises(TransientError, match=f"orders: {bad}"):
                require_raw(uc, day, day)
        else:
            require_raw(uc, day, day)

    monkeypatch.setattr(Given, "tables", good)
    nights.land_range(uc, bad, bad)
    assert contents(uc) == undisturbed
    record_fault(
        f"data: {poison} on one day of 101",
        f"the range was landed as a bootstrap lands it, on {settings().lake_uri.partition(':')[0]}",
        f"100 days landed, the error named the day and its cure; the {len(looking_back)} days that look back "
        "on it waited; landed again, the day was there",
    )
