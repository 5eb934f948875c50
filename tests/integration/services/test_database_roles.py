"""Logins of people in PostgreSQL: each role may do what it should, in every schema, and nothing else."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.databases import ensure
from nightshift.errors import DataError
from nightshift.lake import audit
from nightshift.services import database_roles, prepare
from nightshift.settings import settings
from nightshift.usecase import load_usecase
from nightshift.warehouse.engine import engine

# In raw, in dbt's schema, and where applications read.
TABLES = {
    "raw": ("warehouse", "raw_flight_delays.weather"),
    "dbt": ("warehouse", "flight_delays.features"),
    "served": ("serving", "predictions.flight_delays"),
}
CLOSED = ("airflow", "mlflow", "celery", "searches")


def statement(server: str, login: str, database: str, text: str) -> list[tuple[object, ...]]:
    """Run one statement as a login, and return its rows."""
    parts = urlsplit(server)._replace(netloc=f"{login}:@", path=f"/{database}")
    with psycopg.connect(parts.geturl(), autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


Run = Callable[[str, str, str], list[tuple[object, ...]]]


@pytest.fixture
def nothing_personal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The use case as it would be if none of its columns were personal."""
    shipped = settings().usecases / "flight_delays"
    folder = tmp_path / "project" / "include" / "usecases" / "flight_delays"
    folder.mkdir(parents=True)
    for file in ("usecase.yml", "sources.yml"):
        text = (shipped / file).read_text(encoding="utf-8")
        (folder / file).write_text(re.sub(r"pii: \w+", "pii: none", text))
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()


