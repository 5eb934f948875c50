"""The stack of ``docker/compose.yaml`` without containers: each of its services a process on loopback.

The file itself is read, so what runs here has the commands and the environments of the containers. Other is
only what a container engine would give: addresses, folders, and PostgreSQL's server, which is the embedded
one. State is kept in a folder of its own, ``<home>/stack``, so a stack and the default stand side by side.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess  # nosec B404  # starts services, without a shell
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from nightshift.databases import USER
from nightshift.errors import DataError
from nightshift.secrets import secret, secrets_folder, write_private
from nightshift.services import airflow, credentials, postgres, processes
from nightshift.services.compose import ComposeService, read
from nightshift.settings import settings

# Servers that are programs, not Python.
_PROGRAMS = ("redis-server", "weed")

# Everything else needs these until its end.
_SERVERS = (postgres.NAME, "redis", "s3")

_RESTARTING = (sys.executable, "-P", "-m", "nightshift.services.restarting")

# Seconds that a service may take to answer; the databases' migrations are among them.
_PATIENCE = 300.0


def enter() -> None:
    """Make this process, and all it starts, belong to the stack instead of the default's services."""
    os.environ["NIGHTSHIFT_HOME"] = str(settings().home.resolve() / "stack")
    # Those of the default's services, where they have any.
    for name in ("NIGHTSHIFT_POSTGRES_URL", "NIGHTSHIFT_SECRETS"):
        os.environ.pop(name, None)
    settings.cache_clear()


def files() -> list[Path]:
    """Return the compose files: ``docker/compose.yaml``, and what ``NIGHTSHIFT_STACK_FILES`` lays over it."""
    folder = settings().project.resolve() / "docker"
    return [folder / "compose.yaml", *(folder / name for name in settings().stack_files.split())]


def services(replica: int = 0) -> list[ComposeService]:
    """Return the services as replica number ``replica`` of each has them, in the order of starting."""
    return read(files(), variables(replica))


