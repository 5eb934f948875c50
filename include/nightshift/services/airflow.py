"""Airflow on this machine: its environment, its metadata database and its four processes.

Every Airflow process gets its whole configuration from ``environment()``; ``airflow.cfg`` is left to
Airflow's own defaults, so nothing in the state folder has to be edited by hand.
"""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404  # starts Airflow, without a shell
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import httpx
import psycopg

from nightshift.databases import WILDCARDS, ensure, local_address, url
from nightshift.lake import audit
from nightshift.secrets import secret, secrets_folder, write_private
from nightshift.services import processes
from nightshift.settings import settings

ADMIN = "admin"
DATABASE = "airflow"

_CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"

# -P: the state folder, where they run, has folders called airflow and mlflow.
COMMAND = (sys.executable, "-P", "-m", "airflow")
_SCHEDULER = (sys.executable, "-P", "-m", "nightshift.services.preloaded")

# name of the process: arguments of the `airflow` command. Task logs are read from the folder that all
# of them share, so the log servers (two more open ports) are left out.
COMMANDS: dict[str, tuple[str, ...]] = {
    "airflow-api-server": ("api-server",),
    "airflow-scheduler": ("scheduler", "--skip-serve-logs"),
    "airflow-dag-processor": ("dag-processor",),
    "airflow-triggerer": ("triggerer", "--skip-serve-logs"),
}

# What a run of Nightshift never sends anywhere, whatever library does the sending.
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
}


def address() -> str:
    """Return the URL of Airflow's UI and API on this machine."""
    return f"http://{local_address(settings().host)}:{settings().airflow_port}"


def port() -> processes.Port:
    """Return where the API server listens."""
    return processes.Port("Airflow", settings().host, settings().airflow_port, "NIGHTSHIFT_AIRFLOW_PORT")


def admin_password() -> str:
    """Return the generated password of the user ``admin``."""
    return secret("airflow_admin")


def base_environment() -> dict[str, str]:
    """Return this process's environment, made fit for long-lived services: no telemetry, bytecode kept."""
    inherited = dict(os.environ)
    # Without bytecode files every task would compile its heavy imports anew: 2 to 6 times slower.
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    local = "127.0.0.1,localhost"
    others = inherited.get("NO_PROXY") or inherited.get("no_proxy")
    without_proxy = f"{others},{local}" if others else local
    return {
        **inherited,
        **_NO_TELEMETRY,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "NO_PROXY": without_proxy,
        "no_proxy": without_proxy,
        "PYTHONUNBUFFERED": "1",
        # dbt's locks live as long as Python; a task ends without its goodbye, and would log an error.
        "PYTHONWARNINGS": ",".join(
            filter(None, [inherited.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"])
        ),
        # Threads that spin while they wait for each other cost more than they save on busy cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Process titles must not overwrite the environment: `down` finds orphans by a mark in it.
        "SPT_NOENV": "1",
        "NIGHTSHIFT_HOME": str(settings().home.resolve()),
        "NIGHTSHIFT_PROJECT": str(settings().project.resolve()),
    }


def environment() -> dict[str, str]:
    """Return the whole environment of every Airflow process and command."""
    now = settings()
    logs = now.airflow_home.resolve() / "logs"
    configuration: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": now.project.resolve() / "dags",
            "plugins_folder": now.project.resolve() / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": now.parallelism,
            "default_pool_task_slot_count": now.parallelism,
            # A paused consumer loses the events of its producer, and nothing starts by itself before
            # NIGHTSHIFT_LIVE_FROM: so DAGs start unpaused.
            "dags_are_paused_at_creation": False,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{ADMIN}:admin",
            "simple_auth_manager_passwords_file": _passwords_file(),
            "execution_api_server_url": f"{address()}/execution/",
            "fernet_key": secret("airflow_fernet"),
        },
        "database": {
            "sql_alchemy_conn": url(DATABASE, "psycopg2"),
            "sql_alchemy_conn_async": url(DATABASE, "asyncpg"),
        },
        "api": {
            "host": now.host,
            "port": now.airflow_port,
            "workers": 1,
            "secret_key": secret("airflow_api"),
            "expose_config": False,
        },
        "api_auth": {"jwt_secret": secret("airflow_jwt") + secret("airflow_jwt_more")},
        "logging": {
            "base_log_folder": logs,
            "dag_processor_child_process_log_directory": logs / "dag_processor",
            "colored_console_log": False,
        },
        "scheduler": {
            # The pause between finding nothing to do and looking again: most of the time between two tasks.
            "scheduler_idle_sleep_time": 0.25,
            # A task whose supervisor died (`down` in the middle of a run, say) is given back after this.
            "task_instance_heartbeat_timeout": 120,
        },
        # Two busy cores answer late now and then; that is no reason to end a task.
        "workers": {"execution_api_timeout": 30},
        "dag_processor": {
            # New files show after this many seconds, edits of known files at once (by their time
            # stamp); what a DAG file imports or reads shows after min_file_process_interval.
            "refresh_interval": 15,
            "min_file_process_interval": 120,
        },
    }
    if now.host not in WILDCARDS:
        # Behind a wildcard the browser knows the right name, and this machine does not.
        configuration["api"]["base_url"] = address()
    flat = {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, options in configuration.items()
        for option, value in options.items()
    }
    return {**base_environment(), **flat, "AIRFLOW_HOME": str(now.airflow_home.resolve())}


