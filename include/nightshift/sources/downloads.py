"""Files of a web server, kept on this machine and asked about again now and then.

A file is streamed to disk, looked through, and only then counts, all at once: whoever is killed before leaves
something that nobody reads. One process downloads a file while others that want it wait. A file that was kept
is asked about again after a while, and comes anew only if the server has another one (``ETag``,
``Last-Modified``). When the server cannot be asked then, what was kept is used.

What is kept is a copy and may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.errors import DataError, NightshiftError, TransientError
from nightshift.lake.store import disk_explained
from nightshift.sources.retries import LaterError, ask, check_now, connection_explained

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

_RECORD = "kept.json"

# Seconds after which a server that sends a little now and then is hung up on; others wait for the same file.
_LONGEST_DOWNLOAD = 3600.0
# How long a file that the server did not have is not asked for again in this process: a range that is cut in
# halves to find its bad days would ask for each of them.
_ABSENT_SECONDS = 60.0
_absent: dict[str, float] = {}


class Manners(BaseModel):
    """How a server is asked; a part of a source's ``options``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_seconds: float = Field(
        60, gt=0, description="For the beginning of an answer, and each part of it."
    )
    attempts: int = Field(6, ge=1, description="How often a file is tried.")
    retry_after_most: float = Field(
        300, ge=0, description="A server that wants a longer pause is left to the task's own retry."
    )
    recheck_hours: float = Field(
        24, ge=0, description="A file that was kept for longer is asked about again before it is used."
    )