def variables(replica: int = 0) -> dict[str, str]:
    """Return what the variables of the compose file stand for: the caller's, and this machine's places."""
    now, home = settings(), settings().home.resolve()
    here = "127.0.0.1"
    s3 = now.s3_port
    return {
        **os.environ,
        # Containers tell replicas apart by the names of their hosts.
        "REPLICA": str(replica),
        "RUN_SECRETS": str(secrets_folder().resolve() / "run"),
        "LISTEN": here,
        "S3_HOST": here,
        "MLFLOW_HOST": here,
        "AIRFLOW_HOST": here,
        "MLFLOW_HOSTS": f"{here}:{now.mlflow_port},localhost:{now.mlflow_port}",
        "REDIS_DATA": str(home / "redis"),
        "S3_DATA": str(home / "s3"),
        "BUNDLES_DATA": str(home / "bundles"),
        # Its parts talk to each other at these, and at the same ones plus 10,000.
        "S3_MASTER_PORT": str(s3 + 1),
        "S3_VOLUME_PORT": str(s3 + 2),
        "S3_FILER_PORT": str(s3 + 3),
        "NIGHTSHIFT_AIRFLOW_PORT": str(now.airflow_port),
        "NIGHTSHIFT_MLFLOW_PORT": str(now.mlflow_port),
        "NIGHTSHIFT_REDIS_PORT": str(now.redis_port),
        "NIGHTSHIFT_S3_PORT": str(s3),
        # One machine bears all of it.
        "API_WORKERS": os.environ.get("API_WORKERS", "1"),
        "WORKER_CONCURRENCY": os.environ.get("WORKER_CONCURRENCY", str(max(1, now.parallelism // 2))),
    }


def environment(service: ComposeService) -> dict[str, str]:
    """Return the whole environment of a process of ``service``: the image's and the compose file's."""
    foreign = ("NIGHTSHIFT_", "AIRFLOW_", "AWS_")
    inherited = {k: v for k, v in airflow.base_environment().items() if not k.startswith(foreign)}
    return {**inherited, **_image(), **service.environment}


def command_environment(name: str = "worker") -> dict[str, str]:
    """Return the environment that a command needs to see what the service ``name`` sees.

    Raises:
        DataError: There is no such service.
    """
    found = {service.name: service for service in services()}
    if name not in found:
        raise DataError(
            f"the stack has no service {name!r}",
            rule="a command sees what a service of the stack sees",
            where="docker/compose.yaml",
            cure=f"name one of {', '.join(found)}",
        )
    return environment(found[name])


def up(say: Callable[[str], None] = lambda _: None) -> None:
    """Start what does not run yet, in order, and return when all of it answers.

    If anything fails, what this call started is stopped again.

    Raises:
        DataError: A program is not installed, or a port is taken; the message has the cure.
        ServiceError: A service did not start; the message ends with its log.
    """
    _require_programs()
    with processes.exclusive():
        before = set(processes.supervised())
        try:
            _start(say)
        except BaseException:
            _stop(set(processes.supervised()) - before)
            raise


def down() -> list[str]:
    """Stop every process of the stack, check that it is gone, and return the names of the stopped."""
    if not settings().home.exists():
        return []
    with processes.exclusive():
        return _stop(set(processes.supervised()))


def names(service: ComposeService) -> list[str]:
    """Return the names of the processes of ``service``, one a replica."""
    if service.replicas == 1:
        return [service.name]
    return [f"{service.name}-{number}" for number in range(1, service.replicas + 1)]


def start(service: ComposeService) -> None:
    """Start the processes of ``service`` that do not run, and return at once."""
    if service.name == postgres.NAME:
        postgres.start_embedded()
        return
    for replica, name in enumerate(names(service)):
        own = next(found for found in services(replica) if found.name == service.name)
        command = (*_RESTARTING, *own.command) if own.restarts else own.command
        processes.start(processes.Service(name=name, command=command, environment=environment(own)))


def wait_ready(found: Sequence[ComposeService], seconds: float = _PATIENCE) -> None:
    """Return when every one of ``found`` that runs on answers.

    Raises:
        ServiceError: One ended, or did not answer in time.
    """
    for service in found:
        ready = _ready(service)
        processes.wait_until(ready, names(service), seconds, service.name)


def _start(say: Callable[[str], None]) -> None:
    _write_secrets()
    for folder in ("redis", "s3"):
        (settings().home / folder).mkdir(parents=True, exist_ok=True)
    found = {service.name: service for service in services()}
    waited: set[str] = set()
    for service in found.values():
        for name in service.after:
            if name not in waited and not found[name].job:
                wait_ready([found[name]])
                waited.add(name)
        if all(processes.alive(name) for name in names(service)):
            continue
        say(service.name)
        if service.job:
            _run(service)
        else:
            start(service)
    wait_ready([service for service in found.values() if not service.job and service.name not in waited])


def _write_secrets() -> None:
    """Write the secrets, with this machine's addresses. Our own client is Airflow's first user."""
    now = settings()
    folder = secrets_folder().resolve() / "run"
    credentials.write(
        folder,
        credentials.Places(
            postgres=f"127.0.0.1:{now.postgres_port}",
            redis=f"127.0.0.1:{now.redis_port}",
            superuser=USER,
            superuser_password=secret("postgres"),
        ),
    )
    password = (folder / "airflow_admin_password").read_text(encoding="ascii")
    write_private(secrets_folder() / "airflow_admin", password)


def _run(service: ComposeService) -> None:
    """Run a job to its end."""
    log = processes.log_file(service.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = subprocess.run(  # nosec B603  # no shell; the compose file's command
            service.command,
            env=environment(service),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=settings().home,
        )
    if done.returncode:
        raise processes.ServiceError(f"{service.name} failed\n{processes.log_tail(service.name)}")


def _ready(service: ComposeService) -> Callable[[], bool]:
    """Return the question whether ``service`` answers."""
    now = settings()
    questions: dict[str, Callable[[], bool]] = {
        "postgres": lambda: True,  # its start waits for it
        "redis": lambda: _says(now.redis_port, b"PING\r\n"),
        "s3": lambda: _answers(f"http://127.0.0.1:{now.s3_port}/healthz"),
        "mlflow": lambda: _answers(f"http://127.0.0.1:{now.mlflow_port}/health"),
        "api-server": lambda: _healthy("metadatabase"),
        "scheduler": lambda: _healthy("scheduler"),
        "dag-processor": lambda: _healthy("dag_processor"),
        "triggerer": lambda: _healthy("triggerer"),
    }
    return questions.get(service.name) or (lambda: _consumes(service))


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _says(port: int, question: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return bool(connection.recv(64))
    except OSError:
        return False


def _healthy(part: str) -> bool:
    try:
        answer = httpx.get(f"{airflow.address()}/api/v2/monitor/health", timeout=5, trust_env=False)
        return bool(answer.raise_for_status().json()[part]["status"] == "healthy")
    except (httpx.HTTPError, ValueError):
        return False


def _consumes(service: ComposeService) -> bool:
    """Tell whether each worker of ``service`` answers through the broker."""
    from celery import Celery

    broker = (secrets_folder() / "run" / "airflow_broker").read_text(encoding="ascii")
    with Celery(broker=broker) as queue:
        answered = {name.partition("@")[0] for answer in queue.control.ping(timeout=1) for name in answer}
    return answered >= {f"{service.name}-{replica}" for replica in range(service.replicas)}


def _require_programs() -> None:
    path = airflow.base_environment()["PATH"]
    missing = [program for program in _PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        raise DataError(
            f"not installed: {', '.join(missing)}",
            rule="the servers of the stack are installed",
            where="the PATH",
            cure="`make stack-local` installs them where it may; or start it in containers: `make stack-up`",
        )


def _stop(running: set[str]) -> list[str]:
    """Stop workers first, servers last, so that each can still write down that it ends."""
    order = [name for service in reversed(services()) for name in names(service) if name in running]
    stopped = processes.stop([name for name in order if name not in _SERVERS] + sorted(running - set(order)))
    return stopped + [
        name for server in reversed(_SERVERS) if server in running for name in processes.stop([server])
    ]


def _image() -> dict[str, str]:
    now = settings()
    return {
        "NIGHTSHIFT_PROJECT": str(now.project.resolve()),
        "NIGHTSHIFT_HOME": str(now.home.resolve()),
        "AIRFLOW_HOME": str(now.airflow_home.resolve()),
        "AIRFLOW__CORE__DAGS_FOLDER": str(now.project.resolve() / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(now.project.resolve() / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
