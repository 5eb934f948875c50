"""The store in an S3 bucket, or in anything that speaks its protocol.

Address, region and credentials come from the environment as boto3 reads it (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, profiles, instance roles).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem, SubTreeFileSystem

from nightshift.errors import DataError, TransientError
from nightshift.lake.store import STORE_CURE, NoSuchObjectError, require_key
from nightshift.settings import settings

_MISSING = {"NoSuchKey", "404", "NotFound"}
_REFUSED = {"NoSuchBucket", "AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
# Another writer holds the key: 412 once it has won, 409 while the two are still racing.
_TAKEN = {"PreconditionFailed", "412"}
_RACING = {"ConditionalRequestConflict", "409"}
# Credentials of these kinds end within hours.
_RENEWED = {"iam-role", "container-role", "assume-role-with-web-identity"}

_CONNECT_SECONDS = 5
# Pauses differ, so each client has a number of its own: all of them last for some seconds of errors. boto3
# begins with 0.05 s (1 s where it is asked to slow down), delta-rs with 0.1 s, Arrow with 1 s.
_BOTO_RETRIES = 7
_DELTA_RETRIES = 9
_ARROW_ATTEMPTS = 5
# Who wrote an object that only one may create.
_WRITER = "writer"


class S3Store:
    """A bucket and a prefix in it. S3 writes objects whole; ``put_new`` sends ``If-None-Match: *``."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._encryption = _encryption()
        self._session, self._client = connect()

    def put(self, key: str, content: bytes) -> None:
        """Write an object, replacing the one that may be there."""
        with self._explained(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content, **self._encryption)

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless the key is taken; return whether this call wrote it.

        An answer may be lost after the object was written. Whoever asks again is told that the key is taken,
        so each object says which call wrote it.
        """
        writer, again = uuid.uuid4().hex, False
        with self._explained(key):
            while True:
                try:
                    self._client.put_object(
                        Bucket=self.bucket,
                        Key=self._key(key),
                        Body=content,
                        IfNoneMatch="*",
                        Metadata={_WRITER: writer},
                        **self._encryption,
                    )
                except ClientError as error:
                    if _code(error) in _TAKEN:
                        again |= bool(error.response["ResponseMetadata"].get("RetryAttempts"))
                        return again and self._wrote(key, writer)
                    if _code(error) in _RACING:
                        again = True
                        continue
                    raise
                return True

    def get(self, key: str) -> bytes:
        """Return an object's content; raise NoSuchObjectError when there is none."""
        with self._explained(key):
            return whole(self._client, Bucket=self.bucket, Key=self._key(key))

    def exists(self, key: str) -> bool:
        """Return whether an object has this key."""
        return self.written(key) is not None

    def written(self, key: str) -> str | None:
        """Return what differs once an object was written with other content; None when there is none."""
        try:
            with self._explained(key):
                found = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except NoSuchObjectError:
            return None
        return f"{found['ETag']} {found['LastModified']}"

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders right under ``prefix`` (which ends with ``/``), sorted."""
        whole = self._key(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=whole, Delimiter="/"
        )
        with self._explained(prefix):
            return sorted(
                item["Prefix"].removeprefix(whole).rstrip("/")
                for page in pages
                for item in page.get("CommonPrefixes", ())
            )

    def list_between(self, prefix: str, first: str, last: str) -> list[str]:
        """Return the keys in folders right under ``prefix`` named from ``first`` to ``last``, sorted."""
        whole, found = self._key(prefix), []
        # After a little earlier name: some servers begin after the whole of the folder that is named.
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=whole, StartAfter=f"{whole}{first[:-1]}"
        )
        with self._explained(prefix):
            for item in (item for page in pages for item in page.get("Contents", ())):
                name, inside, _ = item["Key"].removeprefix(whole).partition("/")
                if name > last:
                    break
                if inside and name >= first:
                    found.append(item["Key"].removeprefix(self.prefix))
        return found

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with ``prefix``, sorted."""
        return sorted(self.modified(prefix))

    def modified(self, prefix: str) -> dict[str, datetime]:
        """Return the keys that begin with ``prefix``, each with the time (UTC) it was last written."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._key(prefix)
        )
        with self._explained(prefix):
            return {
                item["Key"].removeprefix(self.prefix): item["LastModified"]
                for page in pages
                for item in page.get("Contents", ())
            }

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def uri(self, key: str) -> str:
        """Return the full address of a key."""
        return f"s3://{self.bucket}/{self._key(key)}"

    def storage_options(self) -> dict[str, str]:
        """Return what delta-rs needs: boto3's endpoint, credentials and encryption, and conditional puts."""
        options = {
            "aws_region": self._client.meta.region_name or "us-east-1",
            "aws_conditional_put": "etag",
            "connect_timeout": f"{_CONNECT_SECONDS}s",
            "timeout": f"{settings().store_seconds}s",
            "max_retries": str(_DELTA_RETRIES),
            "retry_timeout": f"{3 * settings().store_seconds}s",
        }
        if self._encryption:
            options["aws_server_side_encryption"] = self._encryption["ServerSideEncryption"]
        if "SSEKMSKeyId" in self._encryption:
            options["aws_sse_kms_key_id"] = self._encryption["SSEKMSKeyId"]
        endpoint: str = self._client.meta.endpoint_url
        if not endpoint.endswith(".amazonaws.com"):
            options["aws_endpoint"] = endpoint
            options["aws_allow_http"] = str(endpoint.startswith("http://")).lower()
        credentials = self._session.get_credentials()
        # It reads no credentials file. What a machine's role gives, it fetches and renews by itself.
        if credentials is not None and credentials.method not in _RENEWED:
            frozen = credentials.get_frozen_credentials()
            options |= {"aws_access_key_id": frozen.access_key, "aws_secret_access_key": frozen.secret_key}
            if frozen.token:
                options["aws_session_token"] = frozen.token
        return options

    def filesystem(self, key: str) -> FileSystem:
        """Return Arrow's own access to what lies under ``key``, with boto3's endpoint and credentials."""
        options: dict[str, Any] = {
            "region": self._client.meta.region_name or "us-east-1",
            "connect_timeout": _CONNECT_SECONDS,
            "request_timeout": settings().store_seconds,
            "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=_ARROW_ATTEMPTS),
        }
        endpoint: str = self._client.meta.endpoint_url
        if not endpoint.endswith(".amazonaws.com"):
            options["endpoint_override"] = endpoint
        credentials = self._session.get_credentials()
        if credentials is not None:
            frozen = credentials.get_frozen_credentials()
            options |= {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "session_token": frozen.token,
            }
        return SubTreeFileSystem(f"{self.bucket}/{self._key(key)}", S3FileSystem(**options))

    def _key(self, key: str) -> str:
        return self.prefix + require_key(key)

    def _wrote(self, key: str, writer: str) -> bool:
        """Return whether a call that was told that its key is taken took it itself, at an earlier try."""
        found = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        return bool(found["Metadata"].get(_WRITER) == writer)

    def _explained(self, key: str) -> AbstractContextManager[None]:
        return explained(self.uri(key), "NIGHTSHIFT_LAKE and the AWS_* environment")


