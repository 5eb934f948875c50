"""Logs of JSON lines in a folder and in a bucket, and a use case that reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from tests import synthetic
from tests.lakes import environment
from tests.servers import S3_CREDENTIALS

from nightshift.settings import settings
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

DAY = date(2024, 3, 1)
NEXT = DAY + timedelta(days=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
_TYPES = {"event": "string", "at": "timestamp", "page": "string", "count": "int64", "seconds": "float64"}

_THERE = {
    "type": "expect_column_values_to_not_be_null",
    "kwargs": {"column": "partition"},
    "meta": {"rule": "on_a_day", "severity": "quarantine", "reason": "Because the test says so."},
}


class Upstream:
    """Where a log is: its files grow, are put anew, and go."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        parts = urlsplit(prefix)
        self._folder = Path(parts.path)
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

    def put(self, name: str, content: bytes) -> None:
        if self._bucket:
            boto3.client("s3").put_object(Bucket=self._bucket, Key=self._key + name, Body=content)
            return
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def append(self, name: str, content: bytes) -> None:
        if self._bucket:
            self.put(name, self.content(name) + content)
            return
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            log.write(content)

    def delete(self, name: str) -> None:
        if self._bucket:
            boto3.client("s3").delete_object(Bucket=self._bucket, Key=self._key + name)
        else:
            (self._folder / name).unlink()


@contextmanager
def upstream_on(kind: str, folder: Path, s3: str) -> Iterator[Upstream]:
    """A log in a folder (``file``) or a bucket (``s3``), and a state folder of its own."""
    if kind == "file":
        (folder / "upstream").mkdir()
        with environment(folder / "home"):
            yield Upstream(f"{(folder / 'upstream').as_uri()}/")
        return
    bucket = f"b{abs(hash(str(folder)))}"
    with environment(folder / "home", AWS_ENDPOINT_URL=s3, **S3_CREDENTIALS):
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield Upstream(f"s3://{bucket}/in/")


def line(event: str, at: str | None = "2024-03-01T10:00:00Z", **fields: Any) -> bytes:
    """Return a line of the log."""
    return json.dumps({"event": event, "at": at, **fields}).encode() + b"\n"


def site(prefix: str, batch_rows: int = 5, zone: str = "UTC", **table: Any) -> UseCase:
    """Return a use case whose source ``site`` has the table ``clicks`` in a log."""
    columns = {name: {"type": kind, "description": f"The event's {name}."} for name, kind in _TYPES.items()}
    clicks = {
        "description": "Clicks.",
        "key": ["event"],
        "refresh": "daily",
        "columns": columns,
        "allow_empty": True,
    }
    source = {
        "kind": "events",
        "description": "A site.",
        "owner": "test",
        "access": "files",
        "sla": "none",
        "options": {
            "prefix": prefix,
            "tables": {"clicks": {"files": "clicks/*.jsonl", "time": "at"} | table},
            "batch_rows": batch_rows,
        },
        "tables": {"clicks": clicks},
    }
    return synthetic.use_case(name="toy", timezone=zone, sources={"site": source})


def write_suite(folder: Path, patch: pytest.MonkeyPatch, name: str, *rules: dict[str, Any]) -> None:
    """Use a project whose only suite is ``name``, with these expectations."""
    suites = folder / "project" / "expectations" / "toy"
    suites.mkdir(parents=True)
    suite = {"name": name, "expectations": rules or [_THERE], "meta": {"quarantine_at_most": 0.9}}
    (suites / f"{name}.json").write_text(json.dumps(suite), encoding="utf-8")
    patch.setenv("NIGHTSHIFT_PROJECT", str(folder / "project"))
    settings.cache_clear()


def capture(uc: UseCase) -> int:
    """Capture the clicks; return how many lines there were."""
    return open_connector(uc, "site").capture("clicks")


def read(uc: UseCase, day: date = DAY, as_of: datetime = LATER) -> list[str]:
    """Return the events of a day that were captured, sorted, as often as they are there."""
    rows = open_connector(uc, "site").read("clicks", day, as_of).table
    return sorted(rows["event"].to_pylist())
