"""A column that sources.yml wants encrypted is read with the key alone, and says the same as without it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet

from nightshift.errors import DataError
from nightshift.lake import raw
from nightshift.lake.encryption import NoKeyError
from nightshift.lake.raw import RawManifest
from nightshift.lake.store import Store, open_store
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2020, 1, 1)
AS_OF = datetime(2020, 1, 2, tzinfo=UTC)
ROWS = pa.table(
    {
        "id": ["first-customer", "second-customer", "third-customer"],
        "value": [12.5, None, 99.25],
    }
)


@pytest.fixture
def secret_ids(uc: UseCase) -> UseCase:
    """The same use case, whose catalogue wants its key column encrypted."""
    content: dict[str, Any] = uc.model_dump()
    content["sources"]["src"]["tables"]["events"]["columns"]["id"]["encrypt"] = True
    return UseCase.model_validate(content)


def _key(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    monkeypatch.setenv("NIGHTSHIFT_LAKE_KEY", ",".join(keys))
    settings.cache_clear()


def _land(uc: UseCase, day: date = DAY, rows: pa.Table = ROWS) -> RawManifest:
    return raw.land(
        uc, "src", "events", day, rows, rows_in=rows.num_rows, rows_quarantined=0, as_of=AS_OF, query="all"
    )


def _bytes(manifest: RawManifest) -> bytes:
    return open_store().get(manifest.object_key)


def test_the_key_opens_it_and_nothing_else_does(
    store: Store, uc: UseCase, secret_ids: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b"first-customer" in _bytes(_land(uc, date(2020, 1, 3)))
    key = Fernet.generate_key().decode()
    _key(monkeypatch, key)
    manifest = _land(secret_ids)
    content = _bytes(manifest)
    assert b"first-customer" not in content
    assert key.encode() not in content
    assert raw.read(manifest).equals(ROWS)
    for others in ((), (Fernet.generate_key().decode(),)):
        _key(monkeypatch, *others)
        with pytest.raises(NoKeyError, match="no key that opens them") as refused:
            raw.read(manifest)
        assert "behind the newest one" in refused.value.cure
    assert not any(
        b"first-customer" in store.get(one) for one in store.list(f"raw/toy/src/events/partition={DAY}")
    )


def test_what_it_says_is_what_it_says_without(
    store: Store, uc: UseCase, secret_ids: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content hashes are over values: the same rows are the same version, however they are kept."""
    plain = _land(uc)
    _key(monkeypatch, Fernet.generate_key().decode())
    assert _land(secret_ids, DAY).version == plain.version
    other = _land(secret_ids, date(2020, 1, 3))
    assert other.content_hash == plain.content_hash
    assert raw.read(plain).equals(ROWS), "what was landed in plain is read as before"


def test_a_new_key_goes_before_the_old_one(
    store: Store, secret_ids: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    _key(monkeypatch, old)
    before = _land(secret_ids)
    _key(monkeypatch, new, old)
    after = _land(secret_ids, date(2020, 1, 3))
    assert raw.read(before).equals(ROWS)
    assert raw.read(after).equals(ROWS)
    # Once retention has removed what the old one opens, it can go.
    _key(monkeypatch, new)
    assert raw.read(after).equals(ROWS)
    with pytest.raises(NoKeyError):
        raw.read(before)


def test_without_a_key_nothing_is_landed(store: Store, secret_ids: UseCase) -> None:
    with pytest.raises(NoKeyError, match="columns id are to be encrypted, and there is no key"):
        _land(secret_ids)
    assert store.list("raw/") == []


def test_a_damaged_object_is_told_from_a_locked_one(
    store: Store, secret_ids: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    _key(monkeypatch, Fernet.generate_key().decode())
    manifest = _land(secret_ids)
    other = _land(secret_ids, date(2020, 1, 3), ROWS.slice(1))
    store.put(manifest.object_key, _bytes(other))
    with pytest.raises(DataError, match="changed or damaged"):
        raw.read(manifest)


@pytest.mark.parametrize(
    "key",
    ["secret", "c2hvcnQ=", f"{Fernet.generate_key().decode()},nonsense"],
    ids=["no base64", "too short", "one good, one not"],
)
def test_what_is_no_key_is_refused_unseen(store: Store, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    _key(monkeypatch, key)
    with pytest.raises(DataError, match="NIGHTSHIFT_LAKE_KEY: each key is 32 random bytes") as refused:
        settings()
    assert key not in str(refused.value)


def test_the_key_is_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    _key(monkeypatch, key)
    assert key not in repr(settings())
    assert key not in settings().model_dump_json()
