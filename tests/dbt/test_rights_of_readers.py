"""Who may read the warehouse may do so after dbt has built it anew, and still do nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from nights import LAST
from psycopg import errors, sql

from nightshift.databases import MAINTENANCE_DATABASE, url
from nightshift.services import database_roles
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.postgres_engine import DATABASE

on_postgres = pytest.mark.parametrize("engine_name", ["postgres"], scope="session")


@pytest.fixture
def operator(built: Path) -> Iterator[str]:
    """The URL of a person's login, on the warehouse of the full build."""
    _as_owner("drop role if exists person")
    database_roles.grant()
    _as_owner(f"create role person login in role {database_roles.GROUPS['operator']}")
    yield urlsplit(url(DATABASE))._replace(netloc="person:@").geturl()
    _as_owner("drop role person")


def _as_owner(statement: str) -> None:
    with psycopg.connect(url(MAINTENANCE_DATABASE), autocommit=True) as server:
        server.execute(statement)


@on_postgres
def test_rights_survive_a_build_from_the_start(operator: str, flight_delays: UseCase) -> None:
    table = sql.Identifier(flight_delays.name, flight_delays.features.relation)
    identity = sql.SQL("select {}::regclass::oid").format(sql.Literal(table.as_string()))

    def tried(statement: str) -> int:
        with psycopg.connect(operator, autocommit=True) as person:
            return person.execute(sql.SQL(statement).format(table)).rowcount

    def oid() -> object:
        with psycopg.connect(url(DATABASE)) as owner:
            return owner.execute(identity).fetchone()

    before = oid()
    assert tried("select * from {} limit 1") == 1
    dbt.build(flight_delays, LAST, LAST, full=True)
    assert oid() != before, "it is another table now"
    assert tried("select * from {} limit 1") == 1
    assert tried("delete from {} where partition is null") == 0
    for statement in ("drop table {}", "truncate {}", "alter table {} add column more int"):
        with pytest.raises(errors.InsufficientPrivilege):
            tried(statement)
