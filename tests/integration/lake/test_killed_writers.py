"""A writer killed (SIGKILL) at any step and run again leaves what an undisturbed one leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from lake_writer import KEY, land, rows

from nightshift.lake import raw, tables
from nightshift.lake.hashing import content_hash
from nightshift.lake.staging import stage
from nightshift.lake.store import FileStore, Store
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)
# On files a landing is fsync, rename (object), fsync, link (manifest); on S3 it is two puts.
LANDING_STEPS = {FileStore: 4}


def kill(writer: Callable[..., Any], action: str, content: int, point: str) -> bool:
    """Run a writer that kills itself at ``point``; return whether it got that far."""
    victim = writer(action, DAY, content, point)
    result = victim.finish()
    assert victim.process.exitcode == (-signal.SIGKILL if result is None else 0)
    return result is None


@pytest.mark.parametrize("moment", ["before", "after"])
def test_landing(store: Store, uc: UseCase, writer: Callable[..., Any], moment: str) -> None:
    first = land(DAY, 1)
    steps = LANDING_STEPS.get(type(store), 2)
    undisturbed = content_hash(rows(2), KEY)
    for step in range(1, steps + 1):
        day_before = raw.current(uc, "src", "events", DAY)
        assert kill(writer, "land", step + 1, f"{moment} {step}"), f"the landing has {steps} steps"
        seen = raw.current(uc, "src", "events", DAY)
        assert seen is not None
        if (moment, step) == ("after", steps):
            assert seen.content_hash == content_hash(rows(step + 1), KEY), "killed once the manifest stood"
        else:
            assert seen == day_before, "readers see the version before, whole"
        assert raw.read(seen).num_rows == 200
        assert land(DAY, step + 1).content_hash == content_hash(rows(step + 1), KEY)
    found = raw.versions(uc, "src", "events", DAY)
    assert [one.version for one in found] == list(range(1, steps + 2)), "no version lost, none doubled"
    assert found[0] == first
    assert found[1].content_hash == undisturbed
    objects = [key for key in store.list("raw/") if key.endswith(".parquet")]
    assert sorted(one.object_key for one in found) == objects
    assert not kill(writer, "land", 99, f"{moment} {steps + 1}"), "no step was left out"


@pytest.mark.parametrize("point", ["before 1", "after 1", "before 2"])
def test_staging(store: Store, uc: UseCase, writer: Callable[..., Any], point: str) -> None:
    if kill(writer, "stage", 1, point):
        staged = stage(uc, "features", DAY, rows(1), KEY)
        assert store.list("staging/") == [staged.key]
    assert stage(uc, "features", DAY, rows(1), KEY).content_hash


# Publishing first creates the table (a commit of its own), then commits the rows.
@pytest.mark.parametrize("point", ["before 1", "after 1", "before 2", "after 2"])
def test_first_publish(store: Store, uc: UseCase, writer: Callable[..., Any], point: str) -> None:
    assert kill(writer, "replace", 1, point)
    assert len(tables.partition_versions(uc, "features")) == (point == "after 2")
    check_published(uc, 1)


@pytest.mark.parametrize("point", ["before 1", "after 1"])
def test_publish(store: Store, uc: UseCase, writer: Callable[..., Any], point: str) -> None:
    old = tables.replace_partition(uc, "features", DAY, rows(1), KEY)
    assert kill(writer, "replace", 2, point)
    seen = tables.partition_version(uc, "features", DAY)
    assert seen is not None
    assert (seen == old) == (point == "before 1")
    check_published(uc, 2)


def test_publish_killed_between_its_files_and_its_commit(store: Store, uc: UseCase) -> None:
    """The state a kill at that moment leaves: the data files are there, the commit is not."""
    old = tables.replace_partition(uc, "features", DAY, rows(1), KEY)
    new = tables.replace_partition(uc, "features", DAY, rows(2), KEY)
    store.delete(f"tables/toy/features/_delta_log/{new.table_version:020d}.json")
    assert tables.partition_version(uc, "features", DAY) == old
    assert (
        tables.read_partitions(uc, "features", DAY, DAY)["value"].to_pylist() == rows(1)["value"].to_pylist()
    )
    check_published(uc, 2)


def test_publish_killed_as_soon_as_data_appear(store: Store, uc: UseCase, writer: Callable[..., Any]) -> None:
    old = tables.replace_partition(uc, "features", DAY, rows(1), KEY)
    folder = f"tables/toy/features/partition={DAY}/"
    before = store.list(folder)
    victim = writer("large", DAY, 2)
    while store.list(folder) == before and victim.process.is_alive():
        pass
    victim.process.kill()
    victim.process.join()
    seen = tables.partition_version(uc, "features", DAY)
    assert seen is not None
    assert seen == old or seen.rows == 200_000, "the old partition or the new one, nothing between"
    assert tables.read_partitions(uc, "features", DAY, DAY).num_rows == seen.rows
    check_published(uc, 2)


def check_published(uc: UseCase, content: int) -> None:
    """Run the publish again, undisturbed, and compare with a lake in which nobody was killed."""
    again = tables.replace_partition(uc, "features", DAY, rows(content), KEY)
    elsewhere = tables.replace_partition(uc, "labels", DAY, rows(content), KEY)
    assert again.content_hash == elsewhere.content_hash
    assert tables.read_partitions(uc, "features", DAY, DAY).equals(
        tables.read_partitions(uc, "labels", DAY, DAY)
    )
    assert [one.rows for one in tables.partition_versions(uc, "features").values()] == [200]
