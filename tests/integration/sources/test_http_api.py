"""An API with pages, that throttles, fails, cuts answers short, and is asked on from where it was left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.lakes import environment

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

DAY = date(2024, 3, 1)
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
SECRET = "Bearer of-the-tests"  # nosec B105  # pragma: allowlist secret
_TYPES = {
    "ticket": "int64",
    "opened_on": "date",
    "topic": "string",
    "weight": "float64",
    "urgent": "boolean",
    "updated_at": "timestamp",
}


class Api(ThreadingHTTPServer):
    """Tickets, three a page. ``faults`` are done to the next requests, one to each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.tickets: dict[int, dict[str, Any]] = {}
        self.faults: list[Callable[[_Request], bool]] = []
        self.asked: list[dict[str, str]] = []
        self.at: list[float] = []

    def put(self, ticket: int, minutes: int = 0, **also: Any) -> None:
        row = {"ticket": ticket, "opened_on": "2024-03-01", "topic": "a", "weight": 0.5, "urgent": True}
        moment = (NOON + timedelta(minutes=minutes)).isoformat()
        self.tickets[ticket] = row | {"updated_at": moment} | also


class _Request(BaseHTTPRequestHandler):
    server: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(asked)
        self.server.at.append(time.monotonic())
        if self.server.faults and self.server.faults.pop(0)(self):
            return
        if self.headers.get("Authorization") != SECRET:
            self.answer(401, {"error": "who are you?"})
            return
        since = datetime.fromisoformat(asked.get("since", "2000-01-01T00:00:00+00:00"))
        wanted = [
            row
            for _, row in sorted(self.server.tickets.items())
            if datetime.fromisoformat(row["updated_at"]) >= since
        ]
        first = int(asked.get("after", 0))
        more = str(first + 3) if len(wanted) > first + 3 else None
        self.answer(200, {"data": {"tickets": wanted[first : first + 3]}, "paging": {"after": more}})

    def answer(self, status: int, content: Any, cut: int = 0, **headers: str) -> bool:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        if cut:
            self.close_connection = True
        return True

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api() as server, environment(tmp_path / "home", NIGHTSHIFT_SOURCE_DESK=SECRET):
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def desk(api: Api, options: dict[str, Any] | None = None, refresh: str = "daily", **table: Any) -> UseCase:
    """Return a use case whose source ``desk`` has the table ``tickets`` behind the API."""
    chosen: dict[str, Any] = {
        "path": "/tickets",
        "rows": "data.tickets",
        "next": "paging.after",
        "next_param": "after",
        "since": {"param": "since", "updated_at": "updated_at", "overlap_seconds": 60},
        "day": "opened_on",
    }
    columns = {name: {"type": kind, "description": f"The ticket's {name}."} for name, kind in _TYPES.items()}
    tickets = {"description": "Tickets.", "key": ["ticket"], "refresh": refresh, "columns": columns}
    source = {
        "kind": "http_api",
        "description": "A help desk.",
        "owner": "test",
        "access": "HTTP",
        "sla": "none",
        "options": {
            "url": f"http://127.0.0.1:{api.server_port}",
            "header": "Authorization",
            "per_second": 1000,
            "attempts": 3,
            "timeout_seconds": 5,
            "tables": {"tickets": chosen | table},
        }
        | (options or {}),
        "tables": {"tickets": tickets},
    }
    changed = {"name": "toy", "timezone": "UTC", "sources": {"desk": source}}
    return UseCase.model_validate(load_usecase("flight_delays").model_dump() | changed)


def capture(uc: UseCase) -> int:
    return open_connector(uc, "desk").capture("tickets")


def read(uc: UseCase, as_of: datetime = LATER) -> list[tuple[Any, ...]]:
    rows = open_connector(uc, "desk").read("tickets", DAY, as_of).table
    return sorted(tuple(row.values())[:3] for row in rows.to_pylist())


def tickets(*numbers: int, topic: str = "a") -> list[tuple[Any, ...]]:
    return [(number, DAY, topic) for number in numbers]


def test_what_changed_on_a_page_that_was_read_before_a_pause_is_read_too(api: Api) -> None:
    uc = desk(api, {"attempts": 1})
    for number in range(1, 6):
        api.put(number, number)
    api.faults = [lambda _: False, lambda request: request.answer(503, {})]
    with pytest.raises(TransientError):
        capture(uc)
    api.put(1, 20, topic="b")
    assert capture(uc) == 3, "two on the second page, and the one that has changed on the first"
    assert read(uc) == sorted(tickets(2, 3, 4, 5) + tickets(1, topic="b"))


