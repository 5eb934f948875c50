"""Files of an S3 bucket, as every kind of source that reads files finds them.

Credentials, region and endpoint come from the environment as boto3 reads it, or from a profile of its files.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from nightshift.lake.s3 import connect, explained, whole
from nightshift.lake.store import NoSuchObjectError
from nightshift.sources.prefix import Listed


class S3Files:
    """The objects under a prefix. An object is there whole or not at all, and an ETag names its content."""

    def __init__(self, prefix: str, profile: str | None) -> None:
        """Prepare to list ``prefix`` (``s3://bucket/folder/``); nothing is asked yet.

        Raises:
            DataError: There is no such profile.
        """
        self._prefix = prefix
        parts = urlsplit(prefix)
        self._bucket, self._folder = parts.netloc, parts.path.lstrip("/")
        _, self._client = connect(profile)

    def listed(self) -> list[Listed]:
        """Return every object below the prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._folder
        )
        with self._explained():
            return [
                Listed(
                    item["Key"].removeprefix(self._folder), item["ETag"], item["LastModified"], item["Size"]
                )
                for page in pages
                for item in page.get("Contents", ())
            ]

    def content(self, file: Listed) -> bytes | None:
        """Return what an object holds; None if it is another one by now."""
        try:
            with self._explained():
                return self._asked(file)
        except NoSuchObjectError:
            return None

    def part(self, name: str, start: int, end: int) -> bytes | None:
        """Return bytes of an object from ``start`` to ``end``, as far as it has them; None if it is gone."""
        try:
            with self._explained():
                return self._range(name, start, end)
        except NoSuchObjectError:
            return None

    def _range(self, name: str, start: int, end: int) -> bytes:
        wanted = f"bytes={start}-{end - 1}"
        try:
            return whole(self._client, Bucket=self._bucket, Key=f"{self._folder}{name}", Range=wanted)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
                return b""
            raise

    def _asked(self, file: Listed) -> bytes | None:
        try:
            return whole(
                self._client, Bucket=self._bucket, Key=f"{self._folder}{file.name}", IfMatch=file.mark
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
                return None
            raise

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._prefix, "prefix in sources.yml, and the AWS_* environment or the profile")
