"""Names that are SQL to whoever forgets to quote them are names, or refused, on both engines."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.warehouse.engine import engine, quoted

HOSTILE = [
    'x"; drop table kept; --',
    "x'; drop table kept; --",
    '"',
    '""; drop table kept; --',
    "x\n; drop table kept; --",
    "x);drop table kept;--",
    "x/*",
    "$1",
    "%s",
    "кept",  # its first letter is Cyrillic
    "k\u0435pt",
    "select",
    "é" * 31,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_a_name(home: Path, name: str) -> None:
    rows = pa.table({"partition": pa.array([1], pa.int64()), name: pa.array([name], pa.string())})
    with engine().connect() as connection:
        connection.execute('create schema if not exists "raw_x"')
        connection.create_table("raw_x", "kept", {"partition": "bigint", "kept": "varchar"})
        connection.create_table("raw_x", name, {"partition": "bigint", name: "varchar"})
        connection.append("raw_x", name, rows)
        found = connection.query(f"select * from {quoted('raw_x', name)}")
        assert found.to_pydict() == {"partition": [1], name: [name]}
        tables = connection.execute(
            "select table_name from information_schema.tables where table_schema = $1", ["raw_x"]
        )
        assert {table for (table,) in tables} == {"kept", name}
        assert connection.query('select count(*) as n from "raw_x"."kept"').to_pydict() == {"n": [0]}


@pytest.mark.parametrize("schema", ['x"; drop schema kept cascade; --', "x'y"])
def test_a_hostile_schema_is_only_a_schema(home: Path, schema: str) -> None:
    with engine().connect() as connection:
        connection.execute("create schema kept")
        connection.execute(f"create schema {quoted(schema)}")
        connection.create_table(schema, "t", {"partition": "bigint"})
        connection.append(schema, "t", pa.table({"partition": [1, 2]}))
        assert connection.query(f"select count(*) as n from {quoted(schema, 't')}").to_pydict() == {"n": [2]}
        schemas = connection.execute("select schema_name from information_schema.schemata")
        assert {"kept", schema} <= {name for (name,) in schemas}


@pytest.mark.parametrize("name", ["", "x\0y", "x" * 64, "é" * 32])
def test_what_no_engine_keeps_as_it_is_is_refused(home: Path, name: str) -> None:
    with engine().connect() as connection, pytest.raises(DataError, match="cannot be a name") as refused:
        connection.create_table(
            "main" if engine().name == "duckdb" else "public", name, {"partition": "date"}
        )
    assert "sources.yml" in refused.value.cure