def test_every_page_is_read_and_then_only_what_has_changed(api: Api) -> None:
    uc = desk(api)
    for number in range(1, 9):
        api.put(number, number)
    assert capture(uc) == 8
    assert read(uc) == tickets(*range(1, 9))
    assert capture(uc) == 0, "what the overlap shows again is no change"
    assert api.asked[-1] == {"since": "2024-03-01T12:07:00Z"}
    api.put(2, 20, topic="b")
    api.put(9, 7)  # shown late: its change is older than what was read
    assert capture(uc) == 2
    assert read(uc) == sorted(tickets(1, *range(3, 10)) + tickets(2, topic="b"))
    assert read(uc, NOON + timedelta(minutes=19)) == tickets(*range(1, 10))


def test_who_was_stopped_between_two_pages_goes_on_there(api: Api) -> None:
    uc = desk(api, {"attempts": 1})
    for number in range(9):
        api.put(number)
    api.faults = [lambda _: False, lambda request: request.answer(503, "")]
    with pytest.raises(TransientError, match="503"):
        capture(uc)
    assert read(uc) == tickets(0, 1, 2)
    api.asked.clear()
    assert capture(uc) == 6
    assert [asked.get("after") for asked in api.asked][:2] == ["3", "6"]
    assert read(uc) == tickets(*range(9))


@pytest.mark.parametrize(
    "fault",
    [
        lambda request: request.answer(500, "no"),
        lambda request: request.answer(429, "slow down", Retry_After="0"),
        lambda request: request.answer(200, {"data": {"tickets": []}}, cut=5),
        lambda request: request.answer(200, '{"data": {"tick'),
        lambda request: bool(request.connection.close()) or True,
    ],
    ids=["500", "429", "cut answer", "cut JSON", "hung up"],
)
def test_what_cannot_be_answered_now_is_asked_again(api: Api, fault: Callable[[_Request], bool]) -> None:
    api.put(1)
    api.faults = [fault]
    uc = desk(api)
    assert capture(uc) == 1
    assert len(api.asked) == 2
    assert read(uc) == tickets(1)


@pytest.mark.parametrize("as_date", [False, True])
def test_a_pause_that_the_api_wants_is_kept(api: Api, as_date: bool) -> None:
    api.put(1)

    def wait(request: _Request) -> bool:
        until = datetime.now(UTC) + timedelta(seconds=3)
        after = format_datetime(until, usegmt=True) if as_date else "2"
        return request.answer(429, "", Retry_After=after)

    api.faults = [wait]
    assert capture(desk(api)) == 1
    # A date is told in whole seconds.
    assert api.at[1] - api.at[0] >= 2


def test_a_long_pause_is_left_to_the_next_try_of_the_task(api: Api) -> None:
    api.put(1)
    api.faults = [lambda request: request.answer(503, "", Retry_After="900")]
    uc = desk(api)
    with pytest.raises(TransientError, match="wants 900 s of rest"):
        capture(uc)
    with pytest.raises(TransientError, match="is not asked before"):
        capture(uc)
    assert len(api.asked) == 1


def test_who_fails_again_and_again_is_left_alone_for_a_while(api: Api) -> None:
    api.put(1)
    api.faults = [lambda request: request.answer(500, "")] * 4
    uc = desk(api, {"attempts": 2, "open_after": 2, "open_seconds": 1})
    for _ in range(2):
        with pytest.raises(TransientError, match="500"):
            capture(uc)
    opened = time.monotonic()
    with pytest.raises(TransientError, match="has failed 2 times in a row"):
        capture(uc)
    assert len(api.asked) == 4
    while True:
        try:
            captured = capture(uc)
            break
        except TransientError:
            assert time.monotonic() - opened < 30
    assert captured == 1
    assert api.at[4] - opened > 0.5
    api.faults = [lambda request: request.answer(500, "")] * 2
    with pytest.raises(TransientError, match="500"):
        capture(uc)
    assert capture(uc) == 0, "what has failed before it was answered is forgotten"


