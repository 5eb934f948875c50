"""Append-only logs of JSON records, such as which model was put in charge when.

Records are numbered from 1 without gaps; a record, once written, never changes. Two writers never share a
number, for each number is one object that only one of them can create.
"""

from __future__ import annotations

import json
from typing import Any

from nightshift.lake.store import get_many, open_store


def append(log: str, record: dict[str, Any]) -> int:
    """Append ``record`` to ``log`` (a name such as ``deployments/<use case>``) and return its number."""
    store = open_store()
    content = json.dumps(record, sort_keys=True, indent=1).encode()
    keys = store.list(_folder(log))
    number = int(keys[-1].rpartition("/")[2].removesuffix(".json")) + 1 if keys else 1
    while not store.put_new(f"{_folder(log)}{number:09d}.json", content):
        number += 1
    return number


def begin(log: str, record: dict[str, Any]) -> bool:
    """Write ``record`` as the first of ``log``; False when the log has begun already, which changes nothing.

    Of several that begin one log at the same moment, one succeeds.
    """
    return append_after(log, 0, record)


def append_after(log: str, count: int, record: dict[str, Any]) -> bool:
    """Append ``record`` if ``log`` has exactly ``count`` records; False, and no change, when it has more.

    For who decides by what the log says: nobody else's record can come between the reading and the writing.
    """
    content = json.dumps(record, sort_keys=True, indent=1).encode()
    return open_store().put_new(f"{_folder(log)}{count + 1:09d}.json", content)


def read_log(log: str) -> list[dict[str, Any]]:
    """Return every record of ``log``, oldest first; none when the log does not exist."""
    return [json.loads(content) for content in get_many(open_store().list(_folder(log)))]


def names(folder: str) -> set[str]:
    """Return the names of the logs in a folder (such as ``fixes/<use case>/<suite>``), from one listing."""
    return {key.removeprefix("logs/").rpartition("/")[0] for key in open_store().list(_folder(folder))}


def _folder(log: str) -> str:
    return f"logs/{log}/"
