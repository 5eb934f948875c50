from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.integration.services.conftest import lives

from nightshift.errors import DataError
from nightshift.services import processes
from nightshift.services.processes import Port, Service, ServiceError

# A parent that ignores SIGTERM, with a child that ignores it and an orphan in a session of its own that
# ignores it too. Each writes its id once its handlers are set.
_STUBBORN = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def live(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / (name + ".new")).write_text(str(os.getpid()))
    (folder / (name + ".new")).rename(folder / name)
    while True: time.sleep(60)
if os.fork() == 0:
    live("child")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        live("orphan")
    os._exit(0)
live("parent")
"""

_SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def stubborn(state: Path, environment: dict[str, str], tmp_path: Path) -> dict[str, int]:
    processes.start(Service("stubborn", (sys.executable, "-c", _STUBBORN, str(tmp_path)), environment))
    names = ("parent", "child", "orphan")
    _until(lambda: all((tmp_path / name).exists() for name in names))
    return {name: int((tmp_path / name).read_text()) for name in names}


def test_stop_ends_children_and_orphans_that_ignore_sigterm(stubborn: dict[str, int]) -> None:
    assert all(map(lives, stubborn.values()))
    assert processes.stop(["stubborn"], polite=0.2, grace=0.2) == ["stubborn"]
    assert not any(map(lives, stubborn.values()))
    assert processes.supervised() == []


def test_what_a_killed_service_left_is_found_and_ended(stubborn: dict[str, int]) -> None:
    psutil.Process(stubborn["parent"]).kill()
    _until(lambda: processes.alive("stubborn") is None)
    assert lives(stubborn["child"])
    assert lives(stubborn["orphan"])
    processes.stop(["stubborn"], polite=0.2, grace=0.2)
    assert not any(map(lives, stubborn.values()))


def test_orphans_are_found_without_any_record(stubborn: dict[str, int], state: Path) -> None:
    (state / "run" / "stubborn.json").unlink()
    assert processes.supervised() == ["stubborn"]
    processes.stop(["stubborn"], polite=0.2, grace=0.2)
    assert not any(map(lives, stubborn.values()))


def test_a_second_start_finds_the_first(state: Path, environment: dict[str, str]) -> None:
    service = Service("sleeper", _SLEEP, environment)
    assert processes.start(service) == processes.start(service)


def test_a_service_outlives_the_command_that_started_it(state: Path) -> None:
    code = (
        "from nightshift.services.processes import Service, start;"
        f"print(start(Service('sleeper', {_SLEEP!r}, {{}})).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    running = processes.alive("sleeper")
    assert running is not None
    assert running.pid == int(done.stdout)


def test_a_reused_process_id_is_left_alone(state: Path, environment: dict[str, str]) -> None:
    stranger = subprocess.Popen(_SLEEP, start_new_session=True)
    try:
        running = processes.start(Service("sleeper", _SLEEP, environment))
        processes.stop(["sleeper"])
        # As after a restart of the machine: the recorded id is somebody else's by now.
        record = state / "run" / "sleeper.json"
        record.write_text(
            f'{{"name": "sleeper", "pid": {stranger.pid}, "created": {running.created - 3600}, '
            '"stop_signal": 15, "log": ""}'
        )
        assert processes.alive("sleeper") is None
        processes.stop(["sleeper"])
        assert stranger.poll() is None
        assert not record.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_service_that_ends_while_starting_shows_its_log(state: Path, environment: dict[str, str]) -> None:
    code = "raise SystemExit('the disk is on fire')"
    processes.start(Service("broken", (sys.executable, "-c", code), environment))
    with pytest.raises(ServiceError, match=r"broken ended .*\n.*broken.log\nthe disk is on fire"):
        processes.wait_until(lambda: False, ["broken"], 20, "the broken thing")


def test_the_stop_signal_is_the_service_s_own(
    state: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    ready, said = tmp_path / "ready", tmp_path / "said"
    code = (
        "import pathlib, signal, sys, time;"
        f"said = pathlib.Path({str(said)!r});"
        "signal.signal(signal.SIGINT, lambda *_: (said.write_text('bye'), sys.exit()));"
        f"pathlib.Path({str(ready)!r}).touch();"
        "time.sleep(600)"
    )
    command = (sys.executable, "-c", code)
    processes.start(Service("polite", command, environment, stop_signal=signal.SIGINT))
    _until(ready.exists)
    processes.stop(["polite"])
    assert said.read_text() == "bye"


def test_a_taken_port_names_its_owner_and_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DataError) as error:
            processes.require_free(Port("Airflow", "127.0.0.1", port, "NIGHTSHIFT_AIRFLOW_PORT"))
    assert f"process {psutil.Process().pid} " in error.value.message
    assert f"NIGHTSHIFT_AIRFLOW_PORT={port}" in str(error.value)
    processes.require_free(Port("Airflow", "127.0.0.1", port, "NIGHTSHIFT_AIRFLOW_PORT"))
