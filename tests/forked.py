"""Processes of their own that start in milliseconds, to be raced and killed.

They are forked from a server that has imported the heavy libraries once, instead of importing them each. What
the server shall import, test modules say with ``preload`` while tests are collected.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from nightshift.settings import settings

PROCESSES = multiprocessing.get_context("forkserver")
"""Whoever starts processes through this context itself calls ``take_over`` in them."""

# Read when they are imported, which in the server is before our own modules can set them.
os.environ |= {"DO_NOT_TRACK": "1", "GX_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

_modules: list[str] = []


def preload(*modules: str) -> None:
    """Let the server import these modules, in this order, before it forks the first process."""
    _modules.extend(modules)
    PROCESSES.set_forkserver_preload(_modules)


def take_over(environment: dict[str, str]) -> None:
    """Give this process the environment of the test; the server has that of the moment it was started."""
    os.environ.clear()
    os.environ.update(environment)
    settings.cache_clear()


def start(function: Callable[..., object], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start a process that calls a function of a test module."""
    process = PROCESSES.Process(target=_call, args=(dict(os.environ), function, arguments))
    process.start()
    return process


def run(program: str, given: str = "", *arguments: str) -> int:
    """Run a program in a process of its own and wait for its end.

    Args:
        program: Python text. What it raises is on standard error.
        given: Its standard input.
        arguments: Its arguments.

    Returns:
        The exit status; that of a killed process is the signal's number, negative.
    """
    process = start(_execute, program, given, arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def die_at_step(last: int) -> None:
    """Let trainings in this process keep a checkpoint at every step, and kill it after step ``last``."""
    from nightshift.training import progress

    report = progress.Watched.report
    progress._SHARE_OF_CHECKPOINTS = 0

    def deadly(self: progress.Watched, step: int, *others: Any) -> None:
        report(self, step, *others)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    progress.Watched.report = deadly


def _call(environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    take_over(environment)
    function(*arguments)


def _execute(program: str, given: str, arguments: tuple[str, ...]) -> None:
    sys.stdin = io.StringIO(given)
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})  # nosec B102  # programs of tests
