"""Objects by key, on a local folder or in an S3 bucket, with the two atomic writes all else is built on.

``put`` replaces an object as a whole; ``put_new`` creates one and never overwrites. Whoever reads sees an
object complete or not at all, also when its writer was killed.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from nightshift.errors import DataError, TransientError
from nightshift.settings import settings

STORE_CURE = "if it lasts, see whether the store runs, is reached from here, and has room left"
"""What to do about a storage that keeps failing."""
# Control characters, the separator of other systems, and what some readers of addresses decode.
_NEVER_IN_A_KEY = re.compile(r"[\x00-\x1f\x7f\\%]")


class NoSuchObjectError(TransientError):
    """The store holds no object under this key, or not yet."""


class Store(Protocol):
    """Where the lake keeps its objects. Keys are relative, with ``/`` between their parts."""

    def put(self, key: str, content: bytes) -> None:
        """Write an object, replacing the one that may be there."""

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless the key is taken; return whether this call wrote it."""

    def get(self, key: str) -> bytes:
        """Return an object's content; raise NoSuchObjectError when there is none."""

    def exists(self, key: str) -> bool:
        """Return whether an object has this key."""

    def written(self, key: str) -> str | None:
        """Return what differs once an object was written with other content; None when there is none."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders right under ``prefix`` (which ends with ``/``), sorted.

        Costs what is there, whatever lies below. On files, a folder that was emptied may be named, too.
        """

    def list_between(self, prefix: str, first: str, last: str) -> list[str]:
        """Return the keys in folders right under ``prefix`` named from ``first`` to ``last``, sorted.

        ``prefix`` ends with ``/``; all names are of one length. Costs what is in those folders, however many
        others there are.
        """

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with ``prefix``, sorted."""

    def modified(self, prefix: str) -> dict[str, datetime]:
        """Return the keys that begin with ``prefix``, each with the time (UTC) it was last written."""

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""

    def uri(self, key: str) -> str:
        """Return the full address of a key, for engines that read the lake themselves."""

    def storage_options(self) -> dict[str, str]:
        """Return what delta-rs needs to reach ``uri`` and commit safely there."""

    def filesystem(self, key: str) -> FileSystem:
        """Return Arrow's own access to what lies under ``key``.

        Its threads read without Python: one that still waits for the interpreter's lock when the interpreter
        ends takes the whole process down ("terminate called without an active exception").
        """


def require_key(key: str) -> str:
    """Return ``key``, or the beginning of one, if it can name nothing outside the lake.

    Every path and every address in a bucket is made from what this lets pass. Names are checked where they
    come in, too; but keys are also read back from manifests and from what travels between tasks.

    Raises:
        DataError: It is absolute, climbs, or holds an empty part, a control character, ``\\`` or ``%``.
    """
    parts = key.split("/")
    if "" in parts[:-1] or not {".", ".."}.isdisjoint(parts) or _NEVER_IN_A_KEY.search(key):
        raise DataError(
            f"{key!r} is no key of the lake",
            rule="a key is relative, without . or .. or empty parts, control characters, backslashes or %",
            where="the lake",
            cure="find out where it comes from: a use case's files, a manifest, or what a task was given",
        )
    return key


def open_store(uri: str | None = None) -> Store:
    """Return the store at ``uri`` (``file://`` or ``s3://``), by default the lake of the settings.

    Raises:
        DataError: The scheme is neither of the two.
    """
    return _open(uri or settings().lake_uri)


def get_many(keys: Iterable[str]) -> list[bytes]:
    """Return objects in the order of their keys; one by one, a bucket would take seconds a thousand."""
    store = open_store()
    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(store.get, keys))


@lru_cache(maxsize=8)
def _open(uri: str) -> Store:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from nightshift.lake.s3 import S3Store  # boto3 costs a quarter of a second that file:// need not pay

        return S3Store(parts.netloc, parts.path.strip("/"))
    raise DataError(
        f"{uri!r} is no address of a lake",
        rule="a lake is file:///folder or s3://bucket/prefix",
        where="NIGHTSHIFT_LAKE",
        cure="set NIGHTSHIFT_LAKE to one of the two, or unset it for <NIGHTSHIFT_HOME>/lake",
    )


# A client's connections must not be shared with a forked child, so each process opens its own.
os.register_at_fork(after_in_child=_open.cache_clear)


class FileStore:
    """A folder. Objects appear by rename or hard link from a scratch folder beside them."""

    _SCRATCH = ".writing"

    def __init__(self, root: Path) -> None:
        self.root = root
        # What killed writers left. Nobody takes a day to write one object.
        for scratch in (root / self._SCRATCH).glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - scratch.stat().st_mtime > 86_400:
                    scratch.unlink()

    def put(self, key: str, content: bytes) -> None:
        """Write an object, replacing the one that may be there."""
        with self._written(content) as scratch, disk_explained(self._path(key)) as target:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.replace(target)

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless the key is taken; return whether this call wrote it."""
        with self._written(content) as scratch, disk_explained(self._path(key)) as target:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(scratch, target)  # unlike a rename, a link fails when the target is there
            except FileExistsError:
                return False
            return True

    def get(self, key: str) -> bytes:
        """Return an object's content; raise NoSuchObjectError when there is none."""
        try:
            with disk_explained(self._path(key)) as path:
                return path.read_bytes()
        except FileNotFoundError as error:
            raise NoSuchObjectError(f"no object at {self.uri(key)}") from error

    def exists(self, key: str) -> bool:
        """Return whether an object has this key."""
        return self._path(key).is_file()

    def written(self, key: str) -> str | None:
        """Return what differs once an object was written with other content; None when there is none."""
        with suppress(FileNotFoundError):
            found = self._path(key).stat()
            return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"
        return None

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders right under ``prefix`` (which ends with ``/``), sorted."""
        with suppress(FileNotFoundError), os.scandir(self._path(prefix)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name != self._SCRATCH)
        return []

    def list_between(self, prefix: str, first: str, last: str) -> list[str]:
        """Return the keys in folders right under ``prefix`` named from ``first`` to ``last``, sorted."""
        names = (name for name in self.folders(prefix) if first <= name <= last)
        return sorted(key for name in names for key in self._walk(f"{prefix}{name}/"))

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with ``prefix``, sorted."""
        return sorted(self._walk(prefix))

    def modified(self, prefix: str) -> dict[str, datetime]:
        """Return the keys that begin with ``prefix``, each with the time (UTC) it was last written."""
        times = {}
        for key in self._walk(prefix):
            with suppress(FileNotFoundError):  # deleted by another process since it was listed
                times[key] = datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)
        return times

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""
        with disk_explained(self._path(key)) as path:
            path.unlink(missing_ok=True)

    def uri(self, key: str) -> str:
        """Return the full address of a key."""
        return self._path(key).absolute().as_uri()

    def storage_options(self) -> dict[str, str]:
        """Return nothing: delta-rs commits by hard link on local files."""
        return {}

    def filesystem(self, key: str) -> FileSystem:
        """Return Arrow's own access to what lies under ``key``."""
        return SubTreeFileSystem(str(self._path(key).absolute()), LocalFileSystem())

    def _path(self, key: str) -> Path:
        return self.root / require_key(key)

    def _walk(self, prefix: str) -> Iterator[str]:
        folder = self._path(require_key(prefix).rpartition("/")[0])
        for parent, folders, names in os.walk(folder):
            if self._SCRATCH in folders:
                folders.remove(self._SCRATCH)
            base = Path(parent).relative_to(self.root)
            yield from (key for name in names if (key := (base / name).as_posix()).startswith(prefix))

    @contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """Yield a complete file that no reader sees yet; remove what is left of it afterwards."""
        scratch = self.root / self._SCRATCH / uuid.uuid4().hex
        try:
            with disk_explained(scratch):
                scratch.parent.mkdir(parents=True, exist_ok=True)
                with scratch.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            yield scratch
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)


@contextmanager
def disk_explained(path: Path) -> Iterator[Path]:
    """Turn what a full or read-only disk raises into an error that says what to do."""
    try:
        yield path
    except PermissionError as error:
        raise DataError(
            f"not allowed to use {path}",
            rule="the lake's folder is readable and writable",
            where=str(path),
            cure="mend the folder's owner or mode, or set NIGHTSHIFT_LAKE; `nightshift doctor` checks it",
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(
            f"{path} cannot be made: something above it is no folder",
            rule="the lake is a folder",
            where=str(path),
            cure="move away the file that is in its place, or set NIGHTSHIFT_LAKE to another folder",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TransientError(
                f"no space left for {path} ({os.strerror(error.errno)}): free some and run again"
            ) from error
        if error.errno == errno.EROFS:
            raise DataError(
                f"{path} is on a read-only file system",
                rule="the lake's folder is writable",
                where=str(path),
                cure="set NIGHTSHIFT_LAKE or NIGHTSHIFT_HOME to a writable folder",
            ) from error
        raise
