"""Lakes of tests: which storage they lie on, and lakes made once and given to many tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from nightshift.lake.frozen import Frozen
from nightshift.lake.objects import read_object
from nightshift.lake.store import open_store
from nightshift.settings import settings

# Layers about what tasks took, which is another each time.
MEASURED = {"monitoring_resources", "monitoring_costs", "monitoring_performance"}


@pytest.fixture(name="storage", scope="module", params=["file", "s3"])
def on_both_storages(request: pytest.FixtureRequest) -> str:
    """Let tests run with the lake in a folder and in an S3 bucket: ``storage = on_both_storages``."""
    return str(request.param)


@contextmanager
def environment(home: Path, **variables: str) -> Iterator[None]:
    """Use the state folder ``home``, and ``variables``, in this process and those it starts.

    For what is made once for many tests; a single test takes the fixture ``home``.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"NIGHTSHIFT_HOME": str(home), **variables}.items():
                patch.setenv(name, value)
            settings.cache_clear()
            yield
    finally:
        settings.cache_clear()


def put_lake(folder: Path) -> None:
    """Put every object of a lake that lies in a folder into the lake of the settings, wherever that is."""
    store = open_store()
    for file in filter(Path.is_file, folder.rglob("*")):
        store.put(file.relative_to(folder).as_posix(), file.read_bytes())


def sealed_rows(frozen: Frozen) -> pa.Table:
    """Return the rows of a holdout as the object in the lake holds them, past the ledger."""
    return read_object(frozen.key, frozen.content_hash, frozen.key_columns)
