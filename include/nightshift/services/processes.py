"""Starting, watching and stopping processes that outlive the command that started them.

A started process leads a session of its own, writes to ``<home>/logs/<name>.log`` and is recorded in
``<home>/run/<name>.json`` with its creation time, so that a reused process id is never mistaken for it.
Its environment carries a mark that every descendant inherits. Stopping therefore finds a process's
children, what is left in its session, and orphans that moved to a session of their own, and it returns
only when all of them are gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess  # nosec B404  # starts services, without a shell
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from nightshift.errors import DataError, NightshiftError
from nightshift.settings import settings

_HOME_MARK = "NIGHTSHIFT_SUPERVISED_HOME"
_NAME_MARK = "NIGHTSHIFT_SUPERVISED_NAME"

# Seconds by which a process's creation time may seem to move when the clock is adjusted.
_CLOCK_SLACK = 5.0
_POLL = 0.05


class ServiceError(NightshiftError):
    """A service did not start, or did not stop."""


@dataclass(frozen=True)
class Service:
    """What is needed to run one process.

    Attributes:
        name: Names the record and the log file.
        command: Program and arguments.
        environment: The whole environment, marks excepted.
        user: System user to run as; only root may name one.
        stop_signal: The signal that makes the process end in good order.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Running:
    """The record of a started process. ``created`` is in seconds since the epoch."""

    name: str
    pid: int
    created: float
    stop_signal: int
    log: str


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the one lock under which services are started and stopped; wait for whoever has it."""
    folder = _run_folder()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(service: Service) -> Running:
    """Start ``service`` unless it runs already, and return its record at once, ready or not."""
    running = alive(service.name)
    if running:
        return running
    stop([service.name])  # what a killed predecessor left behind
    log = log_file(service.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    marks = {_HOME_MARK: _home_mark(), _NAME_MARK: service.name}
    with log.open("ab") as output:
        process = subprocess.Popen(  # nosec B603  # no shell; arguments of our own
            service.command,
            env={**service.environment, **marks},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=service.user,
            group=service.user,
            extra_groups=[] if service.user else None,
            cwd=settings().home,
        )
    # The child is left to the system on purpose: it outlives this command.
    process.returncode = 0
    running = Running(
        name=service.name,
        pid=process.pid,
        created=_created(process.pid),
        stop_signal=service.stop_signal,
        log=str(log),
    )
    record = _record(service.name)
    draft = record.with_suffix(".new")
    draft.write_text(json.dumps(asdict(running)), encoding="utf-8")
    draft.replace(record)
    return running


def recorded() -> dict[str, Running]:
    """Return the record of every service that was started and not stopped since, alive or not."""
    found = {}
    for file in sorted((settings().home / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            running = Running(**json.loads(file.read_text(encoding="utf-8")))
            found[running.name] = running
    return found


def alive(name: str) -> Running | None:
    """Return the record of ``name`` if that very process still runs."""
    running = recorded().get(name)
    return running if running and _process(running) else None


def wait_until(ready: Callable[[], bool], names: Sequence[str], seconds: float, what: str) -> None:
    """Wait until ``ready()`` while every service of ``names`` lives.

    Raises:
        ServiceError: A service ended, or ``seconds`` passed; the message ends with the tail of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        for name in names:
            if not alive(name):
                raise ServiceError(f"{name} ended while {what} was starting\n{log_tail(name)}")
        if time.monotonic() > deadline:
            logs = "\n".join(log_tail(name) for name in names)
            raise ServiceError(f"{what} did not answer within {seconds:.0f} s\n{logs}")
        time.sleep(_POLL)


def stop(names: Sequence[str], *, polite: float = 5.0, grace: float = 10.0) -> list[str]:
    """Stop services with everything they started, check that it is gone, and return what was stopped.

    Each main process gets its own stop signal first; whatever lives on ``polite`` seconds later gets
    SIGTERM, and SIGKILL ``grace`` seconds after that.

    Raises:
        ServiceError: A process survived SIGKILL, or belongs to somebody else; the message names it.
    """
    records = {name: running for name, running in recorded().items() if name in names}
    mains = {name: process for name, running in records.items() if (process := _process(running))}
    members = _members(names, records)
    stopped = sorted({*mains, *(name for name, _ in members)})
    for name, process in mains.items():
        _signal(process, records[name].stop_signal)
    members = _wait_gone(names, records, polite if mains else 0.0)
    for force, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        for _, process in members:
            _signal(process, force)
        if members:
            members = _wait_gone(names, records, seconds, again=force)
    if members:
        left = ", ".join(f"{name}: process {process.pid}" for name, process in members)
        raise ServiceError(
            f"still running after SIGKILL: {left}. End them by hand, then run `nightshift down`."
        )
    for name in names:
        _record(name).unlink(missing_ok=True)
    return stopped


