"""Logs in the object store do not stay for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from nightshift.services import prepare


def rules(bucket: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket)[
        "Rules"
    ]
    return found


@pytest.fixture
def bucket(s3_folder: str) -> Iterator[str]:
    """A bucket whose rules are nobody else's."""
    client, bucket = boto3.client("s3"), s3_folder.replace("/", "-")
    client.create_bucket(Bucket=bucket)
    yield bucket
    client.delete_bucket(Bucket=bucket)


def test_old_logs_expire_and_a_new_age_replaces_the_old_one(bucket: str) -> None:
    assert prepare.expire(bucket, 90)
    assert [rule["Expiration"] for rule in rules(bucket)] == [{"Days": 90}]
    assert prepare.expire(bucket, 90)
    assert prepare.expire(bucket, 30)
    (rule,) = rules(bucket)
    assert (rule["Expiration"], rule["Status"]) == ({"Days": 30}, "Enabled")


def test_rules_that_somebody_made_stay(bucket: str) -> None:
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 7}}
    boto3.client("s3").put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]}
    )
    prepare.expire(bucket, 90)
    assert {rule["ID"]: rule["Expiration"]["Days"] for rule in rules(bucket)} == {
        "theirs": 7,
        "nightshift-expiry": 90,
    }


@pytest.mark.parametrize(("code", "known"), [("NotImplemented", False), ("AccessDenied", None)])
def test_a_store_without_rules_is_said_to_have_none(
    monkeypatch: pytest.MonkeyPatch, code: str, known: bool | None
) -> None:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")  # nosec B106
    monkeypatch.setattr(boto3, "client", lambda _: client)
    with Stubber(client) as store:
        store.add_client_error("get_bucket_lifecycle_configuration", code)
        if known is None:
            with pytest.raises(ClientError, match=code):
                prepare.expire("logs", 90)
        else:
            assert prepare.expire("logs", 90) is known
