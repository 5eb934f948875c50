"""A table of a database in use, read by watermark while others write."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import psycopg
import pytest
from shop import DAY, ORDERS, capture, place, read, shop, there

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.settings import source_address


@pytest.fixture(autouse=True)
def orders(database: psycopg.Connection) -> psycopg.Connection:
    database.execute(ORDERS)
    return database


def test_what_the_database_has_is_read_in_pages(orders: psycopg.Connection) -> None:
    uc = shop("watermark", {"batch_rows": 3})
    for number in range(10):
        place(orders, number, DAY + timedelta(days=number % 2), paid=number % 3 == 0, state=None)
    place(orders, 10, state="it's \\ {odd}, \n", amount=0.1 + 0.2, paid=None)
    assert capture(uc) == 11
    for day in (DAY, DAY + timedelta(days=1)):
        assert read(uc, day) == there(orders, day) != []
    assert capture(uc) == 0, "nothing is read twice"
    assert len(journal.batches(uc, "shop", "orders")) == 4


def test_a_changed_row_is_read_again_and_what_it_was_before_is_still_known(
    orders: psycopg.Connection,
) -> None:
    uc = shop("watermark")
    place(orders, 1)
    before = there(orders)
    capture(uc)
    place(orders, 1, state="sent")
    assert capture(uc) == 1
    assert read(uc) == there(orders) != before
    changed_at = there(orders)[0][-1]
    assert read(uc, as_of=changed_at - timedelta(microseconds=1)) == before


def test_rows_of_a_transaction_that_commits_late_are_not_passed_over(
    server: str, orders: psycopg.Connection
) -> None:
    uc = shop("watermark")
    with psycopg.connect(orders.info.dsn, password=orders.info.password) as slow:
        place(slow, 1)  # its updated_at is now, its commit later
        place(orders, 2)
        assert capture(uc) == 0
    assert capture(uc) == 2
    assert read(uc) == there(orders)


def test_no_row_is_lost_or_read_twice_while_many_write(orders: psycopg.Connection) -> None:
    uc = shop("watermark", {"batch_rows": 7}, skew_seconds=0.2)
    ended = Event()

    def write(writer: int) -> int:
        chance = random.Random(writer)
        written = 0
        with psycopg.connect(orders.info.dsn, password=orders.info.password) as connection:
            for _ in range(150):
                for _ in range(chance.randint(1, 4)):
                    place(connection, writer * 1000 + chance.randint(1, 40), state=str(chance.random()))
                    ended.wait(chance.random() / 200)
                connection.commit()
                written += 1
        return written

    def keep_reading() -> None:
        while not ended.is_set():
            capture(uc)

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(keep_reading) for _ in range(2)]
        try:
            assert sum(threads.map(write, range(4))) == 600
        finally:
            ended.set()
        for reader in readers:
            reader.result()
    ended.clear()
    ended.wait(0.2)  # the clocks may be so far apart
    capture(uc)
    assert read(uc) == there(orders)
    changes, _ = journal.changes_of(uc, "shop", "orders", DAY)
    states = list(zip(changes["order_id"].to_pylist(), changes["updated_at"].to_pylist(), strict=True))
    assert len(set(states)) == len(states), "a state of a row was read twice"


def test_columns_that_are_not_those_of_the_catalogue_stop_it_with_a_diff(orders: psycopg.Connection) -> None:
    uc = shop("watermark")
    place(orders, 1)
    orders.execute("alter table orders rename column state to status")
    with pytest.raises(DataError) as error:
        capture(uc)
    assert "- state (in the catalogue, not in public.orders)" in error.value.message
    assert "+ status (in public.orders, not in the catalogue)" in error.value.message
    assert journal.last(uc, "shop", "orders") is None
    orders.execute("alter table orders rename column status to state")
    orders.execute("alter table orders add column note text")
    with pytest.raises(DataError, match="note"):
        capture(uc)
    assert capture(shop("watermark", ignore=["note"])) == 1


def test_values_that_the_catalogue_has_no_place_for_stop_it(orders: psycopg.Connection) -> None:
    orders.execute("alter table orders alter column amount type text")
    place(orders, 1, amount="12")
    place(orders, 2, amount="twelve")
    with pytest.raises(DataError, match=r"~ amount is string, not float64.*twelve"):
        capture(shop("watermark"))
    place(orders, 2, amount="12")
    assert capture(shop("watermark")) == 2


def test_rows_that_a_watermark_cannot_find_are_refused(orders: psycopg.Connection) -> None:
    orders.execute("alter table orders alter column updated_at drop not null")
    place(orders, 1)
    orders.execute("update orders set updated_at = null")
    with pytest.raises(DataError, match=r"1 rows of public\.orders have no updated_at"):
        capture(shop("watermark"))


@pytest.mark.parametrize("kind", ["timestamp", "date", "text"])
def test_a_watermark_without_a_time_zone_is_refused(orders: psycopg.Connection, kind: str) -> None:
    orders.execute(f"alter table orders alter updated_at type {kind}")
    with pytest.raises(DataError, match=r"updated_at is (timestamp without time zone|date|text) in"):
        capture(shop("watermark"))


def test_a_session_that_hides_what_it_does_is_not_passed(orders: psycopg.Connection) -> None:
    dsn = orders.info.dsn
    with psycopg.connect(dsn) as hidden:
        hidden.execute("set track_activities = off")
        place(hidden, 1)
        place(orders, 2)
        with pytest.raises(DataError, match="may not see when the transactions of 1 sessions began"):
            capture(shop("watermark"))


def test_an_address_that_cannot_be_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("postgresql//reader:hidden@host/shop", "postgresql://reader:hid den@host/shop"):
        monkeypatch.setenv("NIGHTSHIFT_SOURCE_SHOP", address)  # pragma: allowlist secret
        with pytest.raises(DataError) as error:
            capture(shop("watermark"))
        assert "hid" not in str(error.value)


def test_a_role_that_may_not_see_what_runs_is_refused(
    server: str, orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.execute("drop role if exists blind")
    orders.execute("create role blind login")
    orders.execute("grant select on orders to blind")
    try:
        address = psycopg.conninfo.make_conninfo(source_address("shop"), user="blind")
        monkeypatch.setenv("NIGHTSHIFT_SOURCE_SHOP", address)
        with pytest.raises(DataError) as error:
            capture(shop("watermark"))
        assert "pg_read_all_stats" in error.value.cure
        orders.execute("revoke select on orders from blind")
        orders.execute("grant pg_read_all_stats to blind")
        with pytest.raises(DataError, match="permission denied for table orders"):
            capture(shop("watermark"))
    finally:
        orders.execute("drop owned by blind")
        orders.execute("drop role blind")


def test_a_database_that_does_not_answer_is_bad_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://reader:hidden@127.0.0.1:1/shop"  # pragma: allowlist secret
    monkeypatch.setenv("NIGHTSHIFT_SOURCE_SHOP", address)
    with pytest.raises(TransientError) as error:
        capture(shop("watermark"))
    assert "hidden" not in str(error.value)
    monkeypatch.delenv("NIGHTSHIFT_SOURCE_SHOP")
    with pytest.raises(DataError, match="nothing says where the source 'shop' is"):
        capture(shop("watermark"))
