"""The audit log of the lake: who did what, when and why; in a chain of hashes that shows tampering.

An entry is written before the act that it is about, so nothing that was done lacks one, whoever is killed
when. An act that was refused or failed afterwards has a second entry, ``not_done``, that names the first.
The same act tried again is known by its identity, and gets no second entry. So what a task does has no
``not_done`` for bad luck, after which it is tried again; what a person typed has (``nobody_retries``), for
perhaps it never is.

Each entry holds the hash of the one before it and its own, over canonical JSON. What was edited, removed,
put in between or put elsewhere is found by ``verify``. Two things are not:

- Whoever can write to the lake can make a whole chain anew. With ``NIGHTSHIFT_AUDIT_KEY`` hashes are HMACs,
  and only who has that key, which is not in the lake, can make them.
- Entries removed from the end leave a whole chain. Whoever remembers a head (number and hash of the newest
  entry, as ``nightshift audit`` and every weekly ``maintain`` say it) can prove that it is still there.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.errors import DataError, NightshiftError, TransientError
from nightshift.lake import append_log
from nightshift.settings import Role, settings

log = logging.getLogger(__name__)

Act = Literal[
    "promote",
    "rollback",
    "approve",
    "reject",
    "retrain",
    "open_holdout",
    "rebuild",
    "restore",
    "fix",
    "replay",
    "label",
    "silence",
    "remove",
    "clean",
    "dbt",
    "airflow",
    "grant",
    "not_done",
]
"""What is recorded; docs/security.md says where each comes from."""

SCHEDULE = "schedule"
"""Who acts when no person asked for it."""

_LOG = "audit"

# A task may take a week (``task_hours``). What is asked for again after that is another act.
_TRIED_AGAIN_WITHIN = timedelta(days=8)

_retried: ContextVar[bool] = ContextVar("retried", default=True)


class Entry(BaseModel):
    """One act.

    Attributes:
        number: Its place in the chain, from 1 on.
        at: When it began (UTC).
        who: The person or the run that asked for it, as it gave itself out.
        account: User and machine of the process that wrote this.
        role: The role of that process.
        what: The act.
        usecase: Of which use case; empty when of all.
        subject: Upon what: a version, a partition, a table.
        why: The reason given; empty where none is asked for.
        details: What else is known of it, as JSON-able values.
        identity: By which the same act is known when it is tried again.
        key: Which key made the hash; empty for none.
        previous: Hash of the entry before; empty in the first.
        hash: Of all the above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    at: AwareDatetime
    who: str
    account: str
    role: Role
    what: Act
    usecase: str
    subject: str
    why: str
    details: dict[str, Any]
    identity: str
    key: str
    previous: str
    hash: str


@dataclass(frozen=True)
class Head:
    """The newest entry of a moment, by number and hash: who remembers it can prove what led to it."""

    number: int
    hash: str

    def __str__(self) -> str:
        """Return ``<number>:<hash>``, as ``parse_head`` takes it."""
        return f"{self.number}:{self.hash}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with the chain, where it is first seen.

    Attributes:
        number: The first entry that proves nothing.
        kind: What happened to it; ``unproven`` when it cannot be told.
        message: The same in words.
        last: The last entry that proves nothing, where those after it are whole; None where none is.
    """

    number: int
    kind: Literal["edited", "removed", "reordered", "inserted", "unproven"]
    message: str
    last: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a verification: ``entries`` that are there, the newest of them, and what is wrong."""

    entries: int
    head: Head | None
    problem: Problem | None


@contextmanager
def nobody_retries() -> Iterator[None]:
    """Within it, an act that fails by bad luck is recorded as not done: nobody is there to try it again."""
    token = _retried.set(False)
    try:
        yield
    finally:
        _retried.reset(token)


