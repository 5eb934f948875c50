"""Parsers in a process of their own: what makes one hang, crash or grow is an error, and names a document.

The process gets of the environment what Python needs, and so no key, password or address of a source.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess  # nosec B404  # starts Python, without a shell
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType

from nightshift.errors import TransientError
from nightshift.sources.parsing import Document, UnreadableError, parse

_MEMORY = 2 * 1024**3
# Where programs and libraries lie, how text is written, and how many threads to start.
_ENVIRONMENT = re.compile(
    r"PATH|LD_LIBRARY_PATH|TMPDIR|TZ|LANG|LANGUAGE|LC_[A-Z]+|PYTHON[A-Z0-9]+|(OMP|OPENBLAS|MKL)_NUM_THREADS"
)
# By someone, or by a machine that has no memory left, and not by what was read.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)


class ParserProcess:
    """Reads documents, one after the other.

    Attributes:
        process: It starts with the first document, and ends where this is left.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def parse(self, name: str, content: bytes, *, encoding: str, most: float, seconds: float) -> Document:
        """Return what a document says; as ``parsing.parse``, within so many seconds.

        Raises:
            UnreadableError: It is damaged, encrypted, in another encoding, or beyond a limit, or its parser
                crashed or took too long.
            TransientError: The process was killed, or did not start.
        """
        connection = self._started()
        try:
            connection.send((name, content, encoding, most, seconds))
            answer: Document | str = connection.recv()
        except (EOFError, OSError) as error:
            code = self._stop()
            if code == -signal.SIGALRM:
                raise UnreadableError(f"to read it takes more than {seconds:g} s") from error
            if code in _KILLED:
                raise TransientError(f"the parser was killed ({code}) while it read {name}") from error
            raise UnreadableError(f"its parser crashed ({code})") from error
        if isinstance(answer, Document):
            return answer
        raise UnreadableError(answer)

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        self._connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(  # nosec B603  # our own module
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise TransientError(f"the parser did not start: it ended with {self._stop()}") from error
        return self._connection

    def _stop(self) -> int | None:
        """End the process; return the code with which it ended by itself, if it did."""
        code = None
        if self._connection is not None:
            self._connection.close()
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                # Who has crashed, or has nothing to do, is gone within a moment.
                code = self.process.wait(timeout=5)
            self.process.kill()
            self.process.wait()
        self.process = self._connection = None
        return code


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    return passed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def main(descriptor: int) -> None:
    """Read documents for the process at the other end of the connection until it hangs up."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with Connection(descriptor) as connection, suppress(EOFError, KeyboardInterrupt):
        connection.send("ready")
        while True:
            name, content, encoding, most, seconds = connection.recv()
            # Ends this process, also within a parser, and also if nobody waits for it any more.
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer: Document | str = parse(name, content, encoding=encoding, most=most)
            except UnreadableError as error:
                answer = str(error)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
