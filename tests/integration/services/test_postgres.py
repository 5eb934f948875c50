from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import asyncpg
import psycopg
import pytest
import sqlalchemy

from nightshift import databases
from nightshift.errors import DataError
from nightshift.services import postgres, processes
from nightshift.settings import settings


def _value(database: str, query: str) -> object:
    with psycopg.connect(databases.url(database)) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def test_every_driver_connects_and_data_outlive_a_restart(state: Path) -> None:
    postgres.start()
    databases.ensure(["airflow", "serving"])
    databases.ensure(["serving"])
    with psycopg.connect(databases.url("serving")) as connection:
        connection.execute("create table kept as select 42 as answer")
    processes.stop([postgres.NAME])
    postgres.start()
    assert _value("serving", "select answer from kept") == 42
    engine = sqlalchemy.create_engine(databases.url("airflow", "psycopg2"))
    with engine.connect() as synchronous:
        assert synchronous.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()

    async def ask() -> object:
        connection = await asyncpg.connect(databases.url("airflow"))
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    assert asyncio.run(ask()) == 1


def test_nobody_connects_without_the_password(state: Path) -> None:
    postgres.start()
    port = settings().postgres_port
    for wrong in ("nightshift@", "nightshift:guess@", "postgres@"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(f"postgresql://{wrong}127.0.0.1:{port}/postgres")
    secret = state / "secrets" / "postgres"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700


def test_a_server_that_was_killed_comes_back(state: Path) -> None:
    postgres.start()
    databases.ensure(["serving"])
    running = processes.alive(postgres.NAME)
    assert running is not None
    processes.stop([postgres.NAME], polite=0, grace=0)
    assert (postgres.data_folder() / "postmaster.pid").exists(), "it was killed, not shut down"
    postgres.start()
    assert _value("serving", "select 1") == 1


def test_a_server_whose_record_was_lost_is_replaced(state: Path) -> None:
    postgres.start()
    (state / "run" / "postgres.json").unlink()
    postgres.start()
    assert _value("postgres", "select 1") == 1


def test_a_half_deleted_data_folder_is_refused_with_a_cure(state: Path) -> None:
    postgres.start()
    processes.stop([postgres.NAME])
    (postgres.data_folder() / "PG_VERSION").unlink()
    with pytest.raises(DataError, match="no PG_VERSION") as error:
        postgres.start()
    assert str(postgres.data_folder()) in error.value.cure


def test_a_server_of_ones_own_is_used_and_none_started(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "NIGHTSHIFT_POSTGRES_URL",
        "postgresql://me:secret@db.example:5432/any?sslmode=require",  # pragma: allowlist secret
    )
    settings.cache_clear()
    postgres.start()
    assert processes.supervised() == []
    # pragma: allowlist nextline secret
    expected = "postgresql+asyncpg://me:secret@db.example:5432/serving?sslmode=require"
    assert databases.url("serving", "asyncpg") == expected