def connect(profile: str | None = None) -> tuple[boto3.Session, Any]:
    """Return a session, of a profile of ~/.aws or of the environment, and its client for S3.

    Raises:
        DataError: There is no such profile, or what the environment says cannot be used.
    """
    try:
        session = boto3.Session(profile_name=profile)
        return session, session.client(
            "s3",
            config=Config(
                retries={"mode": "standard", "max_attempts": _BOTO_RETRIES},
                max_pool_connections=16,
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=settings().store_seconds,
            ),
        )
    except BotoCoreError as error:
        raise DataError(
            f"S3 cannot be used as it is set up: {error}",
            rule="S3 takes its credentials, region and endpoint as the AWS tools find them",
            where="the AWS_* environment, and the files of ~/.aws",
            cure="correct AWS_PROFILE, or what else the message names",
        ) from error


def whole(client: Any, **request: str) -> bytes:
    """Return what ``get_object`` answers, to its end: whether an answer ends, boto3 does not see to."""
    tries = 1
    while True:
        body = client.get_object(**request)["Body"]
        try:
            content: bytes = body.read()
        except BotoCoreError:
            if tries > _BOTO_RETRIES:
                raise
            tries += 1
        else:
            return content


@contextmanager
def explained(address: str, where: str) -> Iterator[None]:
    """Turn the service's answers into a missing object, bad luck, or a wrong configuration.

    Args:
        address: What is asked for.
        where: What says so, and with whose credentials.
    """
    try:
        yield
    except ClientError as error:
        if _code(error) in _MISSING:
            raise NoSuchObjectError(f"no object at {address}") from error
        if _code(error) in _REFUSED:
            raise DataError(
                f"S3 refused {address}: {error}",
                rule="the bucket exists and its credentials may use it",
                where=where,
                cure="create the bucket, or mend AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL or the policy",
            ) from error
        raise TransientError(f"S3 failed at {address}: {error}; {STORE_CURE}") from error
    except BotoCoreError as error:
        raise TransientError(f"S3 not reached at {address}: {error}; {STORE_CURE}") from error


def _encryption() -> dict[str, str]:
    """Return what each put asks S3 for, in boto3's words; nothing leaves it to the bucket's own setting."""
    how, key = settings().s3_encryption, settings().s3_kms_key
    return {name: value for name, value in {"ServerSideEncryption": how, "SSEKMSKeyId": key}.items() if value}


def _code(error: ClientError) -> str:
    answer: dict[str, Any] = error.response
    return str(answer.get("Error", {}).get("Code", ""))