def supervised() -> list[str]:
    """Return the name of every service of this state folder that has a record or a living process."""
    return sorted({*recorded(), *(name for name, _ in _marked())})


def log_file(name: str) -> Path:
    """Return the file that collects what service ``name`` prints."""
    return settings().home / "logs" / f"{name}.log"


def log_tail(name: str, lines: int = 15) -> str:
    """Return the last lines of a service's log under a heading that says where the rest is."""
    file = log_file(name)
    try:
        tail = file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        tail = ["(no log)"]
    return "\n".join([f"--- {file}", *tail])


@dataclass(frozen=True)
class Port:
    """A TCP port that a service listens on, and the environment variable that moves it."""

    service: str
    host: str
    port: int
    setting: str


def require_free(port: Port) -> None:
    """Check that ``port`` can be listened on.

    Raises:
        DataError: It cannot; the message names who has it, and the setting to change.
    """
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.port))
            # Binding alone succeeds beside a listener that reuses the address on some systems.
            probe.listen(1)
        except OSError as error:
            raise DataError(
                f"{port.service} cannot listen on {port.host}:{port.port}: {_why(error, port.port)}",
                rule="the port of each service is free",
                where=f"{port.setting}={port.port}",
                cure=f"end that process, or set {port.setting} to a free port (say {free_port(port.host)})",
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on right now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def port_owner(port: int) -> str | None:
    """Describe the process that listens on ``port``; ``None`` when nobody does or it cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            local = connection.laddr
            if local and local.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:120] or process.name()
                return f"process {process.pid} of user {process.username()} ({command})"
    return None


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{port_owner(port) or 'another process'} has it"
    return error.strerror or str(error)


def _run_folder() -> Path:
    folder = settings().home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(name: str) -> Path:
    return _run_folder() / f"{name}.json"


def _home_mark() -> str:
    return str(settings().home.resolve())


def _created(pid: int) -> float:
    # A program that ended at once has no creation time left; its record is then a dead one.
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).create_time()
    return 0.0


def _process(running: Running) -> psutil.Process | None:
    """Return the live process of a record; a zombie is not alive."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(running.pid)
        same = abs(process.create_time() - running.created) < _CLOCK_SLACK
        return process if same and _lives(process) else None
    return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _marked() -> Iterator[tuple[str, psutil.Process]]:
    """Yield (service, process) for each live process that carries the mark of this state folder."""
    mark = _home_mark()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(_HOME_MARK) == mark and process.pid != os.getpid() and _lives(process):
                yield environment.get(_NAME_MARK, ""), process


def _members(names: Sequence[str], records: Mapping[str, Running]) -> list[tuple[str, psutil.Process]]:
    """Return each live process of the services ``names``: main, descendants, session, marked."""
    found = {process.pid: (name, process) for name, process in _marked() if name in names}
    for name, running in records.items():
        main = _process(running)
        if main:
            found[main.pid] = (name, main)
        # A session id cannot be given to a stranger while the session has members, so with the leader
        # gone whoever is in it is ours; another living process under the leader's id means it ended.
        if main or not psutil.pid_exists(running.pid):
            for process in psutil.process_iter():
                with contextlib.suppress(OSError, psutil.Error):
                    if os.getsid(process.pid) == running.pid and _lives(process):
                        found[process.pid] = (name, process)
    for name, process in list(found.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {child.pid: (name, child) for child in process.children(recursive=True) if _lives(child)}
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [member for pid, member in found.items() if pid not in ours]


def _wait_gone(
    names: Sequence[str],
    records: Mapping[str, Running],
    seconds: float,
    again: signal.Signals | None = None,
) -> list[tuple[str, psutil.Process]]:
    """Wait until no member is left, sending ``again`` to those found anew; return who is left."""
    deadline = time.monotonic() + seconds
    while members := _members(names, records):
        if time.monotonic() >= deadline:
            break
        if again == signal.SIGKILL:
            for _, process in members:
                _signal(process, again)
        time.sleep(_POLL)
    return members


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            process.send_signal(number)
        except psutil.AccessDenied as error:
            raise ServiceError(
                f"process {process.pid} belongs to {process.username()}: not allowed to end it"
            ) from error