@pytest.fixture
def run(postgres: str, home: Path, nothing_personal: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A server as ``stack up`` leaves it: a pipeline that makes its databases, people with a login a role."""

    def as_login(login: str, database: str, text: str) -> list[tuple[object, ...]]:
        return statement(postgres, login, database, text)

    def clear() -> None:
        for database in ("warehouse", "serving", *CLOSED):
            as_login("postgres", "postgres", f"drop database if exists {database} with (force)")
        roles = [*(f"person_{role}" for role in database_roles.GROUPS), *database_roles.GROUPS.values()]
        for role in (*roles, "pipeline"):
            as_login("postgres", "postgres", f"drop role if exists {role}")

    clear()
    as_login("postgres", "postgres", "create role pipeline login createdb")
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", urlsplit(postgres)._replace(netloc="pipeline:@").geturl())
    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE", "postgres")
    settings.cache_clear()
    for database in CLOSED:
        as_login("postgres", "postgres", f"create database {database}")
    as_login("postgres", "postgres", "alter database searches owner to pipeline")
    ensure(["serving"])
    with engine().connect():
        pass
    as_login("postgres", "airflow", "create table connection as select 'hunter2' as password")
    database_roles.grant(postgres)
    for role, group in database_roles.GROUPS.items():
        as_login("postgres", "postgres", f"create role person_{role} login in role {group}")
    for database, table in TABLES.values():
        as_login("pipeline", database, f"create schema if not exists {table.partition('.')[0]}")
        as_login("pipeline", database, f"create table {table} as select 1 as id")
    yield as_login
    clear()


REFUSED_TO_READERS = (
    "insert into {table} values (2)",
    "update {table} set id = 2",
    "delete from {table}",
    "truncate {table}",
    "drop table {table}",
    "alter table {table} add column more int",
    "create table {table}_more (id int)",
    "create index on {table} (id)",
    "create schema elsewhere",
    "create temporary table mine (id int)",
    "drop schema {schema} cascade",
    "alter table {table} owner to person_reader",
    "alter default privileges for role pipeline grant all on tables to person_reader",
    "set role pipeline",
    "set role nightshift_admin",
    "create role another",
)


@pytest.mark.parametrize("place", TABLES)
def test_a_reader_reads_and_is_refused_all_else(run: Run, place: str) -> None:
    database, table = TABLES[place]
    assert run("person_reader", database, f"select id from {table}") == [(1,)]
    for text in REFUSED_TO_READERS:
        with pytest.raises(errors.InsufficientPrivilege):
            run("person_reader", database, text.format(table=table, schema=table.partition(".")[0]))
    # PostgreSQL only warns of a grant that gives nothing.
    run("person_reader", database, f"grant select on {table} to public")
    assert run("postgres", database, f"select has_table_privilege('public', '{table}', 'select')") == [
        (False,)
    ]
    assert run("person_reader", database, f"select id from {table}") == [(1,)]


@pytest.mark.parametrize("place", TABLES)
def test_an_operator_writes_rows_and_neither_drops_nor_makes_tables(run: Run, place: str) -> None:
    database, table = TABLES[place]
    for person in ("person_operator", "person_approver"):
        run(person, database, f"insert into {table} values (2)")
        run(person, database, f"update {table} set id = 3 where id = 2")
        run(person, database, f"delete from {table} where id = 3")
        run(person, database, "create temporary table mine (id int)")
        for text in (
            "truncate {table}",
            "drop table {table}",
            "alter table {table} add column more int",
            "create table {table}_more (id int)",
            "create schema elsewhere",
            "set role pipeline",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                run(person, database, text.format(table=table))


@pytest.mark.parametrize("place", TABLES)
def test_an_admin_changes_what_the_pipeline_made(run: Run, place: str) -> None:
    database, table = TABLES[place]
    run("person_admin", database, f"truncate {table}")
    run("person_admin", database, f"alter table {table} add column more int")
    run("person_admin", database, f"create table {table}_more (id int)")
    run("person_admin", database, f"drop table {table}")


def test_nobody_but_their_own_services_gets_into_the_databases_of_others(run: Run) -> None:
    for role in database_roles.GROUPS:
        for database in CLOSED[:3]:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                run(f"person_{role}", database, "select 1")
    assert run("postgres", "airflow", "select password from connection") == [("hunter2",)]
    assert run("pipeline", "searches", "select 1") == [(1,)]


@pytest.mark.parametrize("place", TABLES)
def test_a_table_that_is_dropped_and_made_anew_is_as_open_as_before(run: Run, place: str) -> None:
    """As dbt replaces a table: made beside it, the old one put aside, and dropped."""
    database, table = TABLES[place]
    name = table.partition(".")[2]
    for text in (
        f"create table {table}__dbt_tmp as select 7 as id",
        f"alter table {table} rename to {name}__dbt_backup",
        f"alter table {table}__dbt_tmp rename to {name}",
        f"drop table {table}__dbt_backup cascade",
        f"create view {table}_seen as select * from {table}",
    ):
        run("pipeline", database, text)
    for seen in (table, f"{table}_seen"):
        assert run("person_reader", database, f"select id from {seen}") == [(7,)]
    with pytest.raises(errors.InsufficientPrivilege):
        run("person_reader", database, f"insert into {table} values (8)")
    run("person_operator", database, f"insert into {table} values (8)")


def test_what_should_not_be_is_taken_away_again_by_the_next_call(run: Run, postgres: str) -> None:
    database, table = TABLES["dbt"]
    run("pipeline", database, f"grant insert on {table} to nightshift_reader")
    run("postgres", "postgres", "grant connect on database airflow to nightshift_reader, public")
    assert database_roles.grant(postgres) == ["warehouse", "serving"]
    with pytest.raises(errors.InsufficientPrivilege):
        run("person_reader", database, f"insert into {table} values (2)")
    with pytest.raises(psycopg.OperationalError):
        run("person_reader", "airflow", "select 1")
    assert run("person_reader", database, f"select id from {table}") == [(1,)]


def test_readers_see_no_warehouse_of_a_use_case_with_personal_columns(
    run: Run, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is shipped: tail numbers of private planes lead to people.
    monkeypatch.delenv("NIGHTSHIFT_PROJECT")
    settings.cache_clear()
    assert load_usecase("flight_delays").hidden_columns
    database_roles.grant(postgres)
    for database, table in (TABLES["raw"], TABLES["dbt"]):
        with pytest.raises(errors.InsufficientPrivilege):
            run("person_reader", database, f"select id from {table}")
        assert run("person_operator", database, f"select id from {table}") == [(1,)]
    assert run("person_reader", "serving", f"select id from {TABLES['served'][1]}") == [(1,)]


def test_several_at_once_leave_the_same(run: Run, postgres: str) -> None:
    failed: list[BaseException] = []

    def grant() -> None:
        try:
            database_roles.grant(postgres)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=grant) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert run("person_reader", *(TABLES["dbt"][0], f"select id from {TABLES['dbt'][1]}")) == [(1,)]


def test_who_may_not_make_roles_is_told_where_it_is_done(
    run: Run, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SECRETS", str(tmp_path))
    with pytest.raises(DataError, match="pipeline may not set rights"):
        database_roles.grant()
    result = CliRunner().invoke(app, ["roles", "grant"])
    assert result.exit_code == 1
    assert "init-storage" in result.stderr
    (tmp_path / "postgres_admin").write_text(postgres)
    assert prepare.administrator(tmp_path) == postgres
    result = CliRunner().invoke(app, ["roles", "grant"], catch_exceptions=False)
    assert "may connect to: warehouse, serving" in result.output
    assert [entry.what for entry in audit.read()] == ["grant", "not_done", "grant"]
    details = audit.read()[0].details
    assert details["roles"] == list(database_roles.GROUPS.values())
    assert details["schemas"]["serving"] == {"predictions": "nightshift_reader"}
    assert details["schemas"]["warehouse"]["raw_flight_delays"] == "nightshift_reader"
    assert "airflow" in details["closed"]


def test_a_grant_without_a_server_is_not_done_and_says_what_to_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        # Bound, and nobody listens: whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        password = "hunter2"  # nosec B105  # pragma: allowlist secret
        monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", f"postgresql://postgres:{password}@127.0.0.1:{port}/")
        settings.cache_clear()
        for _ in range(2):
            result = CliRunner().invoke(app, ["roles", "grant"])
            assert result.exit_code == 1
            for part in ("rule:", f"where: database postgres at 127.0.0.1, port {port}", "nightshift up"):
                assert part in result.stderr
            assert result.stderr.count("cure:") == 1
            assert "hunter2" not in result.stderr
    entries = audit.read()
    assert [entry.what for entry in entries] == ["not_done", "grant"] * 2, "trying again is another act"
    assert "perhaps done in part: PostgreSQL does not let anybody in" in entries[0].why
    assert "\n" not in entries[0].why