def test_the_api_is_asked_no_more_often_than_allowed(api: Api) -> None:
    for number in range(24):
        api.put(number)
    capture(desk(api, {"per_second": 10, "burst": 2}))
    assert len(api.at) == 8
    assert api.at[-1] - api.at[0] >= 0.5, "two at once, and six at ten a second"


def test_without_since_what_differs_is_a_change(api: Api) -> None:
    uc = desk(api, since=None)
    for number in range(5):
        api.put(number)
    assert capture(uc) == 5
    assert capture(uc) == 0
    api.put(1, topic="b")
    del api.tickets[2]
    before = datetime.now(UTC)
    assert capture(uc) == 2
    assert read(uc) == sorted(tickets(0, 3, 4) + tickets(1, topic="b"))
    assert read(uc, before) == tickets(*range(5))
    api.tickets.clear()
    with pytest.raises(DataError, match="tickets is empty, and was not before"):
        capture(uc)


def test_nothing_counts_before_the_last_page_is_there(api: Api) -> None:
    uc = desk(api, {"attempts": 1}, since=None)
    for number in range(9):
        api.put(number)
    api.faults = [lambda _: False, lambda request: request.answer(503, "")]
    with pytest.raises(TransientError):
        capture(uc)
    assert journal.last(uc, "desk", "tickets") is None
    assert capture(uc) == 9


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"weight": "heavy"}, "~ weight is string, not float64"),
        ({"colour": "red"}, "+ colour (in what came, not in the catalogue)"),
        ({"topic": {"name": "a"}}, "~ topic is struct"),
        ({"updated_at": "2024-03-01T12:00:00"}, "~ updated_at is string, not timestamp"),
        ({"updated_at": "2024-03-01T12:00:00", "urgent": 1}, "~ urgent "),
    ],
)
def test_rows_that_are_not_those_of_the_catalogue_stop_it(
    api: Api, row: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = desk(api)
    moments = row.get("updated_at")
    api.put(1, **{name: value for name, value in row.items() if name != "updated_at"})
    if moments:
        wrong = api.tickets[1] | {"updated_at": moments}
        api.faults = [lambda request: request.answer(200, {"data": {"tickets": [wrong]}})]
    with pytest.raises(DataError) as error:
        capture(uc)
    assert message in error.value.message
    assert journal.last(uc, "desk", "tickets") is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"data": []}, "there is no list of rows at 'data.tickets'"),
        ({"data": {"tickets": [1]}}, "there is no list of rows"),
        ({"data": {"tickets": []}, "paging": {"after": "7"}}, "the page '7' names itself as the next one"),
    ],
)
def test_an_answer_of_another_shape_stops_it(api: Api, answer: Any, message: str) -> None:
    api.faults = [lambda request: request.answer(200, answer)] * 2
    with pytest.raises(DataError, match=message):
        capture(desk(api))


def test_a_secret_goes_to_no_other_place(api: Api) -> None:
    elsewhere = {"data": {"tickets": []}, "paging": {"after": "http://127.0.0.2/tickets"}}
    api.faults = [lambda request: request.answer(200, elsewhere)]
    with pytest.raises(DataError, match="its next page is elsewhere"):
        capture(desk(api, next_param=None))


def test_an_address_of_the_next_page_is_followed(api: Api) -> None:
    page = {"data": {"tickets": []}, "paging": {"after": "/tickets?after=3"}}
    for number in range(5):
        api.put(number)
    api.faults = [lambda request: request.answer(200, page)]
    assert capture(desk(api, next_param=None)) == 2


def test_a_wrong_secret_is_told_without_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SOURCE_DESK", "Bearer wrong")
    with pytest.raises(DataError) as error:
        capture(desk(api))
    assert "401" in error.value.message
    assert "NIGHTSHIFT_SOURCE_DESK" in error.value.cure
    assert "wrong" not in str(error.value)
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("options", "table", "message"),
    [
        ({"url": "ftp://host"}, {}, "url is https://host/prefix"),
        ({"url": "https://user:word@host"}, {}, "url holds no user"),  # pragma: allowlist secret
        ({}, {"path": "tickets"}, "should match"),
        ({}, {"since": {"param": "since", "updated_at": "topic"}}, "tickets has no timestamp 'topic'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    api: Api, options: dict[str, Any], table: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as error:
        open_connector(desk(api, options, **table), "desk")
    assert message in error.value.message
