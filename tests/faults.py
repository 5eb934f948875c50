"""Faults on purpose: a proxy that breaks what passes between a client and an object store, and their record.

Every fault test says with ``record_fault`` what it did and what came of it. ``python -m tests.faults`` writes
the newest of these records into the table of ``docs/faults.md``.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from tests.servers import serving

# Proxy ------------------------------------------------------------------------------------------------

Kind = Literal[
    "status", "hang", "slow", "torn upload", "cut download", "lost answer", "conflict", "no conditions"
]

READS, WRITES = frozenset({"GET", "HEAD"}), frozenset({"PUT", "POST", "DELETE"})


@dataclass(frozen=True)
class Rule:
    """Which requests a fault meets. They are counted from 1, those the rule is about alone.

    Attributes:
        kind: What happens to them. ``status`` answers without asking the store; a ``torn upload`` ends after
            half the body, on both sides; a ``lost answer`` is one to a request that the store carried out, a
            ``conflict`` says that it did not; with ``no conditions`` a write that failed its own succeeds.
        every: Of so many requests in a row ...
        burst: ... the first so many are met, so that a client's own tries can be outlasted.
        methods: The methods it is about.
        path: What their path contains.
        status: The status of the kind ``status``.
    """

    kind: Kind
    every: int = 1
    burst: int = 1
    methods: frozenset[str] = READS | WRITES
    path: str = ""
    status: int = 503

    def about(self, method: str, path: str) -> bool:
        return method in self.methods and self.path in path

    def meets(self, number: int) -> bool:
        return (number - 1) % self.every < self.burst


class FaultyProxy(ThreadingHTTPServer):
    """An HTTP proxy in front of a store; transparent until it is given ``rules``.

    ``met`` has the method and path of every request that a fault was done to.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.store = urlsplit(store).netloc
        self.met: list[tuple[str, str]] = []
        self.passed = 0
        self.ending = Event()
        self._rules: tuple[Rule, ...] = ()
        self._counts: dict[Rule, int] = {}
        self._lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def broken(self, *rules: Rule) -> Iterator[None]:
        """Do these faults, each request to the first rule that meets it, and be transparent again after."""
        self._rules, self._counts = rules, {}
        try:
            yield
        finally:
            self._rules = ()

    def fault(self, method: str, path: str) -> Rule | None:
        with self._lock:
            self.passed += 1
            for rule in self._rules:
                if rule.about(method, path):
                    self._counts[rule] = number = self._counts.get(rule, 0) + 1
                    if rule.meets(number):
                        self.met.append((method, path))
                        return rule
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be quiet: clients that hang up are what this is for."""


class _Request(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass_on(self) -> None:
        rule = self.server.fault(self.command, self.path)
        kind = rule.kind if rule else ""
        if kind == "hang":
            return self._hang()
        body = self._body(half=kind == "torn upload")
        if rule and kind == "status":
            return self._refuse(rule.status, "SlowDown" if rule.status == 503 else "InternalError")
        store = http.client.HTTPConnection(self.server.store, timeout=120)
        try:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    store.putheader(name, value)
            store.endheaders(body or None)
            if kind == "torn upload":
                return self._hang_up()
            found = store.getresponse()
            content = found.read()
        finally:
            store.close()
        if kind == "lost answer":
            return self._hang_up()
        if kind == "no conditions" and found.status == 412:
            return self._send(200, [("ETag", '"0"')], b"")
        if kind == "conflict":
            return self._refuse(409, "ConditionalRequestConflict")
        length = found.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        hop = ("content-length", "transfer-encoding", "connection")
        headers = [(name, value) for name, value in found.getheaders() if name.lower() not in hop]
        self._send(found.status, headers, content, kind, length)

    def _refuse(self, status: int, code: str) -> None:
        answer = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()
        self._send(status, [("Content-Type", "application/xml")], answer)

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def _body(self, *, half: bool) -> bytes:
        """Return the request's body, chunks with their framing, or half of it."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while True:
                line = self.rfile.readline()
                size = int(line.split(b";")[0], 16)
                content += line
                if not size:
                    while (line := self.rfile.readline()) not in (b"\r\n", b""):
                        content += line
                    return content[: len(content) // 2] if half else content + b"\r\n"
                content += self.rfile.read(size + 2)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length // 2 if half else length)

    def _send(
        self,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        kind: str = "",
        length: str | None = None,
    ) -> None:
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        length = length or str(len(content))
        if status not in (204, 304):
            lines.append(f"Content-Length: {length}")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if self.command == "HEAD":
            content = b""
        if kind == "cut download":
            self.wfile.write(content[: len(content) // 2])
            return self._hang_up()
        if kind == "slow":
            for start in range(0, len(content), 4096):
                self.wfile.write(content[start : start + 4096])
                time.sleep(0.02)
            return None
        self.wfile.write(content)
        return None

    def _hang(self) -> None:
        """Say nothing until the client has given up."""
        while not self.server.ending.wait(0.02):
            # What it still sends is taken, as by a server that is stuck after reading.
            if select.select([self.connection], [], [], 0)[0]:
                with suppress(OSError):
                    if self.connection.recv(65536):
                        continue
                break
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@contextmanager
def faulty_proxy(store: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the store at the URL ``store``."""
    proxy = FaultyProxy(store)
    with serving(proxy):
        try:
            yield proxy
        finally:
            proxy.ending.set()


# Record -----------------------------------------------------------------------------------------------

_CHECKOUT = Path(__file__).resolve().parents[1]
RECORDS = _CHECKOUT / ".nightshift" / "faults.jsonl"
PAGE = _CHECKOUT / "docs" / "faults.md"
_BEGIN, _END = "<!-- faults: begin -->", "<!-- faults: end -->"

RecordFault = Callable[..., None]


@pytest.fixture(name="record_fault")
def recording_fault(request: pytest.FixtureRequest) -> RecordFault:
    """Return ``record_fault(fault, done, happened)``, which a fault test calls once all has held.

    All is held when what was left is what an undisturbed run leaves, by content hash. A test that never comes
    to call it stands in the table as failed.

    Args:
        fault: What broke, such as ``object store: lost answers``.
        done: How it was broken, with figures.
        happened: What the nights did about it, with figures.
    """
    # A checkout has its own record; one that is tested in a copy of the project has none of the copy's.
    RECORDS.parent.mkdir(exist_ok=True)

    def write(record: dict[str, Any]) -> None:
        line = {"test": request.node.nodeid, "when": datetime.now(UTC).isoformat(), **record}
        # One write to a file opened for appending: tests that run side by side do not mix.
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def record(fault: str, done: str, happened: str) -> None:
        write({"fault": fault, "done": done, "happened": happened})

    write({"fault": None})
    return record


def table(records: list[dict[str, Any]]) -> str:
    """Return the newest record of each test as a table of Markdown, by fault."""
    newest = {record["test"]: record for record in records}
    rows = []
    for test, record in newest.items():
        cells = (
            [record["fault"], record["done"], record["happened"], "yes"]
            if record["fault"]
            else [f"`{test.rpartition('::')[2]}`", "", "the test failed", "**no**"]
        )
        rows.append([*cells, f"`{test.partition('::')[0].removeprefix('tests/')}`"])
    lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in sorted(rows)]
    head = "| fault | what was done | what happened | equal to the undisturbed run | test |\n"
    return head + "| --- | --- | --- | --- | --- |\n" + "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    """Write the table of the newest records into the page."""
    records = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table(records)}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
