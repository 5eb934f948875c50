"""Personal values, made unreadable before anything of them is kept.

``protect`` stands at every door of the lake: before the journal, before validation, before a fix is recorded.
What it gives out it leaves alone when it comes back, so a value that passes several doors is protected once.

A pseudonym is a keyed hash (HMAC-SHA256 with ``NIGHTSHIFT_PII_KEY``) of the value, of the use case and of the
column's domain: the same value has the same pseudonym wherever the domain is the same, and another one
everywhere else. Nobody without the key can compute one, or try values out. The key lies in no lake. The lake
keeps a hash that tells one key from another, so that values are never hashed by two of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake.store import open_store
from nightshift.settings import settings
from nightshift.usecase import Protection, UseCase

HIDDEN_TEXT = "its values are personal, and not shown"
"""What errors say in the place of a personal column's values."""

# 16 bytes of hash, and 4 by which we know our own pseudonyms, in 32 characters of base32.
_PREFIX = "ps_"
_PSEUDONYM = re.compile(f"{_PREFIX}([a-z2-7]{{32}})")
_HASH_BYTES, _CHECK_BYTES = 16, 4
_NOTHING = "****"
# Something stands before the @, also in what was masked: `@anna.quistgaard` is somebody's name elsewhere.
_ADDRESS = re.compile(r"[^\s@]+(@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)")
_LAST4 = re.compile(r"\*{4}[0-9A-Za-z]{4}")
# Of something shorter, four characters would be half of it or more.
_LONG_ENOUGH = 9
_SEALED = "sealed:"


def protect(uc: UseCase, source: str, table: str, rows: pa.Table) -> pa.Table:
    """Return rows with the columns protected that the catalogue wants protected; nulls stay null.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        rows: All or some of its columns, in the catalogue's types, and maybe others, which stay as they are.

    Raises:
        DataError: There is no key, another one than the lake's pseudonyms were made with, or a value is a
            pseudonym of another domain, use case or key.
    """
    declared = uc.sources[source].tables[table]
    key = None
    for name in (name for name in declared.protected if name in rows.column_names):
        column, place = rows[name], rows.column_names.index(name)
        how = declared.columns[name].protect
        if how == "remove":
            protected = pa.chunked_array([pa.nulls(len(column), column.type)])
        elif how == "mask_year":
            protected = pc.floor_temporal(column, unit="year").cast(column.type)
        elif how == "pseudonymise":
            key = key or key_of(uc)
            domain = declared.columns[name].domain or f"{source}.{table}.{name}"
            where = f"{uc.name}/{source}/{table}, column {name}"
            protected = _each(column, _Pseudonyms(key, (uc.name, domain), where))
        else:
            protected = _each(column, _MASKS[how])
        rows = rows.set_column(place, name, protected)
    return rows


def has_key(uc: UseCase) -> bool:
    """Tell whether something of the use case was protected, so that its key is decided."""
    return open_store().exists(_check_key(uc))


def key_of(uc: UseCase) -> bytes:
    """Return the key of pseudonyms, once it is sure that it is the lake's.

    Raises:
        DataError: There is none, or the lake's pseudonyms were made with another one.
    """
    key = settings().pii_key.get_secret_value()
    if not key:
        raise DataError(
            f"personal columns of {uc.name} are to be protected, and there is no key",
            rule="columns that sources.yml wants protected are kept so, or not at all",
            where="NIGHTSHIFT_PII_KEY",
            cure="set it, in a file of the folder NIGHTSHIFT_SECRETS; docs/security.md says how to make one",
        )
    secret = base64.urlsafe_b64decode(key)
    check = _hash(secret, "check of the key", uc.name).hex()[:32]
    store, place = open_store(), _check_key(uc)
    if not store.exists(place):
        store.put_new(place, json.dumps({"key_check": check}).encode())
    # Whoever was first: of two processes with two keys, one is refused.
    held = json.loads(store.get(place))["key_check"]
    if not hmac.compare_digest(held, check):
        raise DataError(
            "this is another key than the lake's pseudonyms were made with",
            rule="a value has one pseudonym for ever: with a second key, what belongs together would not "
            "join, and nobody would see it",
            where=f"NIGHTSHIFT_PII_KEY, {store.uri(place)}",
            cure="set the key that was in force so far; docs/security.md says how to change it for good",
        )
    return secret


