"""The extractor is killed again and again while others write: every change is there once, in its order."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, timedelta
from threading import Event
from typing import Any

import psycopg
from shop import DAY, ORDERS, capture, place, read, shop, there
from tests.forked import start

from nightshift.errors import TransientError
from nightshift.lake import journal
from nightshift.lake.store import FileStore

KILLS = 50
DAYS = [DAY, DAY + timedelta(days=1)]

# What the database itself writes down of each change, within its transaction.
HISTORY = """
create table history (number bigserial primary key, kind text, order_id bigint, placed_on date, state text);
create function remember() returns trigger language plpgsql as $$ begin
    if tg_op = 'DELETE' or (tg_op = 'UPDATE' and old.placed_on <> new.placed_on) then
        insert into history (kind, order_id, placed_on, state)
        values ('delete', old.order_id, old.placed_on, old.state);
    end if;
    if tg_op <> 'DELETE' then
        insert into history (kind, order_id, placed_on, state)
        values ('upsert', new.order_id, new.placed_on, new.state);
    end if;
    return null;
end $$;
create trigger remember after insert or update or delete on orders for each row execute function remember();
"""


def capture_until(fatal: int, after: bool) -> None:
    """Capture again and again, and be killed before or after the step ``fatal`` that others could see."""
    steps = 0

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = step(*arguments, **options)
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return taken

    for kind, name in ((psycopg.Connection, "execute"), (FileStore, "put"), (FileStore, "put_new")):
        setattr(kind, name, deadly(getattr(kind, name)))
    uc = shop("cdc", {"batch_rows": 20})
    while True:
        # The server has not noticed yet that the one before was killed.
        with suppress(TransientError):
            capture(uc)


def write(connection: psycopg.Connection, ended: Event) -> int:
    """Change orders in transactions of some, until it is enough; return how many transactions."""
    chance, written = random.Random(1), 0
    while not ended.is_set():
        with connection.transaction(force_rollback=chance.random() < 0.1):
            for _ in range(chance.randint(1, 6)):
                number = chance.randint(1, 30)
                if chance.random() < 0.2:
                    connection.execute("delete from orders where order_id = %s", [number])
                else:
                    place(connection, number, chance.choice(DAYS), state=f"state {chance.random()}")
        written += 1
        ended.wait(chance.random() / 100)
    return written


def captured(day: date) -> Iterator[tuple[Any, ...]]:
    changes, _ = journal.changes_of(shop("cdc"), "shop", "orders", day)
    columns = [changes[name].to_pylist() for name in (journal.KIND, "order_id", "placed_on", "state")]
    return zip(*columns, strict=True)


def test_a_capture_killed_fifty_times_has_the_history_of_the_database(database: psycopg.Connection) -> None:
    database.execute(ORDERS)
    database.execute(HISTORY)
    capture(shop("cdc"))
    chance, ended = random.Random(2), Event()
    with psycopg.connect(database.info.dsn, autocommit=True) as connection, ThreadPoolExecutor(1) as thread:
        writer = thread.submit(write, connection, ended)
        try:
            for _ in range(KILLS):
                extractor = start(capture_until, chance.randint(1, 60), chance.random() < 0.5)
                extractor.join()
                assert extractor.exitcode == -signal.SIGKILL
        finally:
            ended.set()
        assert writer.result() > 500
    for _ in range(100):
        try:
            capture(shop("cdc"))
            break
        except TransientError:
            ended.wait(0.1)
    history = database.execute(
        "select kind, order_id, placed_on, state from history order by number"
    ).fetchall()
    batches = journal.batches(shop("cdc"), "shop", "orders")
    assert sum(batch.rows for batch in batches) == len(history)
    for day in DAYS:
        assert list(captured(day)) == [change for change in history if change[2] == day]
        assert read(shop("cdc"), day) == there(database, day)
    assert len(batches) > KILLS, "they were killed before they had done anything"
