"""Nights on a disk that is full, the store's or their own, and that has room again later."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest
from confined import ROOM, without_room
from disturbed import NIGHTS, assert_whole, at, quiet, run_nights, state
from tests.faults import RecordFault
from tests.forked import PROCESSES, preload, start
from tests.lakes import put_lake
from tests.servers import seaweedfs
from tests.stacks import contents

from nightshift import nights, stages
from nightshift.errors import TransientError
from nightshift.warehouse.engine import engine

preload("nightshift.stages", "great_expectations", "dbt.cli.main", "mlflow", "xgboost")


def test_a_warehouse_for_which_there_was_no_room_is_made_once_there_is(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        with pytest.raises(TransientError, match="free some and run again"), engine().connect():
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((home / "warehouse").iterdir()) == [], "half a file could never be opened again"
    with engine().connect() as connection:
        assert connection.execute("select 1") == [(1,)]


def test_nights_on_a_store_whose_disk_was_full_end_as_undisturbed_ones(
    bootstrapped: Path,
    undisturbed: dict[str, Any],
    postgres: str,
    tmp_path: Path,
    record_fault: RecordFault,
) -> None:
    home, data = tmp_path / "state", tmp_path / "store"
    shutil.copytree(bootstrapped, home, ignore=shutil.ignore_patterns("lake"))
    with seaweedfs(data, kept=True) as url:
        places = {"NIGHTSHIFT_LAKE": "s3://full/lake", **at(url)}
        with state(home, postgres, **places):
            boto3.client("s3").create_bucket(Bucket="full")
            put_lake(bootstrapped / "lake")
            run_nights(quiet(), NIGHTS[:1])
            before = contents(quiet())
            objects = assert_whole()
    # Nothing is free enough for it: all its volumes are read-only, as when its disk is full.
    full = seaweedfs(data, "-volume.max=0", "-volume.minFreeSpace=100", kept=True)
    with full, state(home, postgres, again=True, **places):
        with pytest.raises(TransientError, match="has room left"):
            nights.run(quiet(), NIGHTS[1])
        assert contents(quiet()) == before, "readers see what was there, whole"
        assert assert_whole() == objects
    with seaweedfs(data), state(home, postgres, again=True, **places):
        run_nights(quiet(), NIGHTS[1:])
        assert contents(quiet()) == undisturbed
        assert stages.serve_again(quiet()) == {}
    record_fault(
        "disk of the object store full",
        "its volumes became read-only between two nights",
        "the night failed, to be tried again, and said what to look at; readers saw what was there; with "
        "room, the night ran",
    )


def test_nights_each_stage_of_which_finds_the_disk_full_end_as_undisturbed_ones(
    bootstrapped: Path,
    undisturbed: dict[str, Any],
    postgres: str,
    tmp_path: Path,
    record_fault: RecordFault,
) -> None:
    home = tmp_path / "state"
    shutil.copytree(bootstrapped, home)
    receiving, sending = PROCESSES.Pipe(duplex=False)
    with state(home, postgres):
        process = start(without_room, NIGHTS, sending)
        sending.close()
        raised, half_written = receiving.recv()
        process.join()
        assert process.exitcode == 0
        assert {kind for _, kind, _ in raised} == {"TransientError"}, raised
        stopped = {stage for stage, _, _ in raised}
        assert stopped >= {"land", "load", "build_features", "publish_features", "publish_predictions"}
        for stage, _, message in raised:
            assert "free some and run again" in message or "has room left" in message, (stage, message)
        assert half_written == []
        assert contents(quiet()) == undisturbed
        assert stages.serve_again(quiet()) == {}
        assert_whole()
    record_fault(
        "disk of the machine full",
        "no file could grow beyond 2 KiB (`RLIMIT_FSIZE`) at the first try of every stage of "
        f"{len(NIGHTS)} nights",
        f"{len(stopped)} stages ({', '.join(sorted(stopped))}) failed {len(raised)} times, to be tried "
        "again, and said what to do; with room, they ran",
    )
