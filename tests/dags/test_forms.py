"""What fields of a trigger form say together is checked before a run begins."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from nightshift.orchestration.forms import CheckedForms

RUNS = "/api/v2/dags/flight_delays.rebuild/dagRuns"


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"body": (await request.body()).decode()})


@pytest.fixture(scope="module")
def client() -> TestClient:
    """What stands behind the check says what it was sent."""
    route = Route("/{path:path}", echo, methods=["POST", "PATCH"])
    return TestClient(Starlette(routes=[route], middleware=[Middleware(CheckedForms)]))


def trigger(client: TestClient, conf: Any, path: str = RUNS) -> Any:
    return client.post(path, json={"logical_date": None, "conf": conf})


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"start": "2013-07-02", "end": "2013-07-01"}, "the range ends (2013-07-01) before it starts"),
        ({"start": "2013-07-02", "end": "2013-02-30"}, "'2013-02-30' is not a partition"),
        ({"partition": "last week"}, "'last week' is not a partition"),
        ({"version": "1", "effective_from": "2013-7-1"}, "'2013-7-1' is not a partition"),
        ({"partition": "2013-07-01", "fixes": {"raw_a": {}}, "reason": " "}, "nobody says why"),
    ],
)
def test_what_makes_no_sense_is_refused_with_rule_and_cure(
    client: TestClient, conf: dict[str, Any], message: str
) -> None:
    answer = trigger(client, conf)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert "Rule: " in answer.json()["detail"]
    assert "Cure: " in answer.json()["detail"]


@pytest.mark.parametrize(
    ("conf", "path"),
    [
        ({"start": "2013-07-01", "end": "2013-07-02"}, RUNS),
        ({"start": "2013-07-01", "end": "2013-07-01"}, RUNS),
        ({"partition": "2013-07-01", "fixes": {"raw_a": {}}, "reason": "a log"}, RUNS),
        ({}, RUNS),
        (None, RUNS),
        ("no object", RUNS),
        ({"start": "2013-07-02", "end": "2013-07-01"}, "/api/v2/dags/somebody_elses/dagRuns"),
        ({"start": "2013-07-02", "end": "2013-07-01"}, f"{RUNS}/list"),
    ],
)
def test_all_else_reaches_airflow_as_it_was_sent(client: TestClient, conf: Any, path: str) -> None:
    answer = trigger(client, conf, path)
    assert answer.status_code == 200
    assert answer.json()["body"] == answer.request.content.decode()


@pytest.mark.parametrize(("end", "status"), [(b"2013-07-01", 400), (b"2013-07-02", 200)])
def test_a_body_that_comes_in_pieces_is_checked_and_passed_on_whole(end: bytes, status: int) -> None:
    pieces = [b'{"conf": {"start": "2013-07-0', b'2", "end": "', end + b'"}}']
    coming = iter(
        {"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        sent.append(message)

    app = CheckedForms(Starlette(routes=[Route("/{path:path}", echo, methods=["POST"])]))
    scope = {"type": "http", "method": "POST", "path": RUNS, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status
    if status == 200:
        assert json.loads(sent[1]["body"])["body"] == b"".join(pieces).decode()


def test_a_body_that_is_no_json_is_left_to_airflow(client: TestClient) -> None:
    assert client.post(RUNS, content=b"{").json()["body"] == "{"