class Kept(BaseModel):
    """What is known of a file that was kept.

    Attributes:
        url: Where it came from.
        sha256: Of its content, which lies under this name beside the record.
        size: In bytes.
        etag: What the server calls this content.
        last_modified: Since when the server has it, in the server's words.
        checked_at: When the server was asked last (seconds since 1970).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    sha256: str
    size: int
    etag: str | None
    last_modified: str | None
    checked_at: float


@dataclass(frozen=True)
class Download:
    """A file of a server as it lies on this machine."""

    path: Path
    kept: Kept


class Downloads:
    """Files of one source, each in a folder of its own with its record ``kept.json``."""

    def __init__(self, folder: Path, place: str, manners: Manners, most_bytes: int) -> None:
        """Nothing is asked yet.

        Args:
            folder: Where files are kept.
            place: The source, for errors.
            manners: How the server is asked.
            most_bytes: A file that is larger is refused.
        """
        self._folder = folder
        self._place = place
        self._manners = manners
        self._most_bytes = most_bytes

    def get(self, url: str, check: Callable[[Path], None]) -> Download | None:
        """Return a file; None if the server has none there.

        Args:
            url: Its address; the last part is its name.
            check: Is given each file before it counts. It raises LaterError if the file is not whole, so that
                it is asked for again, and DataError if it must not be used.

        Raises:
            DataError: The server refuses, or the file is too large.
            TransientError: The server cannot answer now.
        """
        folder = self._folder / url.rpartition("/")[2]
        with _held(folder):
            kept = _read(folder, url)
            if kept and 0 <= time.time() - kept.checked_at < self._manners.recheck_hours * 3600:
                return Download(folder / kept.sha256, kept)
            _sweep(folder, kept)
            try:
                return self._asked(url, folder, kept, check)
            except NightshiftError as error:
                if kept is None:
                    raise
                log.warning("%s is used as it was kept: %s", url, error)
                return Download(folder / kept.sha256, kept)

    def forget(self, download: Download) -> None:
        """Drop a file that turned out to be damaged since it was kept."""
        folder = download.path.parent
        with _held(folder):
            if _read(folder, download.kept.url) == download.kept:
                (folder / _RECORD).unlink()

    def _asked(
        self, url: str, folder: Path, kept: Kept | None, check: Callable[[Path], None]
    ) -> Download | None:
        if kept is None and time.monotonic() < _absent.get(url, 0.0):
            return None
        import httpx

        # As it is: its length is then what the server says it is.
        headers = {"User-Agent": "nightshift", "Accept-Encoding": "identity"}
        if kept and kept.etag:
            headers["If-None-Match"] = kept.etag
        if kept and kept.last_modified:
            headers["If-Modified-Since"] = kept.last_modified
        with httpx.Client(headers=headers, timeout=self._manners.timeout_seconds) as client:

            def attempt() -> Kept | None:
                with connection_explained(), client.stream("GET", url) as answer:
                    return self._received(answer, url, folder, kept, check)

            try:
                # There is something to go on with: no need to insist.
                attempts = 1 if kept else self._manners.attempts
                got = ask(attempt, attempts, self._manners.retry_after_most)
            except LaterError as error:
                rest = "" if error.pause is None else f", and wants {error.pause:.0f} s of rest"
                raise TransientError(f"{self._place} cannot answer now: {error}{rest} (GET {url})") from error
            finally:
                _part(folder).unlink(missing_ok=True)
        if got is None:
            if kept:
                raise TransientError(f"{self._place}: the server has no {url} any more")
            _absent[url] = time.monotonic() + _ABSENT_SECONDS
            return None
        _write(folder, got)
        return Download(folder / got.sha256, got)

    def _received(
        self,
        answer: httpx.Response,
        url: str,
        folder: Path,
        kept: Kept | None,
        check: Callable[[Path], None],
    ) -> Kept | None:
        """Return what is to be recorded, with the content in its place by then; None if there is no file."""
        check_now(answer)
        if kept and answer.status_code == 304:
            return kept.model_copy(update={"checked_at": time.time()})
        if answer.status_code in (404, 410):
            return None
        if answer.status_code != 200:
            raise DataError(
                f"the server answered {answer.status_code} {answer.reason_phrase}",
                rule="the server gives its files to whoever asks",
                where=f"{self._place}: GET {answer.url}",
                cure="correct the address in the options of this source in sources.yml",
            )
        part = _part(folder)
        digest, size = self._written(answer, part)
        check(part)
        part.replace(folder / digest)
        return Kept(
            url=url,
            sha256=digest,
            size=size,
            etag=answer.headers.get("ETag"),
            last_modified=answer.headers.get("Last-Modified"),
            checked_at=time.time(),
        )

    def _written(self, answer: httpx.Response, part: Path) -> tuple[str, int]:
        digest, size, until = hashlib.sha256(), 0, time.monotonic() + _LONGEST_DOWNLOAD
        with disk_explained(part), part.open("wb") as file:
            for content in answer.iter_bytes():
                size += len(content)
                if size > self._most_bytes:
                    raise DataError(
                        f"the file is larger than {self._most_bytes >> 20} MiB",
                        rule="a file has the size that files of this source have",
                        where=f"{self._place}: GET {answer.url}",
                        cure="see what the server sends there",
                    )
                if time.monotonic() > until:
                    raise LaterError(f"the file takes longer than {_LONGEST_DOWNLOAD:.0f} s to come")
                digest.update(content)
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest(), size


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Be the only one at work in a folder. The lock goes with its holder, however that ends."""
    with disk_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(folder: Path, url: str) -> Kept | None:
    """Return the record of a folder if it is of ``url``, and its file there in its length."""
    with suppress(FileNotFoundError, ValidationError):
        kept = Kept.model_validate_json((folder / _RECORD).read_bytes())
        if kept.url == url and (folder / kept.sha256).stat().st_size == kept.size:
            return kept
    return None


def _write(folder: Path, kept: Kept) -> None:
    part = _part(folder)
    with disk_explained(part):
        with part.open("wb") as file:
            file.write(kept.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / _RECORD)


def _part(folder: Path) -> Path:
    """Return where a file is written before it counts."""
    return folder / f"{os.getpid()}.part"


def _sweep(folder: Path, kept: Kept | None) -> None:
    """Remove what killed downloads left, and files that another has taken the place of."""
    stay = {_RECORD, "lock", kept.sha256 if kept else ""}
    for file in folder.iterdir():
        if file.name not in stay:
            file.unlink()
