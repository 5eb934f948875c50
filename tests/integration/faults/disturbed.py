"""Nights with faults: the state they run on, their retries, and what to look at afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replaying import THROUGH, use_case
from tests.lakes import environment
from tests.servers import S3_CREDENTIALS

from nightshift import databases, nights, stages
from nightshift.errors import TransientError
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase

NIGHTS = [THROUGH + timedelta(days=1), THROUGH + timedelta(days=2)]

# As many as Airflow gives a task.
TRIES = 4


def quiet() -> UseCase:
    """The use case of ``replaying``, which asks for no new model."""
    uc = use_case()
    return uc.model_copy(update={"retrain": uc.retrain.model_copy(update={"enabled": False})})


@contextmanager
def retried() -> Iterator[list[str]]:
    """Try a stage again when it raises ``TransientError``, as Airflow does; yield what was raised."""
    raised: list[str] = []

    def trying(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            for tries in range(1, TRIES + 1):
                try:
                    return stage(*arguments, **options)
                except TransientError as error:
                    raised.append(f"{name}: {error}")
                    if tries == TRIES:
                        raise
            raise AssertionError("unreachable")

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, stage in stages_of_a_night().items():
            patch.setattr(stages, name, trying(name, stage))
        yield raised


@contextmanager
def state(home: Path, postgres: str, *, again: bool = False, **variables: str) -> Iterator[None]:
    """Use a state folder whose predictions ``postgres`` serves: none yet, or those of before ``again``."""
    with environment(home, NIGHTSHIFT_POSTGRES_URL=postgres, **variables):
        databases.ensure(["serving"])
        if not again:
            with psycopg.connect(databases.url("serving")) as connection:
                connection.execute("drop schema if exists predictions cascade")
        yield


def run_nights(uc: UseCase, wanted: list[date]) -> None:
    """Run nights, which ask for no new model."""
    for night in wanted:
        assert nights.run(uc, night).reasons == ()


def stages_of_a_night() -> dict[str, Callable[..., Any]]:
    """Return every stage by its name."""
    return {
        name: stage
        for name, stage in vars(stages).items()
        if callable(stage) and getattr(stage, "__module__", "") == stages.__name__ and name[0] != "_"
    }


def at(url: str) -> dict[str, str]:
    """Return what points S3 clients at ``url``."""
    return {"AWS_ENDPOINT_URL": url, **S3_CREDENTIALS}


def assert_whole() -> int:
    """Read every table of the lake to its end and return how many there are: none is half there."""
    store = open_store()
    tables = [key for key in store.list("") if key.endswith(".parquet")]
    for key in tables:
        pq.read_table(pa.BufferReader(store.get(key)))
    return len(tables)