def prepare() -> None:
    """Create or upgrade the metadata database; nothing to do when it is that of the installed version.

    Raises:
        ServiceError: ``airflow db migrate`` failed.
    """
    settings().airflow_home.mkdir(parents=True, exist_ok=True)
    # The file is rewritten, so that a password changed in the secrets folder counts.
    write_private(_passwords_file(), json.dumps({ADMIN: admin_password()}))
    ensure([DATABASE])
    stamp = settings().airflow_home / "migrated"
    installed = version("apache-airflow-core")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == f"{installed} {_revision()}":
        return
    run("db", "migrate", environment=environment())
    stamp.write_text(f"{installed} {_revision()}", encoding="utf-8")


def clean_database(keep_days: int, *, by: str = audit.SCHEDULE) -> None:
    """Delete rows of runs that are older than ``keep_days`` from the metadata database.

    These say who triggered what, so the audit log says that they go.

    A task is not given the address of that database, so this runs with the services' environment: that of the
    worker, where a deployment hands it the address as a secret, else that of the services of this machine.

    Raises:
        ServiceError: ``airflow db clean`` failed.
    """
    before = (datetime.now(UTC) - timedelta(days=keep_days)).isoformat()
    day = before[: len("YYYY-MM-DD")]
    with audit.recorded(
        "clean", usecase="", subject=f"Airflow's records of before {day}", who=by, identity=[day]
    ):
        _clean_database(before)


def _clean_database(before: str) -> None:
    arguments = ("db", "clean", "--yes", "--skip-archive", "--clean-before-timestamp", before)
    if f"{_CONNECTION}_CMD" not in os.environ:
        run(*arguments, environment=environment())
        return
    # What tasks are given instead of the address.
    hidden = (_CONNECTION, "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
    run(*arguments, environment={k: v for k, v in os.environ.items() if k not in hidden})


def start() -> None:
    """Start the four processes that do not run yet, and return at once."""
    whole = environment()
    for name, arguments in COMMANDS.items():
        command = (*(_SCHEDULER if arguments[0] == "scheduler" else COMMAND), *arguments)
        processes.start(processes.Service(name=name, command=command, environment=whole))


def wait_ready(seconds: float = 300) -> None:
    """Return when the API answers and scheduler, DAG processor and triggerer have reported to it.

    Raises:
        ServiceError: One of them ended, or was not ready in time; the message ends with its log.
    """
    processes.wait_until(healthy, list(COMMANDS), seconds, "Airflow")


def healthy() -> bool:
    """Tell whether all four processes work: each has sent a heartbeat since it was started."""
    try:
        response = httpx.get(f"{address()}/api/v2/monitor/health", timeout=5, trust_env=False)
        health = response.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return False
    return health["metadatabase"]["status"] == "healthy" and all(
        _reported(health[part], since)
        for part, since in (
            ("scheduler", "airflow-scheduler"),
            ("dag_processor", "airflow-dag-processor"),
            ("triggerer", "airflow-triggerer"),
        )
    )


def _reported(health: dict[str, str | None], name: str) -> bool:
    """Tell whether the last heartbeat is of the process that runs now, not of one stopped a moment ago."""
    running = processes.alive(name)
    beat = next((value for key, value in health.items() if key.endswith("_heartbeat")), None)
    return bool(running and beat and datetime.fromisoformat(beat).timestamp() > running.created)


def _passwords_file() -> Path:
    return secrets_folder().resolve() / "airflow_passwords.json"


def _revision() -> str:
    """Return the schema revision of the metadata database, empty when there is none."""
    try:
        with psycopg.connect(url(DATABASE)) as connection:
            row = connection.execute("select version_num from alembic_version").fetchone()
            return str(row[0]) if row else ""
    except psycopg.errors.UndefinedTable:
        return ""


def run(*arguments: str, environment: Mapping[str, str], answers: Sequence[str] = ()) -> None:
    """Run one of Airflow's own commands to its end, with ``answers`` to what it asks for.

    Raises:
        ServiceError: It failed; the message ends with what it printed.
    """
    done = subprocess.run(  # nosec B603  # no shell; arguments of our own
        [*COMMAND, *arguments],
        env=environment,
        input="".join(f"{answer}\n" for answer in answers),
        capture_output=True,
        text=True,
        # Without a terminal it asks for passwords on its input.
        start_new_session=True,
        cwd=settings().home,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise processes.ServiceError(f"`airflow {' '.join(arguments)}` failed\n{tail}")
