"""Runs a command and starts it again when it ends, as a container engine does: ``restart: unless-stopped``.

``python -m nightshift.services.restarting <command>``. A SIGTERM is handed on, and ends both.
"""

from __future__ import annotations

import signal
import subprocess  # nosec B404  # runs what it is given, without a shell
import sys
import time
from collections.abc import Sequence
from threading import Event

# Seconds before it is started again: twice as long each time, from the first on once it has run for a while.
_FIRST, _LONGEST, _WHILE = 0.5, 30.0, 60.0


class Keeper:
    """Keeps one command running."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = Event()

    def run(self) -> int:
        """Run the command until ``stop``; return the exit code of its last run."""
        pause = _FIRST
        while True:
            began = time.monotonic()
            self._process = subprocess.Popen(self._command)  # nosec B603  # of the caller, no shell
            if self._stopped.is_set():  # while it was being started
                self._process.terminate()
            code = self._process.wait()
            if self._stopped.is_set():
                return code
            pause = _FIRST if time.monotonic() - began > _WHILE else min(pause * 2, _LONGEST)
            sys.stderr.write(f"ended with {code}; started again in {pause:.1f} s: {self._command[0]}\n")
            if self._stopped.wait(pause):
                return code

    def stop(self, *_: object) -> None:
        """Ask the command to end; whoever asks decides how long that may take."""
        self._stopped.set()
        if self._process:
            self._process.terminate()


if __name__ == "__main__":
    keeper = Keeper(sys.argv[1:])
    signal.signal(signal.SIGTERM, keeper.stop)
    sys.exit(keeper.run())
