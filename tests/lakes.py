"""Lakes of tests: which storage they lie on, and lakes made once and given to many tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from nightshift.lake.frozen import Frozen
from nightshift.lake.objects import read_object
from nightshift.lake.store import open_store


@pytest.fixture(name="storage", scope="module", params=["file", "s3"])
def on_both_storages(request: pytest.FixtureRequest) -> str:
    """Let tests run with the lake in a folder and in an S3 bucket: ``storage = on_both_storages``."""
    return str(request.param)


def put_lake(folder: Path) -> None:
    """Put every object of a lake that lies in a folder into the lake of the settings, wherever that is."""
    store = open_store()
    for file in filter(Path.is_file, folder.rglob("*")):
        store.put(file.relative_to(folder).as_posix(), file.read_bytes())


def sealed_rows(frozen: Frozen) -> pa.Table:
    """Return the rows of a holdout as the object in the lake holds them, past the ledger."""
    return read_object(frozen.key, frozen.content_hash, frozen.key_columns)
