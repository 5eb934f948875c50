"""What must hold for the services to work here: each check says what is wrong and what to do about it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

from nightshift.errors import DataError, NightshiftError, TransientError
from nightshift.secrets import secrets_folder
from nightshift.services import airflow, mlflow, postgres, processes
from nightshift.settings import Settings, settings

# Below this the demo's data, logs and database do not fit.
_NEEDED_BYTES = 3 * 1024**3

# For an object store that does not honour `If-None-Match: *`.
OTHER_STORE = "use a store that does: Amazon S3, SeaweedFS, MinIO; or update this one"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``cure`` is empty when it passed."""

    check: str
    passed: bool
    detail: str
    cure: str = ""


def before_up() -> list[Finding]:
    """Return the findings that decide whether starting makes sense, but for ports, which need the lock."""
    found = [python_version(), writable()]
    # Nothing below can be looked at in a folder that cannot be used.
    return found if not found[-1].passed else [*found, disk_space(), whole_state()]


def everything() -> Iterator[Finding]:
    """Yield the finding of every check, for `nightshift doctor`."""
    yield python_version()
    yield package_versions()
    yield known_settings()
    home = writable()
    yield home
    if home.passed:
        yield disk_space()
        yield from free_ports()
        yield stale_records()
        yield whole_state()
        yield lake()
        yield pii_key()
        yield whole_tables()
        yield warehouse()
        yield whole_tracking()


def require(findings: Sequence[Finding]) -> None:
    """Raise the failed ones of ``findings`` as one error.

    Raises:
        DataError: At least one check failed.
    """
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        raise DataError(
            "; ".join(f"{finding.check}: {finding.detail}" for finding in failed),
            rule="the checks of `nightshift doctor` pass",
            where=str(settings().home),
            cure="; ".join(finding.cure for finding in failed),
        )


def python_version() -> Finding:
    """Check that this is Python 3.11."""
    found = ".".join(map(str, sys.version_info[:3]))
    passed = sys.version_info[:2] == (3, 11)
    return Finding("python", passed, found, "" if passed else "run `make .venv` with Python 3.11 on the PATH")


def package_versions() -> Finding:
    """Check installed packages against constraints.txt. One that is not installed is not needed here."""
    file = settings().project / "constraints.txt"
    try:
        pins = re.findall(
            r"^([\w.-]+)(?:\[[^]]*\])?==([\w.!+-]+)", file.read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError as error:
        return Finding("packages", False, f"cannot read {file}: {error}", "run from a whole checkout")
    different = []
    for name, pinned in pins:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        # A local build (2.13.0+cpu) is the pinned release.
        if found.partition("+")[0] != pinned.partition("+")[0]:
            different.append(f"{name} {found} instead of {pinned}")
    if different:
        return Finding(
            "packages", False, ", ".join(different), "run `make .venv` to install what constraints.txt lists"
        )
    return Finding("packages", True, f"{len(pins)} pins agree")


def writable() -> Finding:
    """Check that the state folder exists or can be made, and that files can be written in it."""
    home = settings().home
    probe = home / f".probe-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        return Finding(
            "state folder",
            False,
            f"{home} cannot be written: {error.strerror}",
            "give yourself write access to it, or set NIGHTSHIFT_HOME to a folder of yours",
        )
    return Finding("state folder", True, f"{home} is writable")


def disk_space(needed: int = _NEEDED_BYTES) -> Finding:
    """Check that the disk of the state folder has ``needed`` bytes left."""
    free = shutil.disk_usage(settings().home).free
    detail = f"{free / 1024**3:.1f} GiB free, {needed / 1024**3:.1f} needed"
    cure = f"free space on the disk of {settings().home}, or set NIGHTSHIFT_HOME to a folder on another one"
    return Finding("disk", free >= needed, detail, "" if free >= needed else cure)


