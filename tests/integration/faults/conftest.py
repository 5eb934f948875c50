"""A bootstrapped state to run nights on, what they leave undisturbed, and the same nights with faults."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from disturbed import NIGHTS, at, quiet, run_nights, state
from replaying import THROUGH, use_case
from tests.faults import FaultyProxy, faulty_proxy
from tests.lakes import put_lake
from tests.servers import seaweedfs
from tests.stacks import contents

from nightshift import nights
from nightshift.usecase import UseCase


@pytest.fixture(scope="session")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Path:
    """A state folder with three weeks of real history and a first champion."""
    home = tmp_path_factory.mktemp("bootstrapped")
    with state(home, postgres):
        nights.bootstrap(quiet(), use_case().history_start, THROUGH)
    return home


@pytest.fixture(scope="session")
def undisturbed(
    bootstrapped: Path, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the nights leave in a folder with nothing in the way."""
    home = tmp_path_factory.mktemp("undisturbed") / "state"
    shutil.copytree(bootstrapped, home)
    with state(home, postgres):
        run_nights(quiet(), NIGHTS)
        found = contents(quiet())
    for layer in ("raw flights", "features", "labels", "predictions", "monitoring", "outcomes"):
        assert found[layer], f"the nights left no {layer}, so equal would say little"
    return found


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real object store."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as url:
        yield url


@pytest.fixture
def proxy(store: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the store, without faults yet."""
    with faulty_proxy(store) as running:
        yield running


@pytest.fixture
def behind_proxy(proxy: FaultyProxy, bootstrapped: Path, postgres: str, tmp_path: Path) -> Iterator[UseCase]:
    """The bootstrapped state with its lake in the store, all of it read and written through the proxy."""
    home, bucket = tmp_path / "state", f"lake-{proxy.server_port}"
    shutil.copytree(bootstrapped, home, ignore=shutil.ignore_patterns("lake"))
    places = {"NIGHTSHIFT_LAKE": f"s3://{bucket}/lake", **at(proxy.url)}
    with state(home, postgres, NIGHTSHIFT_STORE_SECONDS="3", **places):
        boto3.client("s3").create_bucket(Bucket=bucket)
        put_lake(bootstrapped / "lake")
        yield quiet()