def seal(uc: UseCase, text: str) -> str:
    """Return ``text`` as only a holder of the key can read it, for what must be found again as it was.

    Raises:
        DataError: As ``key_of``.
    """
    from cryptography.fernet import Fernet

    return _SEALED + Fernet(_sealing_key(uc)).encrypt(text.encode()).decode()


def unseal(uc: UseCase, text: str) -> str:
    """Return what was sealed; text that never was comes back as it is.

    Raises:
        DataError: As ``key_of``.
    """
    if not text.startswith(_SEALED):
        return text
    from cryptography.fernet import Fernet

    return Fernet(_sealing_key(uc)).decrypt(text.removeprefix(_SEALED)).decode()


def _check_key(uc: UseCase) -> str:
    return f"pseudonyms/{uc.name}.json"


def _sealing_key(uc: UseCase) -> bytes:
    return base64.urlsafe_b64encode(_hash(key_of(uc), "sealing", uc.name))


def _hash(key: bytes, *parts: str | bytes) -> bytes:
    """Return the keyed hash of several parts, none of which can run into the next one."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    message = b"".join(len(part).to_bytes(8) + part for part in encoded)
    return hmac.digest(key, message, hashlib.sha256)


class _Pseudonyms:
    """The pseudonyms of one domain, by value."""

    def __init__(self, key: bytes, of: tuple[str, str], where: str) -> None:
        self._key, self._parts, self._where = key, of, where

    def __call__(self, value: str) -> str:
        if found := _PSEUDONYM.fullmatch(value):
            self._refuse_strange(found[1])
            return value
        digest = _hash(self._key, "pseudonym", *self._parts, value)[:_HASH_BYTES]
        return _PREFIX + base64.b32encode(digest + self._check(digest)).decode().lower()

    def _check(self, digest: bytes) -> bytes:
        return _hash(self._key, "check of a pseudonym", *self._parts, digest)[:_CHECK_BYTES]

    def _refuse_strange(self, text: str) -> None:
        content = base64.b32decode(text.upper())
        digest, check = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if not hmac.compare_digest(check, self._check(digest)):
            raise DataError(
                "a value is a pseudonym already, of another domain, use case or key",
                rule="a value is hashed once: the hash of a hash joins with nothing",
                where=self._where,
                cure="give the column its domain back, or declare the table under a new name; where the "
                "source itself has pseudonyms, protect the column by `none`",
            )


def _masked_domain(value: str) -> str:
    address = _ADDRESS.fullmatch(value)
    return f"{_NOTHING}{address[1].lower()}" if address else _NOTHING


def _masked_last4(value: str) -> str:
    if _LAST4.fullmatch(value):
        return value
    shown = re.sub(r"[\W_]", "", value)
    return f"{_NOTHING}{shown[-4:]}" if len(shown) >= _LONG_ENOUGH and shown.isascii() else _NOTHING


_MASKS: dict[Protection | None, Callable[[str], str]] = {
    "mask_domain": _masked_domain,
    "mask_last4": _masked_last4,
}


def _each(column: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    """Return a column of text with each value changed; equal values are looked at once a chunk."""
    return pa.chunked_array([_changed(chunk, change) for chunk in column.chunks], pa.string())


def _changed(chunk: pa.Array, change: Callable[[str], str]) -> pa.Array:
    encoded = chunk.dictionary_encode()
    values: Sequence[str] = encoded.dictionary.to_pylist()
    return pa.array([change(value) for value in values], pa.string()).take(encoded.indices)
