"""What one engine has to do differently so that both end in the same features."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from nights import LAST, PASSWORD, History

from nightshift.databases import MAINTENANCE_DATABASE, url
from nightshift.errors import DataError, TransientError
from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine
from nightshift.warehouse.load import load
from nightshift.warehouse.postgres_engine import DATABASE
from nightshift.warehouse.read import read

on_postgres = pytest.mark.parametrize("engine_name", ["postgres"], indirect=True, scope="session")


def _on_server(statement: str) -> None:
    with psycopg.connect(url(MAINTENANCE_DATABASE), autocommit=True) as server:
        server.execute(statement)


def test_six_weeks_are_the_same_on_both_engines(history_on: Callable[[str], History]) -> None:
    duckdb, postgres = history_on("duckdb"), history_on("postgres")
    assert len(duckdb.features) == 42
    assert len(duckdb.labels) == 41
    assert duckdb.features == postgres.features
    assert duckdb.labels == postgres.labels


def test_relations_have_the_same_types_on_both_engines(built: Path, flight_delays: UseCase) -> None:
    rows = read(flight_delays, flight_delays.features.relation, LAST, LAST)
    assert rows.schema.metadata is None
    assert {str(field.type) for field in rows.schema} == {
        "string",
        "date32[day]",
        "timestamp[us, tz=UTC]",
        "int64",
        "double",
    }
    assert all(field.metadata is None for field in rows.schema)


@on_postgres
def test_every_table_is_found_by_partition(built: Path, flight_delays: UseCase) -> None:
    """Or a night would cost more every year."""
    with engine().connect(read_only=True) as connection:
        indexed = connection.execute(
            "select schemaname || '.' || tablename from pg_indexes where indexdef like '%(partition%'"
        )
        tables = connection.execute(
            "select schemaname || '.' || tablename from pg_tables "
            "where schemaname in ('flight_delays', 'raw_flight_delays') and tablename <> '_loaded'"
        )
    assert len(tables) >= 13
    assert set(tables) == set(indexed)


@on_postgres
def test_the_password_is_in_no_log(history: History) -> None:
    logs = list((history.home / "warehouse").rglob("*.log"))
    assert logs
    assert not [log for log in logs if PASSWORD in log.read_text(encoding="utf-8")]


@on_postgres
def test_a_value_that_the_engine_cannot_hold_is_named(
    built: Path, flight_delays: UseCase, replace_raw: Callable[..., None]
) -> None:
    def planted(flights: pa.Table) -> pa.Table:
        place = flights.column_names.index("tail_number")
        return flights.set_column(place, "tail_number", pa.array(["N1\0"] * flights.num_rows))

    replace_raw(flight_delays, "flights", date(2013, 2, 10), planted)
    with pytest.raises(DataError, match="tail_number") as refused:
        load(flight_delays, LAST, LAST)
    assert "22021" in refused.value.rule
    # Nothing of the day is lost: the rows of before still lie there.
    with engine().connect(read_only=True) as connection:
        ((rows,),) = connection.execute(
            "select count(*) from raw_flight_delays.flights where partition = $1", [date(2013, 2, 10)]
        )
    assert rows > 500


@on_postgres
def test_a_lost_lock_ends_the_build(home: Path, flight_delays: UseCase) -> None:
    """What was read without the lock may be mixed with another build's."""
    with (
        pytest.raises(TransientError, match="was lost during its build"),
        engine().exclusive(flight_delays.name),
        engine().connect() as connection,
    ):
        connection.execute("select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory'")


@on_postgres
def test_another_use_case_builds_meanwhile(home: Path, flight_delays: UseCase) -> None:
    with engine().exclusive(flight_delays.name), engine().exclusive("another", patience=0.2):
        pass


@on_postgres
def test_a_database_that_sorts_text_otherwise_is_refused(home: Path) -> None:
    """`flight_id` breaks ties: sorted by a language's rules, features would be others."""
    with engine().connect() as connection:
        # No language's locale is installed on every machine, so an operator sorts as one would.
        connection.execute(
            "create function public.by_language(text, text) returns boolean language sql immutable "
            "as 'select lower($1) operator(pg_catalog.<) lower($2)'"
        )
        connection.execute(
            "create operator public.< (leftarg = text, rightarg = text, function = public.by_language)"
        )
        connection.execute(f"alter database {DATABASE} set search_path = public, pg_catalog")
    with pytest.raises(DataError, match="does not sort text by code point"), engine().connect():
        pytest.fail("it was accepted")


@on_postgres
def test_a_role_that_may_not_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_server("drop role if exists guest")
    _on_server("create role guest login")
    guest = url(MAINTENANCE_DATABASE).replace(f"postgres:{PASSWORD}@", "guest:none@")
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", guest)
    settings.cache_clear()
    with pytest.raises(DataError, match="permission denied") as refused, engine().connect():
        pytest.fail("it was let in")
    assert refused.value.where == "setting NIGHTSHIFT_POSTGRES_URL"
