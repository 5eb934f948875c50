"""A shop's orders: in a database in use, and in the catalogue of a use case."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import psycopg

from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

ORDERS = """
create table orders (
    order_id bigint primary key,
    placed_on date not null,
    state text,
    amount float8,
    paid boolean,
    updated_at timestamptz not null
);
alter table orders replica identity full;
grant select on orders to reader;
create publication nightshift for table orders;
"""
_TYPES = {
    "order_id": "int64",
    "placed_on": "date",
    "state": "string",
    "amount": "float64",
    "paid": "boolean",
    "updated_at": "timestamp",
}

DAY = date(2024, 3, 1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def shop(capture: str, options: dict[str, Any] | None = None, **table: Any) -> UseCase:
    """Return a use case with the source ``shop``, whose only table ``orders`` is read by ``capture``.

    Args:
        capture: ``watermark`` or ``cdc``.
        options: Further options of the source.
        table: Further options of the table.
    """
    chosen: dict[str, Any] = {"relation": "public.orders", "capture": capture, "day": "placed_on"}
    if capture == "watermark":
        # Nobody here sets updated_at by another clock than the database's.
        chosen |= {"updated_at": "updated_at", "skew_seconds": 0}
    columns = {name: {"type": kind, "description": f"The order's {name}."} for name, kind in _TYPES.items()}
    orders = {
        "description": "Orders.",
        "key": ["order_id"],
        "refresh": "daily",
        "columns": columns,
        "allow_empty": True,
    }
    source = {
        "kind": "postgres",
        "description": "A shop.",
        "owner": "test",
        "access": "PostgreSQL",
        "sla": "none",
        "options": {"tables": {"orders": chosen | table}, **(options or {})},
        "tables": {"orders": orders},
    }
    changed = {"name": "toy", "timezone": "UTC", "sources": {"shop": source}}
    return UseCase.model_validate(load_usecase("flight_delays").model_dump() | changed)


def place(connection: psycopg.Connection, order: int, day: date = DAY, **values: Any) -> None:
    """Insert an order, or change the one that is there."""
    row = {"state": "new", "amount": 10.5, "paid": False} | values
    connection.execute(
        "insert into orders values (%(order)s, %(day)s, %(state)s, %(amount)s, %(paid)s, now())"
        " on conflict (order_id) do update set placed_on = %(day)s, state = %(state)s, amount = %(amount)s,"
        " paid = %(paid)s, updated_at = now()",
        {"order": order, "day": day, **row},
    )


def there(connection: psycopg.Connection, day: date = DAY) -> list[tuple[Any, ...]]:
    """Return the orders of a day that the database has, by number."""
    return connection.execute("select * from orders where placed_on = %s order by 1", [day]).fetchall()


def capture(uc: UseCase) -> int:
    """Capture the orders; return how many changes there were."""
    return open_connector(uc, "shop").capture("orders")


def read(uc: UseCase, day: date = DAY, as_of: datetime = LATER) -> list[tuple[Any, ...]]:
    """Return the orders of a day that were captured, by number."""
    found = open_connector(uc, "shop").read("orders", day, as_of).table
    return [tuple(row.values()) for row in found.sort_by("order_id").to_pylist()]
