"""What the stack's servers hold before anything runs: databases with a role each, buckets, Airflow's tables.

Every step looks first and changes only what is missing, so all of it is run again at every start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from nightshift.errors import DataError
from nightshift.services import airflow
from nightshift.services.checks import OTHER_STORE
from nightshift.settings import settings

# Whose databases stand in which file of secrets; the last role makes databases of its own.
_DATABASES = ("airflow_database", "airflow_results", "mlflow_database", "nightshift_postgres_url")
_MAKES_DATABASES = "nightshift_postgres_url"

# Our own lifecycle rule among those of a bucket.
_EXPIRY = "nightshift-expiry"


def databases(folder: Path) -> list[str]:
    """Create the role and the database of each URL in ``folder``; return the names of the roles.

    A role that exists gets the password of its file, so a changed secret counts from the next start on.
    """
    with psycopg.connect(administrator(folder), autocommit=True) as server:
        roles = {row[0] for row in server.execute("select rolname from pg_roles")}
        existing = {row[0] for row in server.execute("select datname from pg_database")}
        done = []
        for name in _DATABASES:
            parts = urlsplit(_read(folder / name).removeprefix("db+"))
            role, database = unquote(parts.username or ""), parts.path.strip("/")
            verb = "alter" if role in roles else "create"
            server.execute(
                sql.SQL(
                    f"{verb} role {{}} login {'createdb' if name == _MAKES_DATABASES else ''} password {{}}"
                ).format(sql.Identifier(role), sql.Literal(unquote(parts.password or "")))
            )
            if database not in existing:
                server.execute(
                    sql.SQL("create database {} owner {}").format(
                        sql.Identifier(database), sql.Identifier(role)
                    )
                )
            # By default everybody may connect to every database.
            server.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(database)))
            done.append(role)
    return done


def administrator(folder: Path) -> str:
    """Return the URL of the server's superuser: keep it out of logs."""
    return _read(folder / "postgres_admin")


def buckets(names: Iterable[str]) -> None:
    """Create the buckets that are missing, and check that the store keeps what two writers write at once.

    Raises:
        DataError: The store overwrites an object that it was asked not to: commits of tables would be lost.
    """
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3")
    existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in existing:
            client.create_bucket(Bucket=name)
        key = f".nightshift/{uuid4()}"
        client.put_object(Bucket=name, Key=key, Body=b"first")
        try:
            client.put_object(Bucket=name, Key=key, Body=b"second", IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"PreconditionFailed", "412"}:
                raise
        else:
            raise DataError(
                f"bucket {name}: an object was overwritten although it existed",
                rule="the object store honours `If-None-Match: *`, or two commits at once lose one",
                where=client.meta.endpoint_url,
                cure=OTHER_STORE,
            )
        finally:
            client.delete_object(Bucket=name, Key=key)


def expire(bucket: str, days: int) -> bool:
    """Have the store delete what is older than ``days`` in ``bucket``; other rules of the bucket stay.

    Returns:
        False when the store knows no lifecycle rules: what gets old there is deleted by hand.
    """
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3")
    wanted = {
        "ID": _EXPIRY,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": days},
        # An upload whose worker died is in no listing, and is stored all the same.
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    try:
        rules = _rules(client, bucket)
        others = [rule for rule in rules if rule.get("ID") != _EXPIRY]
        if wanted not in rules:
            client.put_bucket_lifecycle_configuration(
                Bucket=bucket, LifecycleConfiguration={"Rules": [*others, wanted]}
            )
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"NotImplemented", "MethodNotAllowed"}:
            raise
        return False
    return True


def _rules(client: Any, bucket: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        found: list[dict[str, Any]] = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []
    return found


def airflow_database(folder: Path) -> None:
    """Bring Airflow's tables up to the installed version; create pools, connections and the first user.

    Raises:
        ServiceError: One of Airflow's own commands failed.
    """
    committed = settings().project.resolve() / "docker"
    here = dict(os.environ)
    airflow.run("db", "migrate", environment=here)
    airflow.run("pools", "import", str(committed / "pools.json"), environment=here)
    airflow.run("connections", "import", str(committed / "connections.yaml"), environment=here)
    password = _read(folder / "airflow_admin_password")
    user = ("--username", airflow.ADMIN, "--role", "Admin", "--email", "admin@localhost")
    # Asked for, and given where no other process can read it: arguments are for everybody.
    answers = (password, password)
    name = ("--firstname", "Night", "--lastname", "Shift")
    airflow.run("users", "create", *user, *name, environment=here, answers=answers)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror}",
            rule="the secrets of the stack are files",
            where=str(file),
            cure="run `nightshift stack secrets`, and hand the file to this service",
        ) from error
