"""What connectors capture is protected before the journal, and so is where they stopped."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from tests.lakes import environment

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.store import open_store
from nightshift.settings import settings
from nightshift.sources.captured import CapturedConnector
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

DAY = date(2024, 3, 1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
KINDS = {"email": "string", "name": "string", "joined_on": "date", "updated_at": "timestamp"}
PROTECTIONS = {"email": "pseudonymise", "name": "mask_last4"}
ANNA, BEN, CARLA = (f"{name}.quistgaard@mail.example.com" for name in ("anna", "ben", "carla"))
CLEAR = ("quistgaard", "Zylberstein", "anna", "carla")


def members(kind: str, options: dict[str, Any], **changes: dict[str, Any]) -> UseCase:
    """Return a use case whose source ``club`` has the table ``members``, keyed by e-mail addresses."""
    columns = {
        name: {"type": type_, "description": f"The member's {name}."}
        | ({"pii": "direct", "purpose": "tests", "protect": PROTECTIONS[name]} if name in PROTECTIONS else {})
        | changes.get(name, {})
        for name, type_ in KINDS.items()
    }
    table = {"description": "Members.", "key": ["email"], "refresh": "daily", "columns": columns}
    source = {
        "kind": kind,
        "description": "A club.",
        "owner": "test",
        "access": "test",
        "sla": "none",
        "options": options,
        "tables": {"members": table | {"allow_empty": True}},
    }
    changed = {"name": "toy", "timezone": "UTC", "sources": {"club": source}}
    return UseCase.model_validate(load_usecase("flight_delays").model_dump() | changed)


def club(uc: UseCase) -> CapturedConnector:
    connector = open_connector(uc, "club")
    assert isinstance(connector, CapturedConnector)
    return connector


def read(uc: UseCase) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = club(uc).read("members", DAY, LATER).table.sort_by("name").to_pylist()
    return rows


def assert_nothing_clear(*also: str) -> None:
    store = open_store()
    keys = store.list("")
    assert any(key.startswith("journal/") for key in keys)
    for key in keys:
        content = store.get(key)
        text = content.decode("utf-8", "replace")
        if key.endswith(".parquet"):
            text += str(pq.read_table(pa.BufferReader(content)).to_pylist())
        assert not [value for value in CLEAR if value in text], key
    for text in also:
        assert not [value for value in CLEAR if value in text], text


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NIGHTSHIFT_PII_KEY", Fernet.generate_key().decode())
    settings.cache_clear()
    yield
    settings.cache_clear()


# A database ----------------------------------------------------------------------------------------------

_TABLE = """
create table members (
    email text primary key, name text, joined_on date not null, updated_at timestamptz not null
);
alter table members replica identity full;
grant select on members to reader;
create publication nightshift for table members;
"""


def in_database(capture: str) -> UseCase:
    chosen = {"relation": "public.members", "capture": capture, "day": "joined_on"}
    also = {"updated_at": "updated_at", "skew_seconds": 0} if capture == "watermark" else {}
    return members("postgres", {"tables": {"members": chosen | also}})


@pytest.fixture
def table(database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> psycopg.Connection:
    monkeypatch.setenv("NIGHTSHIFT_SOURCE_CLUB", os.environ["NIGHTSHIFT_SOURCE_SHOP"])
    database.execute(_TABLE)
    return database


def join(connection: psycopg.Connection, email: str, name: str = "Anna Zylberstein") -> None:
    connection.execute(
        "insert into members values (%s, %s, %s, clock_timestamp()) on conflict (email) do update"
        " set name = excluded.name, updated_at = excluded.updated_at",
        [email, name, DAY],
    )


@pytest.mark.parametrize("capture", ["watermark", "cdc"])
def test_a_database_is_read_on_from_where_a_hidden_key_ended(table: psycopg.Connection, capture: str) -> None:
    uc = in_database(capture)
    join(table, ANNA)
    join(table, BEN)
    assert club(uc).capture("members") == 2
    before = {row["email"] for row in read(uc)}
    join(table, CARLA, "Carla Zylberstein-Klein")
    join(table, ANNA, "Anna Zylberstein-Gross")
    assert club(uc).capture("members") == 2
    assert club(uc).capture("members") == 0
    after = read(uc)
    assert sorted(row["name"] for row in after) == ["****lein", "****ross", "****tein"]
    assert before < {row["email"] for row in after}, "who was there has the pseudonym of before"
    assert_nothing_clear(*(batch.query for batch in journal.batches(uc, "club", "members")))


def test_what_a_database_deletes_or_empties_is_gone(table: psycopg.Connection) -> None:
    uc = in_database("cdc")
    join(table, ANNA)
    join(table, BEN)
    club(uc).capture("members")
    table.execute("delete from members where email = %s", [ANNA])
    club(uc).capture("members")
    assert len(read(uc)) == 1
    with table.transaction():
        join(table, CARLA)
        table.execute("truncate members")
        join(table, ANNA, "Anna Zylberstein the second")
    club(uc).capture("members")
    assert [row["name"] for row in read(uc)] == ["****cond"]
    assert_nothing_clear()


def test_a_journal_that_began_in_the_clear_is_protected_when_it_is_read(table: psycopg.Connection) -> None:
    uc = in_database("watermark")
    nothing = {"protect": "none"}
    clear = members("postgres", uc.sources["club"].options, email=nothing, name=nothing)
    join(table, ANNA)
    join(table, BEN)
    club(clear).capture("members")
    assert {row["email"] for row in read(clear)} == {ANNA, BEN}
    join(table, ANNA, "Anna Zylberstein-Gross")
    club(uc).capture("members")
    found = read(uc)
    assert [row["name"] for row in found] == ["****ross", "****tein"], "one row a key, old and new"
    assert all(row["email"].startswith("ps_") for row in found)


def test_what_the_server_says_is_told_without_values(table: psycopg.Connection) -> None:
    uc = in_database("watermark")
    join(table, ANNA)
    table.execute(
        "create view people as select *, name::int as number from members; grant select on people to reader"
    )
    options = {
        "tables": {"members": uc.sources["club"].options["tables"]["members"] | {"relation": "public.people"}}
    }
    broken = members("postgres", options)
    columns = broken.sources["club"].tables["members"].columns
    number = {"number": columns["name"].model_copy(update={"type": "int64", "protect": "none"})}
    wider = broken.sources["club"].tables["members"].model_copy(update={"columns": columns | number})
    source = broken.sources["club"].model_copy(update={"tables": {"members": wider}})
    with pytest.raises(DataError) as refused:
        club(broken.model_copy(update={"sources": {"club": source}})).capture("members")
    told = "".join(traceback.format_exception(refused.value))
    assert "invalid input syntax" in told
    assert "psycopg.errors" not in told, "its own words are not chained: they repeat more"


def test_a_watermark_is_of_a_column_in_the_clear(table: psycopg.Connection) -> None:
    uc = in_database("watermark")
    masked = {"pii": "indirect", "purpose": "tests", "protect": "mask_year"}
    for column in ("updated_at", "joined_on"):
        with pytest.raises(DataError, match=f"'{column}' of members is protected"):
            club(members("postgres", uc.sources["club"].options, **{column: masked}))


# Files ---------------------------------------------------------------------------------------------------

HEADER = "email,name,joined_on,updated_at\n"


@pytest.fixture
def put(tmp_path: Path) -> Iterator[Callable[[str, str], UseCase]]:
    folder = tmp_path / "upstream"
    folder.mkdir()

    def write(name: str, content: str) -> UseCase:
        (folder / name).write_text(content)
        os.utime(folder / name, (time.time() - 3600,) * 2)
        chosen = {"files": "*.csv", "format": "csv", "day": "joined_on"}
        return members("object_store", {"prefix": f"{folder.as_uri()}/", "tables": {"members": chosen}})

    with environment(tmp_path / "home"):
        yield write


def test_files_are_kept_without_what_is_personal(put: Callable[[str, str], UseCase]) -> None:
    put("a.csv", f"{HEADER}{ANNA},Anna Zylberstein,2024-03-01,2024-03-01T12:00:00Z\n")
    uc = put("b.csv", f"{HEADER}{ANNA},,2024-03-01,2024-03-02T12:00:00Z\n")
    assert club(uc).capture("members") == 2
    first, second = read(uc)
    assert first["email"] == second["email"]
    assert_nothing_clear()


def test_a_line_that_is_not_understood_is_not_repeated(put: Callable[[str, str], UseCase]) -> None:
    uc = put("a.csv", f"{HEADER}{ANNA},Anna Zylberstein\n")
    with pytest.raises(DataError, match="not a whole one: its values are personal") as refused:
        club(uc).capture("members")
    told = "".join(traceback.format_exception(refused.value))
    assert not [value for value in CLEAR if value in told]


# An API --------------------------------------------------------------------------------------------------


class _Pages(BaseHTTPRequestHandler):
    """A page a member; the next one is named by the member's address."""

    people = (ANNA, BEN, CARLA)
    refuses = False

    def do_GET(self) -> None:
        after = parse_qs(urlsplit(self.path).query).get("after", [""])[0]
        page = self.people.index(after) + 1 if after else 0
        email = self.people[page]
        row = {"email": email, "name": "Ms Zylberstein", "joined_on": "2024-03-01"}
        row["updated_at"] = f"2024-03-01T12:0{page}:00Z"
        more = email if page < 2 else None
        status, body = (200, {"rows": [row], "next": more}) if not self.refuses else (400, {"unknown": ANNA})
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[UseCase]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server, environment(tmp_path / "home"):
        Thread(target=server.serve_forever, daemon=True).start()
        chosen = {
            "path": "/members",
            "rows": "rows",
            "next": "next",
            "next_param": "after",
            "day": "joined_on",
            "since": {"param": "since", "updated_at": "updated_at"},
        }
        url = f"http://127.0.0.1:{server.server_port}"
        yield members("http_api", {"url": url, "per_second": 1000, "tables": {"members": chosen}})
        server.shutdown()


def test_pages_named_by_an_address_are_asked_on_for_and_not_shown(
    api: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="nightshift"), caplog.at_level(logging.INFO):
        assert club(api).capture("members") == 3
        assert club(api).capture("members") == 0
    assert len({row["email"] for row in read(api)}) == 3
    assert_nothing_clear(caplog.text, *(batch.query for batch in journal.batches(api, "club", "members")))


def test_an_answer_that_refuses_is_not_repeated(api: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Pages, "refuses", True)
    with pytest.raises(DataError, match="answered 400") as refused:
        club(api).capture("members")
    assert not [value for value in CLEAR if value in "".join(traceback.format_exception(refused.value))]
