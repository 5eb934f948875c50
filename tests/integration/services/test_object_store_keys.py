"""The keys that the stack writes, tried on the object store that it runs: each opens its own buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.servers import seaweedfs

from nightshift.services import credentials

BUCKETS = ("nightshift", "airflow-logs", "mlflow")

Client = Callable[[str], Any]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return what speaks to the store with the key of a file of secrets; the buckets are made."""
    home = tmp_path_factory.mktemp("store")
    secrets = home / "secrets"
    credentials.write(secrets, credentials.Places())

    def connect(file: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
                patch.delenv(name, raising=False)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets / file))
            session = boto3.Session(region_name="us-east-1")
            return session.client("s3", endpoint_url=address, config=Config(proxies={}))

    with seaweedfs(home, keys=secrets / "s3.json") as address:
        for bucket in BUCKETS:
            connect("aws_credentials_admin").create_bucket(Bucket=bucket)
        yield connect


def _allowed(act: Callable[[], object]) -> bool:
    try:
        act()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("file", "own"),
    [("aws_credentials", {"nightshift", "airflow-logs"}), ("aws_credentials_mlflow", {"mlflow"})],
)
def test_a_key_opens_its_own_buckets_and_no_others(client: Client, file: str, own: set[str]) -> None:
    store, admin = client(file), client("aws_credentials_admin")
    for bucket in BUCKETS:
        admin.put_object(Bucket=bucket, Key="a/there", Body=b"as it was")
        acts: list[Callable[[], object]] = [
            lambda bucket=bucket: store.get_object(Bucket=bucket, Key="a/there"),
            lambda bucket=bucket: store.list_objects_v2(Bucket=bucket, Prefix="a/"),
            lambda bucket=bucket: store.put_object(Bucket=bucket, Key=f"a/{file}", Body=b"", IfNoneMatch="*"),
            lambda bucket=bucket: store.create_multipart_upload(Bucket=bucket, Key="a/large"),
            lambda bucket=bucket: store.copy_object(
                Bucket=bucket, Key="a/copied", CopySource={"Bucket": bucket, "Key": "a/there"}
            ),
            lambda bucket=bucket: store.delete_object(Bucket=bucket, Key="a/there"),
        ]
        assert {_allowed(act) for act in acts} == {bucket in own}, bucket
    assert not _allowed(lambda: store.create_bucket(Bucket="a-bucket-of-its-own"))


def test_nobody_without_a_key_gets_anything(client: Client) -> None:
    client("aws_credentials_admin").put_object(Bucket="nightshift", Key="there", Body=b"x")
    address = client("aws_credentials").meta.endpoint_url
    for path in ("/", "/nightshift", "/nightshift/there", "/mlflow"):
        assert httpx.get(f"{address}{path}", trust_env=False).status_code == 403
    assert httpx.put(f"{address}/nightshift/there", content=b"y", trust_env=False).status_code == 403
