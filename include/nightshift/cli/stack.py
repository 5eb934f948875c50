"""`nightshift stack`: the topology of ``docker/compose.yaml``, and what its containers run to prepare it."""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from nightshift.cli.output import console
from nightshift.databases import ensure
from nightshift.errors import DataError
from nightshift.lake import audit
from nightshift.services import airflow, credentials, database_roles, prepare, processes, production, stack
from nightshift.settings import settings
from nightshift.warehouse.engine import engine


def up(say: Callable[[str], None]) -> None:
    """Start the stack as processes, and print where it answers."""
    production.enter()
    production.up(say)
    _print_addresses()


def down() -> list[str]:
    """Stop it; return what was stopped."""
    production.enter()
    return production.down()


def status() -> None:
    """Print each process of the stack."""
    production.enter()
    for service in production.services():
        if service.job:
            continue
        for name in production.names(service):
            running = processes.alive(name)
            console.print(f"{name:<24} {'up, pid ' + str(running.pid) if running else 'down'}")
    if processes.alive("api-server"):
        _print_addresses()


def run(service: str, command: list[str]) -> None:
    """Replace this process by ``command``, which sees what the service sees."""
    production.enter()
    whole = production.command_environment(service)
    os.execvpe(command[0], command, whole)  # nosec B606  # what the person typed, without a shell


def secrets(folder: Path) -> None:
    """Write the secrets of the containers."""
    written = credentials.write(folder, credentials.Places())
    console.print(f"{'written to' if written else 'already in'} {folder}", markup=False)


def prepare_storage(buckets: list[str], logs: str, keep_days: int) -> None:
    """Create databases, roles and buckets, and have the store delete logs that got old."""
    roles = prepare.databases(_secrets())
    ensure([stack.SERVING])
    if settings().warehouse == "postgres":
        with engine().connect():
            pass  # it exists now, and so can be opened to people
    try:
        database_roles.grant(prepare.administrator(_secrets()))
    except DataError as error:
        # On a server of one's own the administrator may do less. People then get no logins; all else works.
        console.print(f"roles of people in PostgreSQL were not set: {error}", markup=False)
    prepare.buckets([*buckets, logs])
    console.print(f"databases of {', '.join(roles)}; buckets {', '.join([*buckets, logs])}", markup=False)
    if prepare.expire(logs, keep_days):
        console.print(f"{logs}: objects are deleted after {keep_days} days", markup=False)
    else:
        console.print(f"{logs}: the store has no lifecycle rules, delete old logs by hand", markup=False)


def grant_roles() -> None:
    """Make the roles of people in PostgreSQL, and set their rights."""
    # Services are not handed that file: there, what the settings name has to do.
    given = (_secrets() / "postgres_admin").exists()
    with audit.recorded(
        "grant",
        usecase="",
        subject="roles of people in PostgreSQL",
        who=getpass.getuser(),
        details=database_roles.planned(),
        identity=[uuid.uuid4().hex],
    ):
        opened = database_roles.grant(prepare.administrator(_secrets()) if given else "")
    console.print(f"roles: {', '.join(database_roles.GROUPS.values())}", markup=False)
    console.print(f"their members may connect to: {', '.join(opened) or 'nothing, it is not there yet'}")


def prepare_airflow() -> None:
    """Create Airflow's tables, pools, connections and first user, and MLflow's experiments."""
    from nightshift.registry import mlflow
    from nightshift.usecase import load_usecase, usecase_names

    prepare.airflow_database(_secrets())
    for name in usecase_names():
        mlflow.setup(load_usecase(name))
    console.print("Airflow's tables, pools, connections and first user; MLflow's experiments")


def _secrets() -> Path:
    return Path(os.environ.get("NIGHTSHIFT_SECRETS", "/run/secrets"))


def _print_addresses() -> None:
    login = f"user {airflow.ADMIN}, password {airflow.admin_password()}"
    console.print(f"Airflow     {airflow.address()}  {login}")
    console.print(f"MLflow      http://127.0.0.1:{settings().mlflow_port}  no login")
    console.print(f"S3          http://127.0.0.1:{settings().s3_port}  bucket nightshift")
    console.print(
        "commands see it through `nightshift stack run`, such as `nightshift stack run nightshift status`"
    )
