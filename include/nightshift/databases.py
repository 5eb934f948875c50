"""Where PostgreSQL is: the server that ``NIGHTSHIFT_POSTGRES_URL`` names, or else the embedded one.

Rooms ask for the URL of a database here, whoever runs the server. Starting the embedded one is the
business of ``services.postgres``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from nightshift.secrets import secret
from nightshift.settings import settings

if TYPE_CHECKING:
    import psycopg

# The role that the embedded server is made with, and the database that every server has.
USER = "nightshift"
MAINTENANCE_DATABASE = "postgres"

WILDCARDS = ("0.0.0.0", "::")  # nosec B104  # recognised, not bound


def url(database: str, driver: str = "") -> str:
    """Return the URL of ``database``; with a ``driver`` (``psycopg``, ``asyncpg``) as SQLAlchemy wants it.

    The embedded server's URL carries its password: keep it out of logs.
    """
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    if settings().postgres_url:
        parts = urlsplit(settings().postgres_url)
        return urlunsplit((scheme, parts.netloc, f"/{database}", parts.query, ""))
    address = f"{local_address(settings().host)}:{settings().postgres_port}"
    return f"{scheme}://{USER}:{quote(secret('postgres'), safe='')}@{address}/{database}"


def ensure(names: Iterable[str]) -> None:
    """Create those of these databases that do not exist. Safe to call from many processes at once."""
    from psycopg import sql

    with locked(MAINTENANCE_DATABASE, "nightshift: create databases") as connection:
        existing = {row[0] for row in connection.execute("select datname from pg_database")}
        for name in names:
            if name not in existing:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


@contextmanager
def locked(database: str, name: str) -> Iterator[psycopg.Connection]:
    """Let one process at a time in, of all that ask for the lock ``name`` of ``database``.

    The value is a connection that commits each statement. The server frees the lock when the connection ends,
    so also when its holder is killed.
    """
    import psycopg

    with psycopg.connect(url(database), autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
        yield connection


def local_address(host: str) -> str:
    """Return where this machine reaches a service that listens on ``host``."""
    if host in WILDCARDS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
