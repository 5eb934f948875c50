"""Every object of the lake asks S3 to encrypt it as the settings say, whichever library writes it."""

from __future__ import annotations

from datetime import date

import boto3
import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.lake import append_log, tables
from nightshift.lake.store import open_store
from nightshift.settings import settings
from nightshift.usecase import UseCase

KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
DAY = date(2020, 1, 1)


@pytest.fixture(name="storage")
def in_a_bucket() -> str:
    return "s3"


@pytest.fixture
def s3_folder(emulated_bucket: str) -> str:
    """In an S3 that tells what it was asked for: the object store of other tests has no KMS."""
    return emulated_bucket


def _write(uc: UseCase) -> dict[str, tuple[str | None, str | None]]:
    """Write through each door of the lake and return how every object is encrypted, and by which key."""
    store = open_store()
    store.put("plain", b"x")
    assert store.put_new("new", b"x")
    append_log.append("log", {})
    rows = pa.table({"id": ["a"], "value": [1]})
    tables.replace_partition(uc, "features", DAY, rows, ["id"])
    assert tables.read_partitions(uc, "features", DAY, DAY, ["value"]).to_pydict() == {"value": [1]}
    bucket, client = settings().lake_uri.split("/")[2], boto3.client("s3")
    heads = {key: client.head_object(Bucket=bucket, Key=f"lake/{key}") for key in store.list("")}
    assert any("_delta_log" in key for key in heads)
    assert any("features/partition=" in key for key in heads)
    return {key: (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")) for key, head in heads.items()}


def test_with_a_key_of_kms(home: object, uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("NIGHTSHIFT_S3_KMS_KEY", KEY)
    settings.cache_clear()
    assert set(_write(uc).values()) == {("aws:kms", KEY)}


def test_with_keys_of_s3_itself(home: object, uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENCRYPTION", "AES256")
    settings.cache_clear()
    assert set(_write(uc).values()) == {("AES256", None)}


def test_by_default_nothing_is_asked_for(home: object, uc: UseCase) -> None:
    """What the bucket says counts; the emulator's says nothing."""
    assert set(_write(uc).values()) == {(None, None)}


def test_a_key_that_nothing_would_use_is_refused(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_KMS_KEY", KEY)
    settings.cache_clear()
    with pytest.raises(DataError, match="NIGHTSHIFT_S3_KMS_KEY: nothing uses it"):
        settings()
