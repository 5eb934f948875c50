"""Writers that tests run in processes of their own, race against each other, and kill.

``act`` is the whole life of such a process. With a point such as ``before 2`` it kills itself (SIGKILL) just
before, or ``after``, the lake's second step towards durable storage.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, date, datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import pyarrow as pa
from tests.forked import take_over

import nightshift.lake.tables as tables_module
from nightshift.lake import raw, s3, staging, tables
from nightshift.lake.append_log import append
from nightshift.usecase import UseCase, load_usecase

AS_OF = datetime(2013, 7, 2, 8, tzinfo=UTC)
KEY = ("id",)


def toy() -> UseCase:
    """A use case called ``toy`` with one source of one table, ``events``, keyed by ``id``."""
    columns = {
        "id": {"type": "string", "description": "Identifies the row."},
        "value": {"type": "float64", "description": "A number."},
    }
    events = {"description": "Events.", "key": KEY, "refresh": "daily", "columns": columns}
    source = {
        "connector": "toy:Toy",
        "description": "Toy.",
        "owner": "test",
        "access": "none",
        "sla": "none",
        "tables": {"events": events},
    }
    content = load_usecase("flight_delays").model_dump() | {"name": "toy", "sources": {"src": source}}
    return UseCase.model_validate(content)


def rows(content: int, count: int = 200) -> pa.Table:
    """Return ``count`` rows whose values depend on ``content``."""
    return pa.table(
        {"id": [f"{i:06d}" for i in range(count)], "value": [float(i * content) for i in range(count)]}
    )


def land(day: date, content: int, as_of: datetime = AS_OF) -> raw.RawManifest:
    """Land ``rows(content)`` for ``day``."""
    data = rows(content)
    return raw.land(
        toy(), "src", "events", day, data, rows_in=data.num_rows, rows_quarantined=0, as_of=as_of, query="all"
    )


ACTIONS: dict[str, Callable[[date, int], Any]] = {
    "land": lambda day, content: land(day, content).content_hash,
    "replace": lambda day, content: (
        tables.replace_partition(toy(), "features", day, rows(content), KEY).content_hash
    ),
    "large": lambda day, content: (
        tables.replace_partition(toy(), "features", day, rows(content, 200_000), KEY).content_hash
    ),
    "stage": lambda day, content: staging.stage(toy(), "features", day, rows(content), KEY).content_hash,
    "append": lambda day, content: [append("race", {"writer": content, "turn": turn}) for turn in range(10)],
}


def _die_at(moment: str, step: int) -> None:
    """Make the process kill itself before or after the ``step``-th step that touches storage."""
    done = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if moment == "before" and done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if moment == "after" and done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for step_of_files in ("replace", "link", "fsync"):
        setattr(os, step_of_files, deadly(getattr(os, step_of_files)))
    s3.S3Store.put = deadly(s3.S3Store.put)
    s3.S3Store.put_new = deadly(s3.S3Store.put_new)
    tables_module.write_deltalake = deadly(tables_module.write_deltalake)
    tables_module.DeltaTable.create = deadly(tables_module.DeltaTable.create)


def act(
    action: str,
    day: date,
    content: int,
    point: str,
    environment: dict[str, str],
    start: Barrier | None,
    result: Connection,
) -> None:
    """Do one of ACTIONS once every other writer waits at ``start`` too, and send what it returns."""
    take_over(environment)
    if point:
        moment, step = point.split()
        _die_at(moment, int(step))
    if start:
        start.wait()
    result.send(ACTIONS[action](day, content))
