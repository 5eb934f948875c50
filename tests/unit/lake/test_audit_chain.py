"""The audit log's chain: whatever is done to its entries afterwards, somebody notices."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.forked import preload, start
from tests.lakes import on_both_storages

from nightshift.errors import DataError, TransientError
from nightshift.lake import append_log, audit
from nightshift.lake.store import open_store
from nightshift.settings import settings

storage = on_both_storages
# What is about the chain alone is the same on every storage.
on_files = pytest.mark.parametrize("storage", ["file"])

KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))

preload("nightshift.lake.audit", "nightshift.lake.s3")


@pytest.fixture
def use_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(keys: str) -> None:
        monkeypatch.setenv("NIGHTSHIFT_AUDIT_KEY", keys)
        settings.cache_clear()

    return use


def act(number: int, **more: Any) -> None:
    given = {"usecase": "toy", "subject": f"version {number}", "who": "ann", "why": "a drill", **more}
    audit.record("promote", identity=[number], **given)


def key_of(number: int) -> str:
    return f"logs/audit/{number:09d}.json"


def stored(number: int) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(open_store().get(key_of(number)))
    return entry


def put(number: int, entry: dict[str, Any]) -> None:
    open_store().put(key_of(number), json.dumps(entry).encode())


def rehashed(entry: dict[str, Any], key: str = "") -> dict[str, Any]:
    """The entry with a hash that fits, as who knows how they are made would write it."""
    content = json.dumps(
        {name: value for name, value in entry.items() if name != "hash"},
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    made = hmac.new(key.encode(), content, "sha256") if key else hashlib.sha256(content)
    return entry | {"hash": made.hexdigest()}


def broken() -> tuple[int, str] | None:
    problem = audit.verify().problem
    return (problem.number, problem.kind) if problem else None


@pytest.fixture
def five(home: Path) -> None:
    for number in range(1, 6):
        act(number)
    assert audit.verify() == audit.Verdict(5, audit.head(), None)


def test_an_entry_says_who_did_what_when_why_and_as_what(home: Path) -> None:
    act(1, details={"from": "2013-07-01"})
    (entry,) = audit.read()
    assert (entry.who, entry.what, entry.usecase, entry.subject) == ("ann", "promote", "toy", "version 1")
    assert (entry.why, entry.role, entry.details) == ("a drill", "admin", {"from": "2013-07-01"})
    assert "@" in entry.account
    assert entry.at.utcoffset() is not None
    assert (entry.number, entry.previous) == (1, "")
    assert str(audit.head()) == f"1:{entry.hash}"
    assert rehashed(stored(1)) == stored(1)
    assert audit.read("another") == []
    assert audit.read("toy") == [entry]


@on_files
@pytest.mark.parametrize("field", ["who", "why", "at", "what", "subject", "details", "role", "hash"])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_edited_entry_is_named(five: None, field: str, number: int) -> None:
    changed = {"details": {"x": 1}, "at": "2020-01-01T00:00:00+00:00", "hash": "0" * 64}
    put(number, stored(number) | {field: changed.get(field, "eve")})
    assert broken() == (number, "edited")


@on_files
def test_what_is_no_entry_any_more_is_named_and_keeps_nobody_from_acting(five: None) -> None:
    for content in (b"\x00garbage", b"[1]", b"{}"):
        open_store().put(key_of(5), content)
        assert broken() == (5, "edited")
    act(6)
    assert broken() == (5, "edited")
    with pytest.raises(DataError, match="entry 5 of the audit log"):
        audit.read()


@on_files
@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_entry_removed_from_the_middle_is_named(five: None, number: int) -> None:
    open_store().delete(key_of(number))
    assert broken() == (number, "removed")
    for later in range(number, 5):
        put(later, stored(later + 1))
    open_store().delete(key_of(5))
    assert broken() == (number, "removed"), "also where the others move up"
    for later in range(number, 5):
        put(later, rehashed(stored(later) | {"number": later}))
    # Of the last two, nothing says which one is false.
    assert broken() in ((number, "edited"), (3, "edited")), "also with numbers and hashes made anew"


@on_files
def test_reordered_entries_are_named(five: None) -> None:
    second, fourth = stored(2), stored(4)
    put(2, fourth)
    put(4, second)
    assert broken() == (2, "reordered")
    put(2, rehashed(fourth | {"number": 2}))
    put(4, rehashed(second | {"number": 4}))
    found = broken()
    assert found is not None
    assert found[0] == 2


@on_files
def test_an_entry_put_in_between_is_named(five: None) -> None:
    for later in range(5, 2, -1):
        put(later + 1, stored(later))
    forged = stored(2) | {"number": 3, "who": "eve", "previous": stored(2)["hash"]}
    put(3, rehashed(forged))
    assert broken() == (3, "inserted")


@on_files
@pytest.mark.parametrize("number", [1, 3, 4])
def test_an_edit_with_its_hash_made_anew_breaks_the_link_to_the_next(five: None, number: int) -> None:
    put(number, rehashed(stored(number) | {"who": "eve"}))
    assert broken() == (number, "edited")


@on_files
def test_a_removed_tail_is_told_by_a_remembered_head_alone(five: None) -> None:
    remembered, earlier = audit.head(), audit.Head(3, stored(3)["hash"])
    assert remembered is not None
    for number in (4, 5):
        open_store().delete(key_of(number))
    assert broken() is None, "a shorter chain is a whole one"
    problem = audit.verify(remembered).problem
    assert problem is not None
    assert (problem.number, problem.kind, problem.message) == (4, "removed", "entries 4 to 5 were removed")
    assert audit.verify(earlier).problem is None
    act(6)
    act(7)
    problem = audit.verify(remembered).problem
    assert problem is not None
    assert problem.number == 5, "what was written in its place is not what was remembered"


def made_anew(key: str = "") -> None:
    """Write the whole chain anew, with another name in the second entry."""
    previous = ""
    for number in range(1, 6):
        entry = stored(number) | {"previous": previous}
        entry = rehashed(entry | {"who": "eve"} if number == 2 else entry, key)
        previous = entry["hash"]
        put(number, entry)


@on_files
def test_without_a_key_a_chain_made_anew_passes_but_not_against_a_remembered_head(five: None) -> None:
    remembered = audit.head()
    made_anew()
    assert broken() is None
    problem = audit.verify(remembered).problem
    assert problem is not None
    assert "another one than was remembered" in problem.message


@on_files
@pytest.mark.parametrize("attempt", ["", OTHER_KEY, "no key named"])
def test_with_a_key_nobody_else_can_make_the_chain_anew(use_key: Callable[[str], None], attempt: str) -> None:
    use_key(KEY)
    for number in range(1, 6):
        act(number)
    assert broken() is None
    assert KEY not in json.dumps(stored(1))
    if attempt == "no key named":
        for number in range(1, 6):
            put(number, stored(number) | {"key": ""})
        made_anew()
        assert broken() == (1, "unproven")
    else:
        made_anew(attempt)
        assert broken() == (1, "edited")


@on_files
def test_what_was_made_before_there_was_a_key_is_proven_by_a_head_of_then(
    five: None, use_key: Callable[[str], None]
) -> None:
    remembered = audit.head()
    use_key(KEY)
    act(6)
    assert broken() == (1, "unproven")
    assert audit.verify(remembered).problem is None
    put(3, rehashed(stored(3) | {"who": "eve"}))
    assert broken() == (3, "edited")


@on_files
def test_keys_are_changed_and_never_back(use_key: Callable[[str], None]) -> None:
    use_key(OTHER_KEY)
    act(1)
    use_key(f"{KEY},{OTHER_KEY}")
    act(2)
    assert broken() is None
    assert len({stored(1)["key"], stored(2)["key"]}) == 2
    use_key(KEY)
    assert broken() == (1, "unproven"), "the older key is needed still"
    use_key(OTHER_KEY)
    with pytest.raises(DataError, match="which this process does not have"):
        act(3)
    use_key(f"{KEY},{OTHER_KEY}")
    forged = stored(2) | {"number": 3, "previous": stored(2)["hash"], "key": stored(1)["key"]}
    put(3, rehashed(forged, OTHER_KEY))
    assert broken() == (3, "edited"), "who has an old key adds nothing"


@on_files
def test_a_process_without_the_key_does_nothing_rather_than_break_the_chain(
    use_key: Callable[[str], None],
) -> None:
    use_key(KEY)
    act(1)
    use_key("")
    with (
        pytest.raises(DataError, match="NIGHTSHIFT_AUDIT_KEY"),
        audit.recorded("rollback", usecase="toy", subject="version 1", who="ann"),
    ):
        pytest.fail("it acted")
    assert append_log.length("audit") == 1


@on_files
def test_a_key_that_is_none_is_refused(use_key: Callable[[str], None]) -> None:
    use_key("secret")
    with pytest.raises(DataError, match="NIGHTSHIFT_AUDIT_KEY") as refused:
        act(1)
    assert "'secret'" not in str(refused.value)


def test_the_same_act_again_has_one_entry(home: Path) -> None:
    for _ in range(3):
        act(1)
        act(2)
    assert [entry.subject for entry in audit.read()] == ["version 2", "version 1"]


@on_files
def test_the_same_act_a_month_later_is_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act(1)
    monkeypatch.setattr(audit, "_TRIED_AGAIN_WITHIN", -audit._TRIED_AGAIN_WITHIN)
    act(1)
    assert len(audit.read()) == 2


@on_files
def test_an_act_is_recorded_before_it_happens_and_one_that_failed_says_so(home: Path) -> None:
    def attempt(error: Exception | None) -> None:
        with audit.recorded("restore", usecase="toy", subject="features", who="ann", identity=[1]):
            assert audit.read()[0].what == "restore"
            if error:
                raise error

    refused = DataError("it is gone", rule="", where="", cure="")
    with pytest.raises(TransientError):
        attempt(TransientError("the store is away"))
    assert [entry.what for entry in audit.read()] == ["restore"], "to be tried again"
    with pytest.raises(DataError):
        attempt(refused)
    newest = audit.read()[0]
    assert (newest.what, newest.subject, newest.why) == ("not_done", "entry 1", "it is gone")
    attempt(None)
    attempt(None)
    assert [entry.what for entry in audit.read()] == ["restore", "not_done", "restore"]
    assert broken() is None


@on_files
def test_an_act_that_nobody_retries_is_not_done_after_bad_luck_either(home: Path) -> None:
    def attempt(error: Exception | None) -> None:
        with (
            audit.nobody_retries(),
            audit.recorded("restore", usecase="toy", subject="features", who="ann", identity=[1]),
        ):
            if error:
                raise error

    with pytest.raises(TransientError):
        attempt(TransientError("the store is away\nin many words"))
    newest = audit.read()[0]
    assert (newest.what, newest.subject) == ("not_done", "entry 1")
    assert newest.why == "broken off, and perhaps done in part: the store is away"
    attempt(None)
    assert [entry.what for entry in audit.read()] == ["restore", "not_done", "restore"]
    assert broken() is None


def _record_many(writer: int) -> None:
    for number in range(4):
        audit.record("silence", usecase="toy", subject=f"{writer} {number}", who="ann")
        audit.record("silence", usecase="toy", subject=f"shared {number}", who="ann")


def test_writers_at_once_make_one_chain_without_a_gap(home: Path) -> None:
    writers = [start(_record_many, writer) for writer in range(3)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    entries = audit.read()
    assert [entry.number for entry in entries] == list(range(len(entries), 0, -1))
    assert broken() is None
    subjects = [entry.subject for entry in entries]
    assert len(subjects) == len(set(subjects)) == 3 * 4 + 4, "each act once, whoever was first"


@on_files
@pytest.mark.parametrize("text", ["", "5", "0:" + "a" * 64, "5:abc", "5:" + "A" * 64])
def test_what_is_no_head_is_refused(text: str, storage: str) -> None:
    with pytest.raises(DataError, match="is no head"):
        audit.parse_head(text)
