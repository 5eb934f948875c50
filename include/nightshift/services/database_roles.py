"""Roles of people in PostgreSQL: what a login of each may do with the data that Nightshift keeps there.

Four group roles, none of which can log in: ``nightshift_reader``, ``nightshift_operator``,
``nightshift_approver`` and ``nightshift_admin``, each with the rights of those before it. A person's login is
a member of one. They are made, and their rights set, as often as one likes: what they should not have is
taken away again.

Rights are given on schemas, and by default on every table that the pipeline makes later, so a table that dbt
drops and makes anew is as open as it was. Readers get into the schemas of use cases without personal columns
alone; everybody gets into the predictions. The databases of Airflow, MLflow, Celery and the searches are for
their own services: none of these roles can connect to them, but for an admin to the searches, which the
pipeline owns as it does the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from nightshift.databases import MAINTENANCE_DATABASE, url
from nightshift.errors import DataError, TransientError
from nightshift.services import airflow
from nightshift.services.stack import SERVING
from nightshift.settings import Role
from nightshift.usecase import load_usecase, usecase_names
from nightshift.warehouse.postgres_engine import DATABASE as WAREHOUSE

GROUPS: dict[Role, str] = {role: f"nightshift_{role}" for role in get_args(Role)}
"""The group role of each role, the least first."""

# Of services; ``searches`` is the database of the trials of a search.
_CLOSED = (airflow.DATABASE, "celery", "mlflow", "searches")

_LOCK = "nightshift: roles"
_WRITE = sql.SQL("select, insert, update, delete")


def grant(admin: str = "") -> list[str]:
    """Make the group roles and set their rights in every database that exists.

    Args:
        admin: URL with a role that may make roles, and all that the owner of the tables may; by default that
            of the settings.

    Returns:
        The databases that people may connect to now.

    Raises:
        DataError: The role may not do that.
        TransientError: The server does not answer, or a build changed tables meanwhile.
    """
    admin = admin or url(MAINTENANCE_DATABASE)
    owner = unquote(urlsplit(url(MAINTENANCE_DATABASE)).username or "")
    with _connected(admin, MAINTENANCE_DATABASE) as server:
        # Two that set rights at once would stumble over each other's rows; other sessions see the roles only
        # when they are committed.
        server.autocommit = True
        server.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [_LOCK])
        _make_groups(server, owner)
        existing = {name for (name,) in server.execute("select datname from pg_database")}
        ours = [name for name in (WAREHOUSE, SERVING) if name in existing]
        for name in (*ours, *existing.intersection(_CLOSED)):
            with server.transaction():
                _on_database(server, name, open_to_people=name in ours)
        for name in ours:
            with _connected(admin, name) as connection:
                _in_database(connection, name, owner)
    return ours


def planned() -> dict[str, Any]:
    """Return what ``grant`` is about, as JSON-able values for the audit log.

    Returns:
        ``roles``; ``schemas`` by database, each with the least role that gets into it; and the databases that
        are ``closed`` to all of them. Databases and schemas that do not exist yet are named, too.
    """
    return {
        "roles": list(GROUPS.values()),
        "schemas": {
            database: {
                schema: GROUPS["reader" if readers else "operator"]
                for schema, readers in _schemas(database).items()
            }
            for database in (WAREHOUSE, SERVING)
        },
        "closed": list(_CLOSED),
    }


def _make_groups(server: psycopg.Connection, owner: str) -> None:
    existing = {name for (name,) in server.execute("select rolname from pg_roles")}
    below = ""
    for group in GROUPS.values():
        if group not in existing:
            server.execute(sql.SQL("create role {} nologin").format(sql.Identifier(group)))
        if below:
            server.execute(sql.SQL("grant {} to {}").format(sql.Identifier(below), sql.Identifier(group)))
        below = group
    super_owner = server.execute("select rolsuper from pg_roles where rolname = %s", [owner]).fetchone()
    # Who is a member of a superuser may become one.
    if super_owner == (False,):
        server.execute(sql.SQL("grant {} to {}").format(sql.Identifier(owner), sql.Identifier(below)))


def _on_database(server: psycopg.Connection, name: str, *, open_to_people: bool) -> None:
    everybody = sql.SQL(", ").join([sql.SQL("public"), *map(sql.Identifier, GROUPS.values())])
    server.execute(sql.SQL("revoke all on database {} from {}").format(sql.Identifier(name), everybody))
    if open_to_people:
        rights: tuple[tuple[str, Role], ...] = (
            ("connect", "reader"),
            ("temporary", "operator"),
            ("create", "admin"),
        )
        for right, role in rights:
            server.execute(
                sql.SQL(f"grant {right} on database {{}} to {{}}").format(
                    sql.Identifier(name), sql.Identifier(GROUPS[role])
                )
            )


def _in_database(connection: psycopg.Connection, database: str, owner: str) -> None:
    wanted = _schemas(database)
    for schema in wanted:
        connection.execute(
            sql.SQL("create schema if not exists {} authorization {}").format(
                sql.Identifier(schema), sql.Identifier(owner)
            )
        )
    connection.execute("revoke create on schema public from public")
    existing = connection.execute(
        "select nspname from pg_namespace where nspowner = %s::regrole and nspname !~ '^pg_'",
        [sql.Identifier(owner).as_string(connection)],
    ).fetchall()
    for (schema,) in existing:
        _in_schema(connection, schema, readers=wanted.get(schema, False))
    # What is made later: tables of all schemas; schemas, but for readers, for whom somebody decides.
    later: tuple[tuple[sql.SQL, str, Role], ...] = (
        (sql.SQL("select"), "tables", "reader"),
        (_WRITE, "tables", "operator"),
        (sql.SQL("all"), "tables", "admin"),
        (sql.SQL("usage"), "schemas", "operator"),
        (sql.SQL("all"), "schemas", "admin"),
    )
    for right, on, role in later:
        connection.execute(
            sql.SQL(f"alter default privileges for role {{}} grant {{}} on {on} to {{}}").format(
                sql.Identifier(owner), right, sql.Identifier(GROUPS[role])
            )
        )


def _in_schema(connection: psycopg.Connection, schema: str, *, readers: bool) -> None:
    name = sql.Identifier(schema)
    groups = sql.SQL(", ").join(map(sql.Identifier, GROUPS.values()))
    reader, operator = sql.Identifier(GROUPS["reader"]), sql.Identifier(GROUPS["operator"])
    admin = sql.Identifier(GROUPS["admin"])
    for statement in (
        sql.SQL("revoke all on schema {} from public, {}").format(name, groups),
        sql.SQL("revoke all on all tables in schema {} from public, {}").format(name, groups),
        sql.SQL("grant usage on schema {} to {}").format(name, reader if readers else operator),
        sql.SQL("grant all on schema {} to {}").format(name, admin),
        sql.SQL("grant select on all tables in schema {} to {}").format(name, reader),
        sql.SQL("grant {} on all tables in schema {} to {}").format(_WRITE, name, operator),
        sql.SQL("grant all on all tables in schema {} to {}").format(name, admin),
    ):
        connection.execute(statement)


def _schemas(database: str) -> dict[str, bool]:
    """Return the schemas that a database is to have, and whether readers get into each."""
    if database == SERVING:
        return {"predictions": True}
    found: dict[str, bool] = {}
    for name in usecase_names():
        try:
            uc = load_usecase(name)
        except DataError:
            continue  # its files are broken; nobody can say what is personal in it, so no reader gets in
        columns = (column for _, _, table in uc.tables() for column in table.columns.values())
        open_to_readers = all(column.pii == "none" and not column.encrypt for column in columns)
        found |= {name: open_to_readers, f"raw_{name}": open_to_readers}
    return found


@contextmanager
def _connected(admin: str, database: str) -> Iterator[psycopg.Connection]:
    """Connect to one database, in one transaction by default; its errors in our words."""
    parts = urlsplit(admin)
    try:
        opened = psycopg.connect(urlunsplit(parts._replace(path=f"/{database}")), connect_timeout=10)
    except psycopg.OperationalError as error:
        first, _, _ = str(error).partition("\n")
        raise TransientError(
            f"PostgreSQL does not let anybody in: {first}\n"
            "  rule:  roles are made in a server that runs\n"
            f"  where: database {database} at {parts.hostname}, port {parts.port or 5432}\n"
            "  cure:  start it with `nightshift up` (of docker/: `nightshift stack up`), then try again; if "
            "it runs, see NIGHTSHIFT_POSTGRES_URL"
        ) from error
    try:
        with opened as found:
            yield found
    except psycopg.errors.InsufficientPrivilege as error:
        raise DataError(
            f"the role {unquote(parts.username or '')} may not set rights: {str(error).strip()}",
            rule="who makes roles may make roles, and is the owner of the tables, or a superuser",
            where=f"database {database}",
            cure="run it where the secret postgres_admin is: nightshift stack run --service init-storage "
            "nightshift roles grant",
        ) from error
    except (psycopg.OperationalError, psycopg.InternalError, psycopg.errors.UndefinedTable) as error:
        raise TransientError(f"rights in database {database} could not be set now: {error}") from error
