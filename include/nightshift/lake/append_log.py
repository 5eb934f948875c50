"""Append-only logs of JSON records, such as which model was put in charge when.

Records are numbered from 1 without gaps; a record, once written, never changes. Two writers never share a
number, for each number is one object that only one of them can create.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from nightshift.lake.store import get_many, open_store

# Records that ``read_newest`` fetches at once.
_CHUNK = 32
_NUMBERED = re.compile(r"/\d{9}\.json$")


def append(log: str, record: dict[str, Any]) -> int:
    """Append ``record`` to ``log`` (a name such as ``deployments/<use case>``) and return its number."""
    store = open_store()
    content = json.dumps(record, sort_keys=True, indent=1).encode()
    keys = store.list(_folder(log))
    number = int(keys[-1].rpartition("/")[2].removesuffix(".json")) + 1 if keys else 1
    while not store.put_new(_key(log, number), content):
        number += 1
    return number


def begin(log: str, record: dict[str, Any]) -> bool:
    """Write ``record`` as the first of ``log``; False when the log has begun already, which changes nothing.

    Of several that begin one log at the same moment, one succeeds.
    """
    return append_next(log, 0, record)


def append_next(log: str, after: int, record: dict[str, Any]) -> bool:
    """Append ``record`` if number ``after`` is still the last (0: the log is empty); return whether it was.

    Whoever decides by what a log holds appends the decision so: of several at the same moment one succeeds,
    and the others read again.
    """
    content = json.dumps(record, sort_keys=True, indent=1).encode()
    return open_store().put_new(_key(log, after + 1), content)


def read_log(log: str) -> list[dict[str, Any]]:
    """Return every record of ``log``, oldest first; none when the log does not exist."""
    return [json.loads(content) for content in get_many(open_store().list(_folder(log)))]


def length(log: str) -> int:
    """Return the number of the newest record of ``log``; 0 when the log does not exist."""
    return len(open_store().list(_folder(log)))


def read_numbers(log: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return the records of ``log`` with these numbers, which exist, in their order."""
    return [json.loads(content) for content in get_many(_key(log, number) for number in numbers)]


def read_newest(log: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each record with its number, newest first; older ones are fetched only when asked for."""
    for number, content in read_contents(log):
        yield number, json.loads(content)


def read_contents(log: str) -> Iterator[tuple[int, bytes]]:
    """Yield each record as it is stored, with the number of its object, newest first.

    For who asks whether records are what was written: a number may be missing, and a content be no JSON.
    """
    keys = [key for key in open_store().list(_folder(log)) if _NUMBERED.search(key)]
    for end in range(len(keys), 0, -_CHUNK):
        chunk = keys[max(0, end - _CHUNK) : end]
        for key, content in zip(reversed(chunk), reversed(get_many(chunk)), strict=True):
            yield int(key[-14:-5]), content


def names(folder: str) -> set[str]:
    """Return the names of the logs in a folder (such as ``fixes/<use case>/<suite>``), from one listing."""
    return {key.removeprefix("logs/").rpartition("/")[0] for key in open_store().list(_folder(folder))}


def _key(log: str, number: int) -> str:
    return f"{_folder(log)}{number:09d}.json"


def _folder(log: str) -> str:
    return f"logs/{log}/"