@contextmanager
def recorded(
    what: Act,
    *,
    usecase: str,
    subject: str,
    who: str,
    why: str = "",
    details: Mapping[str, Any] | None = None,
    identity: Sequence[object] = (),
) -> Iterator[None]:
    """Record an act, then let it happen; one that fails is recorded as not done, too.

    What fails by bad luck (``TransientError``) is not, where a task tries it again as the same act; within
    ``nobody_retries`` it is, and whoever tries again begins another act.

    Args:
        what: The act.
        usecase: Of which use case; empty when of all.
        subject: Upon what.
        who: The person or the run that asked for it.
        why: The reason given.
        details: JSON-able values; no personal data, for nothing is ever removed here.
        identity: What tells this act from others of the same kind, use case and subject: tried again within
            eight days it is the same act, and has an entry already.

    Raises:
        DataError: Entries have a key that this process does not have. Nothing was recorded, and nothing done.
        TransientError: The storage failed, likewise.
    """
    number = _append(what, usecase, subject, who, why, dict(details or {}), identity)
    try:
        yield
    except Exception as error:
        if not (isinstance(error, TransientError) and _retried.get()):
            with suppress(NightshiftError):
                _append(
                    "not_done", usecase, f"entry {number}", who, _said(error), {"entry": number}, [number]
                )
        raise


def record(
    what: Act,
    *,
    usecase: str,
    subject: str,
    who: str,
    why: str = "",
    details: Mapping[str, Any] | None = None,
    identity: Sequence[object] = (),
) -> None:
    """Record an act that happens elsewhere, such as in a run that this one begins; see ``recorded``."""
    with recorded(
        what, usecase=usecase, subject=subject, who=who, why=why, details=details, identity=identity
    ):
        pass


def read(usecase: str | None = None) -> list[Entry]:
    """Return the entries, newest first: all, or those of one use case.

    Raises:
        DataError: One is no entry any more.
    """
    entries = []
    for number, entry in read_each(usecase):
        if entry is None:
            raise DataError(
                f"entry {number} of the audit log cannot be read",
                rule="an entry, once written, never changes",
                where=f"audit log, entry {number}",
                cure="`nightshift audit verify` says what happened to it",
            )
        entries.append(entry)
    return entries


def read_each(usecase: str | None = None) -> Iterator[tuple[int, Entry | None]]:
    """Yield the entries by number, newest first: all, or those of one use case.

    One that cannot be read any more is None, whichever use case is asked for: nobody knows of which it was.
    """
    for number, content in append_log.read_contents(_LOG):
        try:
            entry = Entry.model_validate(_parse(content))
        except ValueError:
            yield number, None
            continue
        if usecase in (None, entry.usecase):
            yield number, entry


def _said(error: Exception) -> str:
    """Return why an act was not done, in the words of its error if these are ours."""
    if isinstance(error, DataError):
        return error.message
    if isinstance(error, TransientError):
        # A server that stopped to answer may have done some of it, or all.
        return f"broken off, and perhaps done in part: {str(error).partition(chr(10))[0]}"
    return type(error).__name__


def head() -> Head | None:
    """Return the newest entry's number and hash; None when nothing was recorded yet."""
    for number, content in append_log.read_contents(_LOG):
        return Head(number, _hash_of(content))
    return None


def parse_head(text: str) -> Head:
    """Return the head that ``str(head)`` gave.

    Raises:
        DataError: It is none.
    """
    found = re.fullmatch(r"([1-9]\d{0,8}):([0-9a-f]{64})", text.strip())
    if not found:
        raise DataError(
            f"{text!r} is no head of the audit log",
            rule="a head is <number>:<64 hexadecimal digits>",
            where="--head",
            cure="copy what `nightshift audit` or the log of a `maintain` run said, whole",
        )
    return Head(int(found[1]), found[2])


def verify(remembered: Head | None = None) -> Verdict:
    """Check every entry against its hash and its neighbours, and the chain against a remembered head.

    With a key in the settings, entries without one prove nothing, unless a remembered head is newer than they
    are: so, whoever begins to use a key notes the head of that moment.

    Args:
        remembered: A head of an earlier moment.
    """
    found = [(number, content) for number, content in append_log.read_contents(_LOG)][::-1]
    newest = Head(found[-1][0], _hash_of(found[-1][1])) if found else None
    problem = _broken([(number, _parse(content)) for number, content in found])
    if problem is None and remembered is not None:
        problem = _forgotten(dict(found), remembered)
    if problem is None:
        problem = _unproven([_parse(content) for _, content in found], remembered)
    return Verdict(len(found), newest, problem)