def ports() -> list[processes.Port]:
    """Return the ports of the services that run here and do not run yet."""
    embedded = [] if settings().postgres_url else [(postgres.NAME, postgres.port())]
    tracking = [] if settings().mlflow_url else [(mlflow.NAME, mlflow.port())]
    wanted = [*embedded, ("airflow-api-server", airflow.port()), *tracking]
    return [port for name, port in wanted if not processes.alive(name)]


def free_ports() -> Iterator[Finding]:
    """Check each port that is still to be taken."""
    busy = False
    for port in ports():
        try:
            processes.require_free(port)
        except DataError as error:
            busy = True
            yield Finding("ports", False, error.message, error.cure)
    if not busy:
        yield Finding("ports", True, "free, or ours")


def known_settings() -> Finding:
    """Check that no variable looks like a setting and is none, as a misspelt one does."""
    known = {f"NIGHTSHIFT_{name.upper()}" for name in Settings.model_fields} | {"NIGHTSHIFT_SECRETS"}
    # What Nightshift sets for dbt and for the processes it starts.
    ours = re.compile("NIGHTSHIFT_(DBT|SOURCE|SUPERVISED)_")
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("NIGHTSHIFT_") and name not in known and not ours.match(name)
    )
    if unknown:
        return Finding(
            "settings",
            False,
            f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} no setting and changes nothing",
            f"correct or unset it; the settings are {', '.join(sorted(known))}",
        )
    return Finding("settings", True, "known")


def stale_records() -> Finding:
    """Check that what is recorded as running runs, and that nothing runs whose main process is gone."""
    stale = [name for name in processes.supervised() if not processes.alive(name)]
    if stale:
        detail = f"ended without `nightshift down`: {', '.join(stale)}"
        return Finding("stale processes", False, detail, "run `nightshift down`, which clears up after them")
    return Finding("stale processes", True, "none")


def whole_state() -> Finding:
    """Check for parts of the state folder that were deleted while others were kept."""
    for broken in (_half_a_server, _server_without_password, _warehouse_without_lake):
        finding = broken()
        if finding:
            return finding
    return Finding("state", True, "whole")


def lake() -> Finding:
    """Check that of two who write one object in an S3 lake the first is kept: every commit rests on it."""
    from nightshift.lake.store import open_store

    uri = settings().lake_uri
    if not uri.startswith("s3://"):
        return Finding("lake", True, uri)
    key = f"probe/{uuid4().hex}"
    try:
        store = open_store()
        try:
            store.put_new(key, b"first")
            overwritten = store.put_new(key, b"second")
        finally:
            store.delete(key)
    except NightshiftError as error:
        return Finding("lake", False, str(error), "mend what the message names first")
    if overwritten:
        detail = f"{uri}: an object was overwritten although it was there, so that commits would be lost"
        return Finding("lake", False, detail, OTHER_STORE)
    return Finding("lake", True, f"{uri} keeps the first of two writers")


def pii_key() -> Finding:
    """Check that there is a key where columns are to be pseudonymised, and that it is the lake's."""
    from nightshift.lake.protection import has_key, key_of
    from nightshift.usecase import load_usecase, usecase_names

    wanting = []
    try:
        for name in usecase_names():
            uc = load_usecase(name)
            tables = [table for _, _, table in uc.tables()]
            if any(one.protect == "pseudonymise" for table in tables for one in table.columns.values()):
                wanting.append(name)
                if has_key(uc) or not settings().pii_key.get_secret_value():
                    key_of(uc)
    except DataError as error:
        return Finding("pii key", False, error.message, error.cure)
    except NightshiftError as error:
        return Finding("pii key", False, str(error), "mend what the message names first")
    return Finding("pii key", True, f"of {', '.join(wanting)}" if wanting else "no use case needs one")


