"""What connectors captured lands like the rows of any source: as the night knew it, whenever it is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from shop import DAY, ORDERS, place, shop, there

from nightshift.errors import TransientError
from nightshift.ingestion.land import land_partitions
from nightshift.lake import raw
from nightshift.settings import settings
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

SUITE = {
    "name": "raw_orders",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0},
            "meta": {"rule": "amount", "severity": "quarantine", "reason": "Nobody is paid for an order."},
        }
    ],
    "meta": {"quarantine_at_most": 0.9},
}

Land = Callable[[UseCase, datetime], raw.RawManifest]


@pytest.fixture
def land(database: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Land:
    """Land the orders of the day, as of a moment."""
    database.execute(ORDERS)
    folder = tmp_path / "project" / "expectations" / "toy"
    folder.mkdir(parents=True)
    (folder / "raw_orders.json").write_text(json.dumps(SUITE))

    def landed(uc: UseCase, as_of: datetime) -> raw.RawManifest:
        with monkeypatch.context() as patch:
            patch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
            settings.cache_clear()
            (manifest,) = land_partitions(uc, "shop", "orders", {DAY: as_of})
        settings.cache_clear()
        return manifest

    return landed


@pytest.mark.parametrize("capture", ["watermark", "cdc"])
def test_a_day_lands_as_the_night_knew_it_and_is_corrected_by_the_next(
    database: psycopg.Connection, land: Land, capture: str
) -> None:
    uc = shop(capture)
    place(database, 1)
    place(database, 2, amount=-1)
    first = land(uc, database_time(database))
    assert (first.rows_accepted, first.rows_quarantined) == (1, 1)
    night = database_time(database)
    place(database, 1, state="sent")
    place(database, 3)
    again = land(uc, night)
    assert (again.version, again.content_hash) == (first.version, first.content_hash)
    later = land(uc, database_time(database) + timedelta(days=1))
    assert later.version == first.version + 1
    assert later.rows_accepted == 2
    rows = raw.read(later).sort_by("order_id").to_pylist()
    assert [tuple(row.values()) for row in rows] == [row for row in there(database) if row[3] > 0]
    assert land(uc, night).content_hash == first.content_hash
    assert raw.current(uc, "shop", "orders", DAY) == later, "an older night changes nothing"


def test_a_night_run_again_does_not_know_what_the_database_showed_late(
    database: psycopg.Connection, land: Land
) -> None:
    uc = shop("watermark")
    place(database, 1)
    with psycopg.connect(database.info.dsn, password=database.info.password) as slow:
        place(slow, 2)  # its updated_at is now, its commit after the night
        night = database_time(database)
        first = land(uc, night)
        assert first.rows_accepted == 1
    place(database, 3)
    later = land(uc, database_time(database) + timedelta(days=1))
    assert later.rows_accepted == 3
    assert land(uc, night).content_hash == first.content_hash


def test_what_is_captured_between_two_nights_takes_nothing_from_the_next(
    database: psycopg.Connection, land: Land
) -> None:
    uc = shop("watermark")
    place(database, 1)
    with psycopg.connect(database.info.dsn, password=database.info.password) as report:
        report.execute("select 1")
        place(database, 2)
        night = database_time(database)
        assert open_connector(uc, "shop").capture("orders") == 1, "the open report holds the other back"
    assert land(uc, night).rows_accepted == 2


def test_a_night_of_long_ago_may_be_told_more_of(database: psycopg.Connection, land: Land) -> None:
    uc = shop("watermark")
    night = database_time(database) - timedelta(days=30)
    place(database, 1)
    database.execute("update orders set updated_at = %s", [night - timedelta(days=1)])
    assert land(uc, night).rows_accepted == 1
    place(database, 2)
    # The row of another system, brought over with its own times.
    database.execute("update orders set updated_at = %s where order_id = 2", [night - timedelta(hours=1)])
    assert land(uc, night).rows_accepted == 2


def test_a_night_that_has_been_landed_needs_no_database_to_land_again(
    database: psycopg.Connection, land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = shop("cdc")
    place(database, 1)
    night = database_time(database)
    first = land(uc, night)
    monkeypatch.setenv("NIGHTSHIFT_SOURCE_SHOP", "postgresql://reader@127.0.0.1:1/shop")
    assert land(uc, night) == first
    with pytest.raises(TransientError, match="shop: the database said"):
        land(uc, night + timedelta(days=1))


def database_time(database: psycopg.Connection) -> datetime:
    row = database.execute("select clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def test_a_day_on_which_nothing_happened_lands_without_rows(database: psycopg.Connection, land: Land) -> None:
    place(database, 1, date(2024, 3, 2))
    assert land(shop("cdc"), database_time(database)).rows_accepted == 0
