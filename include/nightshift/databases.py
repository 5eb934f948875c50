"""Where PostgreSQL is: the server that ``NIGHTSHIFT_POSTGRES_URL`` names, or else the embedded one.

Rooms ask for the URL of a database here, whoever runs the server. Starting the embedded one is the
business of ``services.postgres``.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from nightshift.secrets import secret
from nightshift.settings import settings

# The role that the embedded server is made with, and the database that every server has.
USER = "nightshift"
MAINTENANCE_DATABASE = "postgres"

WILDCARDS = ("0.0.0.0", "::")


def url(database: str, driver: str = "") -> str:
    """Return the URL of ``database``; with a ``driver`` (``psycopg2``, ``asyncpg``) as SQLAlchemy wants it.

    The embedded server's URL carries its password: keep it out of logs.
    """
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    if settings().postgres_url:
        parts = urlsplit(settings().postgres_url)
        return urlunsplit((scheme, parts.netloc, f"/{database}", parts.query, ""))
    address = f"{local_address(settings().host)}:{settings().postgres_port}"
    return f"{scheme}://{USER}:{quote(secret('postgres'), safe='')}@{address}/{database}"


def local_address(host: str) -> str:
    """Return where this machine reaches a service that listens on ``host``."""
    if host in WILDCARDS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