def whole_tables() -> Finding:
    """Check that storage has every file that the tables of the lake name."""
    from nightshift.lake import tables
    from nightshift.usecase import load_usecase, usecase_names

    lost = []
    try:
        for name in usecase_names():
            uc = load_usecase(name)
            for layer in tables.layers(uc):
                lost += [f"{name}, {layer} {day}" for day in sorted(tables.damaged(uc, layer))]
    except NightshiftError as error:
        return Finding("tables", False, str(error), "mend what the message names first")
    if lost:
        return Finding("tables", False, f"files are gone of {', '.join(lost[:5])}", _REBUILD)
    return Finding("tables", True, "whole")


_REBUILD = (
    "run the DAG rebuild, which replaces lost files: nightshift airflow dags trigger <use case>.rebuild -c "
    """'{"start": "<day>", "end": "<day>", "stages": ["features", "predictions", "monitoring"]}'"""
)


def warehouse() -> Finding:
    """Check that the engine behind dbt can be used, unless it is the embedded server and not started."""
    from nightshift.warehouse.engine import NoWarehouseError, engine

    used = engine()
    embedded = settings().warehouse == "postgres" and not settings().postgres_url
    if embedded and not processes.alive(postgres.NAME):
        return Finding("warehouse", True, f"{used.where()}: starts with `nightshift up`")
    try:
        with used.connect(read_only=True):
            return Finding("warehouse", True, used.where())
    except DataError as error:
        return Finding("warehouse", False, f"{used.where()}: {error.message}", error.cure)
    except NoWarehouseError:
        return Finding("warehouse", True, f"{used.where()}: not created yet")
    except TransientError as error:
        cure = "wait for the build that uses it, or start the server that NIGHTSHIFT_POSTGRES_URL names"
        return Finding("warehouse", False, f"{used.where()}: {error}", cure)


def whole_tracking() -> Finding:
    """Check that MLflow's database is one, and still holds the champions of the deployment log."""
    if settings().mlflow_url:
        return Finding("mlflow", True, settings().mlflow_url)
    file = settings().home / "mlflow" / "mlflow.db"
    versions: set[tuple[str, str]] | None = None
    if file.exists():
        try:
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
                rows = connection.execute("select name, version from model_versions").fetchall()
                versions = {(str(name), str(number)) for name, number in rows}
        except sqlite3.Error as error:
            return Finding(
                "mlflow", False, f"{file} is no MLflow database: {error}", f"delete {file.parent}; {_RETRAIN}"
            )
    lost = [
        f"{name} version {number}" for name, number in _champions() if (name, number) not in (versions or ())
    ]
    if lost:
        return Finding("mlflow", False, f"{file} does not know the champion: {', '.join(lost)}", _RETRAIN)
    return Finding("mlflow", True, "whole" if file.exists() else "not created yet")


_RETRAIN = (
    "put the folder mlflow back from a copy, or start over: run `nightshift down`, delete the state folder "
    "and run `make demo`"
)


def _half_a_server() -> Finding | None:
    folder = postgres.data_folder()
    damaged = postgres.damage(folder)
    return Finding("state", False, damaged, postgres.CURE.format(folder=folder)) if damaged else None


def _server_without_password() -> Finding | None:
    folder = postgres.data_folder()
    if (folder / "PG_VERSION").exists() and not (secrets_folder() / "postgres").exists():
        detail = f"{folder} is there, its password {secrets_folder() / 'postgres'} is not"
        return Finding("state", False, detail, postgres.CURE.format(folder=folder))
    return None


def _warehouse_without_lake() -> Finding | None:
    from nightshift.lake.store import open_store

    warehouse = settings().home / "warehouse"
    if warehouse.is_dir() and any(warehouse.glob("*.duckdb")) and not open_store().list("raw/"):
        detail = f"{warehouse} holds what was loaded from raw objects that are gone"
        return Finding("state", False, detail, f"delete {warehouse}: it is rebuilt from the lake")
    return None


def _champions() -> Iterator[tuple[str, str]]:
    from nightshift.registry import deployments
    from nightshift.usecase import load_usecase, usecase_names

    for name in usecase_names():
        try:
            deployment = deployments.newest(load_usecase(name))
        except DataError:
            continue
        if deployment:
            yield name, deployment.version
