"""Asking a server again: after a growing pause, or when it says so itself.

What connectors that ask servers share: which answers may be others in a while, and how long to wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx

_LATER = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE = 60.0

_Answer = TypeVar("_Answer")


class LaterError(Exception):
    """The server cannot answer now.

    Attributes:
        pause: Seconds after which it wants to be asked again; None if it does not say.
    """

    def __init__(self, problem: str, pause: float | None = None) -> None:
        self.pause = pause
        super().__init__(problem)


def ask(attempt: Callable[[], _Answer], attempts: int, longest_pause: float) -> _Answer:
    """Return what ``attempt`` returns, tried again while it raises LaterError.

    Args:
        attempt: Asks once.
        attempts: How often it is tried, at most.
        longest_pause: A server that wants to be left alone for longer (seconds) is not asked again.

    Raises:
        LaterError: Of the last try. Its pause is set only where it was longer than ``longest_pause``.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except LaterError as error:
            if error.pause is not None and error.pause > longest_pause:
                raise
            if tries >= attempts:
                raise LaterError(str(error)) from error
            growing = min(_LONGEST_PAUSE, 2.0 ** (tries - 1))
            wanted = error.pause
        time.sleep(random.uniform(growing / 2, growing) if wanted is None else wanted)  # nosec B311


@contextmanager
def connection_explained() -> Iterator[None]:
    """Turn a connection that fails, stalls or breaks off, and what it garbled, into LaterError."""
    import httpx

    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise LaterError(f"{type(error).__name__}: {error}") from error


def check_now(answer: httpx.Response) -> None:
    """Raise LaterError if an answer says that the server cannot answer now."""
    if answer.status_code in _LATER:
        raise LaterError(
            f"{answer.status_code} {answer.reason_phrase}", _retry_after(answer.headers.get("Retry-After"))
        )


def _retry_after(header: str | None) -> float | None:
    """Return the seconds that an answer wants to be left alone: it says so in seconds, or as a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