def _append(
    what: Act,
    usecase: str,
    subject: str,
    who: str,
    why: str,
    details: dict[str, Any],
    identity: Sequence[object],
) -> int:
    """Append an entry unless the same act has one; return its number."""
    known_by = hashlib.sha256(
        json.dumps([what, usecase, subject, *identity], default=str).encode()
    ).hexdigest()
    keys = _keys()
    while True:
        last, newest, standing = _look_back(known_by)
        if standing is not None:
            return standing
        if newest.get("key") and newest["key"] not in map(_name, keys):
            raise DataError(
                f"the audit log is kept with the key {newest['key']}, which this process does not have",
                rule="what changes production is recorded, or does not happen",
                where="NIGHTSHIFT_AUDIT_KEY",
                cure="give this process the key that the others have: docs/security.md, The audit log",
            )
        entry = {
            "number": last + 1,
            "at": datetime.now(UTC).isoformat(),
            "who": who,
            "account": _account(),
            "role": settings().role,
            "what": what,
            "usecase": usecase,
            "subject": subject,
            "why": why,
            "details": details,
            "identity": known_by,
            "key": _name(keys[0]) if keys else "",
            "previous": newest.get("hash", ""),
        }
        entry["hash"] = _digest(entry, keys[0] if keys else b"")
        if append_log.append_next(_LOG, last, entry):
            log.info("audit log, entry %d: %s %s %s by %s", last + 1, what, usecase, subject, who)
            return last + 1


def _look_back(identity: str) -> tuple[int, dict[str, Any], int | None]:
    """Return the last number, the newest entry, and the number of the one that the act has already."""
    since = (datetime.now(UTC) - _TRIED_AGAIN_WITHIN).isoformat()
    last, newest = 0, dict[str, Any]()
    given_up: set[int] = set()
    for number, content in append_log.read_contents(_LOG):
        # A damaged entry is for ``verify`` to tell of; it is no reason not to record what happens now.
        entry = _parse(content) or {}
        if not last:
            last, newest = number, {"key": entry.get("key"), "hash": _hash_of(content)}
        if str(entry.get("at", since)) < since:
            break
        if entry.get("what") == "not_done":
            details = entry.get("details")
            given_up.add(details.get("entry", 0) if isinstance(details, dict) else 0)
        elif entry.get("identity") == identity and number not in given_up:
            return last, newest, number
    return last, newest, None


def _broken(found: Sequence[tuple[int, dict[str, Any] | None]]) -> Problem | None:
    """Return the first entry that is not what was written there, by what the chain itself says."""
    keys = {_name(key): (rank, key) for rank, key in enumerate(_keys())}
    # Which entry is stored at which number, as far as entries prove it themselves.
    claimed = [entry["number"] if entry and _whole(entry, keys) else None for _, entry in found]
    oldest_key = len(keys)
    for place, (number, entry) in enumerate(found):
        expected = place + 1
        if number != expected:
            return _removed(expected, number - 1)
        if entry is None:
            return Problem(number, "edited", f"entry {number} was edited: it is no entry any more")
        if (key := entry.get("key")) and key not in keys:
            return Problem(
                number,
                "unproven",
                f"entry {number} was made with the key {key}, which is not in NIGHTSHIFT_AUDIT_KEY here: "
                "nothing can be said about it",
            )
        if claimed[place] is None:
            return Problem(number, "edited", f"entry {number} was edited: its hash is of something else")
        if claimed[place] != number:
            return _displaced(number, claimed[place], claimed[place + 1 :])
        rank = keys[key][0] if key else len(keys)
        if rank > oldest_key:
            how = "with an older key" if key else "without a key"
            return Problem(
                number,
                "edited",
                f"entry {number} was edited or inserted: it was made {how}, after entries with the newer one",
            )
        oldest_key = rank
        before = found[place - 1][1] if place else None
        if entry["previous"] != (before["hash"] if before else ""):
            return _replaced(found, place)
    return None


