"""What sources read from: a database in use, and files in a folder and in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.lakes import environment
from tests.servers import postgres_server, s3_emulator
from upstreams import Upstream, upstream_on

# A role of a source may do no more than this.
_SETUP = """
create role reader login replication;
grant pg_read_all_stats to reader;
"""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server that logs what logical replication needs."""
    with postgres_server(wal_level="logical", max_replication_slots="20") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_SETUP)
        yield url


@pytest.fixture
def database(server: str, tmp_path: Path) -> Iterator[psycopg.Connection]:
    """A connection of its owner to an empty database, where the source ``shop`` is."""
    with psycopg.connect(server, autocommit=True) as maintenance:
        maintenance.execute("create database shop")
        try:
            info = psycopg.conninfo.make_conninfo(server, dbname="shop")
            reader = psycopg.conninfo.make_conninfo(info, user="reader")
            with (
                environment(tmp_path / "home", NIGHTSHIFT_SOURCE_SHOP=reader),
                psycopg.connect(info, autocommit=True) as connection,
            ):
                yield connection
        finally:
            maintenance.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = 'shop'"
            )
            maintenance.execute("drop database shop with (force)")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with s3_emulator() as url:
        yield url


@pytest.fixture(params=["file", "s3"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Iterator[Upstream]:
    with upstream_on(request.param, tmp_path, s3) as found:
        yield found
