"""What a container engine does for a service: start it again until it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def kept(script: str) -> Iterator[subprocess.Popen[str]]:
    """Keep a shell script running; what it prints can be read."""
    command = [sys.executable, "-m", "nightshift.services.restarting", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_what_ends_is_started_again() -> None:
    with kept("echo began; exit 3") as keeper:
        assert keeper.stdout is not None
        assert [keeper.stdout.readline() for _ in range(2)] == ["began\n"] * 2


def test_what_is_killed_is_started_again() -> None:
    with kept("echo $$; exec sleep 600") as keeper:
        assert keeper.stdout is not None
        first = int(keeper.stdout.readline())
        os.kill(first, signal.SIGKILL)
        assert int(keeper.stdout.readline()) != first


def test_a_stop_ends_both_and_nothing_is_started_again() -> None:
    with kept("echo $$; exec sleep 600") as keeper:
        assert keeper.stdout is not None
        child = int(keeper.stdout.readline())
        keeper.terminate()
        keeper.wait(timeout=30)
        assert not psutil.pid_exists(child)
        assert keeper.stdout.read() == ""


def test_a_stop_lets_the_command_end_in_its_own_way() -> None:
    with kept("trap 'echo goodbye; exit 0' TERM; echo began; while :; do sleep 0.1; done") as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "began\n"
        keeper.terminate()
        assert keeper.stdout.read() == "goodbye\n"
        assert keeper.wait(timeout=30) == 0