def _whole(entry: Mapping[str, Any], keys: Mapping[str, tuple[int, bytes]]) -> bool:
    """Return whether an entry is as its hash says."""
    if not ({"number", "previous", "key", "hash"} <= entry.keys() and isinstance(entry["hash"], str)):
        return False
    if entry["key"] and entry["key"] not in keys:
        return False
    key = keys[entry["key"]][1] if entry["key"] else b""
    return hmac.compare_digest(_digest(entry, key), entry["hash"])


def _removed(first: int, last: int) -> Problem:
    which = f"entry {first} was" if first == last else f"entries {first} to {last} were"
    return Problem(first, "removed", f"{which} removed")


def _displaced(number: int, claimed: int | None, later: Sequence[int | None]) -> Problem:
    assert claimed is not None  # nosec B101  # an entry that proves nothing is told of before
    if claimed < number:
        return Problem(claimed, "inserted", f"there are two entries {claimed}: one of them was inserted")
    if number in later:
        return Problem(number, "reordered", f"entries were reordered: where {number} was is {claimed}")
    return _removed(number, claimed - 1)


def _replaced(found: Sequence[tuple[int, dict[str, Any] | None]], place: int) -> Problem:
    """Return which of two neighbours does not belong: the one that its other neighbour denies, too."""
    number, entry = found[place]
    follower = found[place + 1][1] if place + 1 < len(found) else None
    if number > 1 and entry and follower and follower.get("previous") == entry["hash"]:
        message = f"entry {number - 1} was edited and its hash made anew: entry {number} follows another one"
        return Problem(number - 1, "edited", message)
    if follower or number == 1:
        message = f"entry {number} was edited and its hash made anew: it follows another one"
        return Problem(number, "edited", message)
    return Problem(
        number - 1,
        "edited",
        f"entries {number - 1} and {number} do not belong together: one was edited and its hash made anew",
    )


def _forgotten(found: Mapping[int, bytes], remembered: Head) -> Problem | None:
    """Return what became of a remembered head, if it is not in the chain any more."""
    if remembered.number not in found:
        return _removed(len(found) + 1, remembered.number)
    if _hash_of(found[remembered.number]) != remembered.hash:
        return Problem(
            remembered.number,
            "edited",
            f"entry {remembered.number} is another one than was remembered: the log was written anew since, "
            f"from entry {remembered.number} or an earlier one on",
        )
    return None


def _unproven(entries: Sequence[dict[str, Any] | None], remembered: Head | None) -> Problem | None:
    """Return the entries that anybody could have made, although there is a key."""
    without = [entry["number"] for entry in entries if entry and not entry["key"]]
    if not _keys() or not without or (remembered is not None and remembered.number >= without[-1]):
        return None
    which = f"entries 1 to {without[-1]} were" if len(without) > 1 else "entry 1 was"
    return Problem(
        1,
        "unproven",
        f"{which} made without the key, so anybody could have written them: verify with a head of entry "
        f"{without[-1]} or later, noted when the key came into use",
        last=without[-1],
    )


def _digest(entry: Mapping[str, Any], key: bytes) -> str:
    content = json.dumps(
        {name: value for name, value in entry.items() if name != "hash"},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    ).encode()
    return hmac.new(key, content, hashlib.sha256).hexdigest() if key else hashlib.sha256(content).hexdigest()


def _hash_of(content: bytes) -> str:
    """Return the hash that an entry gives as its own; of what is no entry any more, that of its bytes."""
    given = (_parse(content) or {}).get("hash")
    return given if isinstance(given, str) else hashlib.sha256(content).hexdigest()


def _parse(content: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        found = json.loads(content)
        return found if isinstance(found, dict) else None
    return None


def _keys() -> list[bytes]:
    """Return the keys, the one in use first."""
    return [key.encode() for key in settings().audit_key.get_secret_value().split(",") if key]


def _name(key: bytes) -> str:
    """Return a name for a key that says nothing about it."""
    return hashlib.sha256(b"nightshift audit key " + key).hexdigest()[:12]


def _account() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
