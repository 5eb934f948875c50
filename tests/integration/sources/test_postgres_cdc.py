"""A table of a database in use, read change by change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest
from shop import DAY, ORDERS, capture, place, read, shop, there
from tests.lakes import environment

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.usecase import UseCase

TOMORROW = DAY + timedelta(days=1)


@pytest.fixture(autouse=True)
def orders(database: psycopg.Connection) -> psycopg.Connection:
    database.execute(ORDERS)
    return database


def slot(orders: psycopg.Connection) -> str:
    """Return how far the only slot of the database was read."""
    ((place,),) = orders.execute(
        "select confirmed_flush_lsn from pg_replication_slots where database = 'shop'"
    ).fetchall()
    return str(place)


def assert_captured(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    for day in (DAY, TOMORROW):
        assert read(uc, day) == there(orders, day)


def capture_and_die(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture, and end when the first batch is written and the slot is not moved yet."""
    append = journal.append

    def killed(*arguments: Any, **options: Any) -> None:
        append(*arguments, **options)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", killed)
        with pytest.raises(ZeroDivisionError):
            capture(uc)


def test_first_a_copy_then_every_change(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    for number in range(5):
        place(orders, number, state=None, paid=number % 2 == 0)
    assert capture(uc) == 5
    assert_captured(orders)
    place(orders, 5, state="it's \\ {odd}, \n", amount=0.1 + 0.2, paid=None)
    place(orders, 0, state="sent")
    orders.execute("delete from orders where order_id = 1")
    assert capture(uc) == 3
    assert_captured(orders)
    assert capture(uc) == 0
    assert [row[2] for row in there(orders)] == ["sent", None, None, None, "it's \\ {odd}, \n"]


def test_what_was_copied_is_known_to_earlier_nights_and_later_changes_are_not(
    orders: psycopg.Connection,
) -> None:
    uc = shop("cdc")
    place(orders, 1)
    before = there(orders)
    capture(uc)
    place(orders, 1, state="sent")
    capture(uc)
    assert read(uc, as_of=uc.as_of(TOMORROW)) == before
    assert read(uc) == there(orders) != before


def test_a_row_that_moves_to_another_day_leaves_the_old_one(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    place(orders, 1)
    place(orders, 2)
    capture(uc)
    place(orders, 1, TOMORROW)
    orders.execute("update orders set order_id = 3 where order_id = 2")
    capture(uc)
    assert_captured(orders)
    assert [row[0] for row in there(orders)] == [3]


def test_an_emptied_table_is_empty(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    place(orders, 1)
    place(orders, 2, TOMORROW)
    capture(uc)
    place(orders, 3)
    with orders.transaction():
        place(orders, 4)
        orders.execute("truncate orders")
        place(orders, 5)
    capture(uc)
    assert_captured(orders)
    assert [row[0] for row in there(orders)] == [5]


def test_a_transaction_that_is_rolled_back_never_was(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    capture(uc)
    with orders.transaction(force_rollback=True):
        place(orders, 1)
    assert capture(uc) == 0
    assert read(uc) == []


def test_a_long_value_that_is_not_sent_again_is_kept(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    orders.execute("alter table orders alter column state set storage external")
    place(orders, 1, state="long" * 5000)
    capture(uc)
    orders.execute("update orders set amount = 1 where order_id = 1")
    capture(uc)
    assert_captured(orders)


def test_transactions_of_other_tables_hold_nothing_up(orders: psycopg.Connection) -> None:
    uc = shop("cdc", {"batch_rows": 2})
    orders.execute("create table visits (visit int primary key)")
    orders.execute("alter publication nightshift add table visits")
    capture(uc)
    for number in range(10):
        orders.execute("insert into visits values (%s)", [number])
    place(orders, 1)
    capture(uc)
    assert_captured(orders)


def test_a_server_does_not_keep_its_log_for_a_table_that_rests(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    capture(uc)
    before = slot(orders)
    orders.execute("create table bulk as select repeat('x', 1000) from generate_series(1, 20000)")
    capture(uc)
    assert slot(orders) > before


def test_a_slot_that_is_gone_is_an_error_and_no_new_copy(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    place(orders, 1)
    capture(uc)
    ((name,),) = orders.execute(
        "select slot_name from pg_replication_slots where database = 'shop'"
    ).fetchall()
    orders.execute("select pg_drop_replication_slot(%s)", [name])
    place(orders, 2)
    for _ in range(2):
        with pytest.raises(DataError, match=f"the replication slot {name} is gone"):
            capture(uc)
    orders.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    with pytest.raises(DataError, match="and the journal ends at"):
        capture(uc)
    assert [row[0] for row in read(uc)] == [1]


def test_a_killed_first_copy_is_made_again(
    orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = shop("cdc")
    place(orders, 1)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            capture(uc)
    place(orders, 2)
    capture(uc)
    assert_captured(orders)
    assert slot(orders), "the slot of the one that failed is gone"


def test_of_two_that_begin_at_once_one_does(
    orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = shop("cdc")
    place(orders, 1)
    append = journal.append

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(journal, "append", append)
        capture(uc)
        place(orders, 2)
        return append(*arguments, **options)

    monkeypatch.setattr(journal, "append", overtaken)
    with pytest.raises(TransientError, match="another process has begun the journal"):
        capture(uc)
    place(orders, 3)
    capture(uc)
    assert_captured(orders)
    assert slot(orders), "the slot of the one that came second is gone"


def test_another_lake_that_reads_the_table_takes_nothing_away(
    orders: psycopg.Connection, tmp_path: Path
) -> None:
    uc = shop("cdc")
    place(orders, 1)
    capture(uc)
    place(orders, 2)
    with environment(tmp_path / "another"):
        assert capture(uc) == 2
        assert_captured(orders)
    assert capture(uc) == 1
    assert_captured(orders)


def test_what_was_written_before_the_slot_was_moved_counts_once(
    orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = shop("cdc")
    capture(uc)
    place(orders, 1)
    capture_and_die(uc, monkeypatch)
    place(orders, 1, state="sent")
    assert capture(uc) == 1
    assert_captured(orders)


def test_a_backlog_is_read_to_its_end_after_a_kill(
    orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = shop("cdc", {"batch_rows": 5})
    capture(uc)
    for number in range(20):
        place(orders, number)
    capture_and_die(uc, monkeypatch)
    orders.execute("create table bulk as select repeat('x', 1000) from generate_series(1, 20000)")
    capture(uc)
    assert_captured(orders)


@pytest.mark.parametrize(
    "change",
    [
        "alter publication nightshift drop table orders",
        "drop publication nightshift",
        "drop publication nightshift; create publication nightshift for table orders",
        "alter table orders rename to old; create table orders (like old including all);"
        " grant select on orders to reader; alter table orders replica identity full;"
        " alter publication nightshift add table orders",
    ],
)
def test_a_table_that_is_published_no_more_or_anew_is_an_error(
    orders: psycopg.Connection, change: str
) -> None:
    uc = shop("cdc")
    place(orders, 1)
    capture(uc)
    orders.execute(change)
    place(orders, 2)
    with pytest.raises(DataError, match=r"does not have every change|was made anew"):
        capture(uc)


def test_a_journal_goes_on_as_it_began(orders: psycopg.Connection) -> None:
    capture(shop("cdc"))
    with pytest.raises(DataError, match="orders was not captured by watermark so far"):
        capture(shop("watermark"))


def test_one_capture_ends_while_others_write_on(orders: psycopg.Connection) -> None:
    ended = Event()

    def keep_writing() -> None:
        number = 0
        with psycopg.connect(orders.info.dsn, autocommit=True) as connection:
            while not ended.is_set():
                number += 1
                place(connection, number)

    with ThreadPoolExecutor(2) as threads:
        writer = threads.submit(keep_writing)
        try:
            for how in ("cdc", "watermark"):
                uc = shop(how, {"batch_rows": 50}).model_copy(update={"name": how})
                threads.submit(capture, uc).result(timeout=60)
        finally:
            ended.set()
        writer.result()


def test_a_partition_that_does_not_log_whole_rows_is_refused(orders: psycopg.Connection) -> None:
    orders.execute("drop table orders")
    orders.execute(
        ORDERS.replace("bigint primary key", "bigint")
        .replace(");", ") partition by hash (order_id);", 1)
        .replace("create publication nightshift for table orders;", "")
    )
    orders.execute("create table part partition of orders for values with (modulus 1, remainder 0)")
    orders.execute("alter table orders add primary key (order_id)")
    orders.execute("drop publication nightshift")
    orders.execute("create publication nightshift for table orders with (publish_via_partition_root = true)")
    uc = shop("cdc")
    place(orders, 1)
    with pytest.raises(DataError, match="part does not log whole rows"):
        capture(uc)
    orders.execute("alter table part replica identity full")
    capture(uc)
    orders.execute("alter table part replica identity default")
    orders.execute("delete from orders")
    orders.execute("alter table part replica identity full")
    with pytest.raises(DataError, match="orders does not log whole rows"):
        capture(uc)


def test_an_emptied_table_is_empty_where_a_key_is_on_two_days(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    orders.execute("alter table orders drop constraint orders_pkey, add primary key (order_id, placed_on)")
    insert = "insert into orders values (1, %s, 'new', 1, true, now())"
    for day in (DAY, TOMORROW):
        orders.execute(insert, [day])
    capture(uc)
    orders.execute("truncate orders")
    capture(uc)
    assert_captured(orders)


def test_rows_that_change_places_are_both_there(orders: psycopg.Connection) -> None:
    uc = shop("cdc")
    orders.execute("alter table orders drop constraint orders_pkey, add primary key (order_id) deferrable")
    place_plain = "insert into orders values (%s, %s, %s, 1, true, now())"
    for number in (1, 2):
        orders.execute(place_plain, [number, DAY, f"of {number}"])
    capture(uc)
    orders.execute("update orders set order_id = 3 - order_id")
    capture(uc)
    assert_captured(orders)
    assert [row[2] for row in read(uc)] == ["of 2", "of 1"]


@pytest.mark.parametrize(
    ("setup", "message", "cure"),
    [
        ("drop publication nightshift", "does not have every change", "create publication nightshift"),
        ("alter publication nightshift set (publish = 'insert')", "does not have every change", "create"),
        ("alter table orders replica identity default", "does not log whole rows", "replica identity full"),
        ("alter table orders drop column paid", "- paid (in the catalogue", "sources.yml"),
        ("revoke select on orders from reader", "permission denied", "grant"),
        ("alter table orders alter placed_on drop not null", "placed_on may be null", "set not null"),
        (
            "alter table orders drop column amount, add amount float8 generated always as (1.5) stored",
            "amount is generated",
            "ignore",
        ),
    ],
)
def test_a_database_that_is_not_set_up_is_refused(
    orders: psycopg.Connection, setup: str, message: str, cure: str
) -> None:
    orders.execute(setup)
    with pytest.raises(DataError) as error:
        capture(shop("cdc"))
    assert message in error.value.message
    assert cure in error.value.cure
    assert journal.last(shop("cdc"), "shop", "orders") is None
    assert (
        orders.execute("select slot_name from pg_replication_slots where database = 'shop'").fetchall() == []
    )


@pytest.mark.parametrize(
    "change", ["alter table orders add column note text", "alter table orders replica identity default"]
)
def test_a_table_that_changes_its_shape_stops_it_and_loses_nothing(
    orders: psycopg.Connection, change: str
) -> None:
    uc = shop("cdc")
    capture(uc)
    place(orders, 1)
    orders.execute(change)
    orders.execute("update orders set amount = 2")
    orders.execute("update orders set amount = 3")
    with pytest.raises(DataError):
        capture(uc)
    with pytest.raises(DataError):
        capture(uc)
    assert [row[3] for row in read(uc)] in ([10.5], [])
