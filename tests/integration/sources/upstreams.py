"""Files that a source reads, in a folder and in a bucket: they come, grow, move and go."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import boto3
from tests.lakes import environment
from tests.servers import S3_CREDENTIALS


class Upstream:
    """Where the files are."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        parts = urlsplit(prefix)
        self._folder = Path(unquote(parts.path))
        self._bucket, self._key = parts.netloc, parts.path.lstrip("/")

    def content(self, name: str) -> bytes:
        if self._bucket:
            client = boto3.client("s3")
            try:
                answer = client.get_object(Bucket=self._bucket, Key=self._key + name)
            except client.exceptions.NoSuchKey:
                return b""
            return bytes(answer["Body"].read())
        file = self._folder / name
        return file.read_bytes() if file.exists() else b""

    def put(self, name: str, content: bytes | str, age: float = 3600) -> None:
        """Put a file there, whole; in a folder, as if it were there for ``age`` seconds."""
        given = content.encode() if isinstance(content, str) else content
        if self._bucket:
            boto3.client("s3").put_object(Bucket=self._bucket, Key=self._key + name, Body=given)
            return
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(given)
        os.utime(file, (time.time() - age,) * 2)

    def append(self, name: str, content: bytes) -> None:
        if self._bucket:
            self.put(name, self.content(name) + content)
            return
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            log.write(content)

    def rename(self, name: str, to: str) -> None:
        if not self._bucket:
            (self._folder / name).rename(self._folder / to)
            return
        self.put(to, self.content(name))
        self.delete(name)

    def delete(self, name: str) -> None:
        if self._bucket:
            boto3.client("s3").delete_object(Bucket=self._bucket, Key=self._key + name)
        else:
            (self._folder / name).unlink()


@contextmanager
def upstream_on(kind: str, folder: Path, s3: str) -> Iterator[Upstream]:
    """Files in a folder (``file``) or a bucket (``s3``), and a state folder of its own."""
    if kind == "file":
        (folder / "upstream").mkdir()
        with environment(folder / "home"):
            yield Upstream(f"{(folder / 'upstream').as_uri()}/")
        return
    bucket = f"b{hashlib.sha256(str(folder).encode()).hexdigest()[:20]}"
    with environment(folder / "home", AWS_ENDPOINT_URL=s3, **S3_CREDENTIALS):
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield Upstream(f"s3://{bucket}/in/")
