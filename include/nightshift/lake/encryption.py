"""Columns of raw objects that only holders of a key can read, by Parquet's own encryption.

Each object has data keys of its own (AES-GCM), which lie in it, wrapped by a key of ``NIGHTSHIFT_LAKE_KEY``.
The setting may hold several, the newest first: that one wraps what is written, and every one of them unwraps.
Other columns, and how many rows there are, are not hidden. What an object says, and so its content hash, is
the same with and without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet.encryption as pe

from nightshift.errors import DataError
from nightshift.settings import settings

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    # pyarrow declares no types, and a class of unknown type must not be a base.
    _KmsClient = object
else:
    _KmsClient = pe.KmsClient


class NoKeyError(DataError):
    """An object holds columns that none of the keys opens."""


def writing(columns: Sequence[str]) -> Any:
    """Return what ``parquet.write_table`` takes as ``encryption_properties``; None to encrypt nothing.

    Raises:
        NoKeyError: Columns are to be encrypted and there is no key.
    """
    if not columns:
        return None
    keys = _keys()
    if not keys:
        raise NoKeyError(
            f"columns {', '.join(columns)} are to be encrypted, and there is no key",
            rule="columns with `encrypt: true` in sources.yml are written encrypted, or not at all",
            where="NIGHTSHIFT_LAKE_KEY",
            cure="set it, in a file of the folder NIGHTSHIFT_SECRETS; docs/security.md says how to make one",
        )
    newest = next(iter(keys))
    how = pe.EncryptionConfiguration(
        footer_key=newest, column_keys={newest: list(columns)}, plaintext_footer=True
    )
    return _factory().file_encryption_properties(_connection(keys), how)


def reading() -> Any:
    """Return what ``parquet.read_table`` takes as ``decryption_properties``; None where there is no key."""
    if not (keys := _keys()):
        return None
    how = pe.DecryptionConfiguration(cache_lifetime=timedelta(0))
    return _factory().file_decryption_properties(_connection(keys), how)


def no_key(error: Exception, where: str) -> NoKeyError | None:
    """Return what to tell of an error of reading if it is the lack of a key, else None."""
    if not any(word in str(error).lower() for word in ("decrypt", "unwrap", _UNKNOWN)):
        return None
    return NoKeyError(
        f"an object has encrypted columns, and no key that opens them: {error}",
        rule="NIGHTSHIFT_LAKE_KEY holds every key that something in the lake was encrypted with",
        where=where,
        cure="put the key that was in force when it was written behind the newest one, after a comma",
    )


_UNKNOWN = "is not among the keys"


def _keys() -> dict[str, Fernet]:
    """Return the keys by the names that objects call them, the newest first."""
    given = [key for key in settings().lake_key.get_secret_value().split(",") if key]
    if not given:
        return {}
    from cryptography.fernet import Fernet  # a twentieth of a second that lakes without keys need not pay

    return {hashlib.sha256(key.encode()).hexdigest()[:16]: Fernet(key) for key in given}


class _Wrapping(_KmsClient):
    """Wraps the keys of objects with ours, where others ask a service."""

    def __init__(self, keys: dict[str, Fernet]) -> None:
        super().__init__()
        self._keys = keys

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return self._keys[master_key_identifier].encrypt(key_bytes).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        if master_key_identifier not in self._keys:
            raise ValueError(f"key {master_key_identifier} {_UNKNOWN}")
        return self._keys[master_key_identifier].decrypt(wrapped_key)


def _factory() -> Any:
    """Return a factory without memory: it would keep keys of settings that are gone."""
    return pe.CryptoFactory(lambda _: _Wrapping(_keys()))


def _connection(keys: dict[str, Fernet]) -> Any:
    return pe.KmsConnectionConfig(kms_instance_id="nightshift", key_access_token=",".join(keys) or "none")
