"""Which raw versions a partition was built from, and that an older build never replaces a newer one."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from nightshift.features.publish import publish
from nightshift.lake import lineage, raw, tables
from nightshift.lake.lineage import Build, RawVersion
from nightshift.lake.staging import Staged, stage
from nightshift.lake.store import open_store
from nightshift.usecase import UseCase

DAY = date(2013, 1, 5)


def _version(hour: int, version: int = 1) -> RawVersion:
    return RawVersion(version=version, as_of=datetime(2013, 1, 6, hour, tzinfo=UTC), content_hash=f"{hour}")


def _build(**hours: int) -> Build:
    return Build(usecase="any", raw={table: {DAY: _version(hour)} for table, hour in hours.items()})


@pytest.mark.parametrize(
    ("one", "other", "older"),
    [
        (_build(a=1), _build(a=2), True),
        (_build(a=1, b=2), _build(a=2, b=2), True),
        (_build(a=1), _build(a=1), False),
        (_build(a=2), _build(a=1), False),
        (_build(a=1, b=2), _build(a=2, b=1), False),
        (_build(a=1), _build(b=2), False),
    ],
)
def test_a_build_is_older_when_the_other_knew_all_of_it_and_more(
    one: Build, other: Build, older: bool
) -> None:
    assert one.older_than(other, lambda table, day: {other.raw[table][day]}) is older


def test_what_raw_has_lost_makes_no_build_newer() -> None:
    one, other = _build(a=1, b=1), _build(a=2, b=2)
    assert one.older_than(other, lambda table, day: {_version(1), _version(2)})
    assert one.older_than(other, lambda table, day: {_version(1 if table == "a" else 2)})
    assert not one.older_than(other, lambda table, day: {_version(1)})


def _staged(uc: UseCase, value: float, hour: int) -> Staged:
    """Stage a label built from a raw partition as it was at an hour."""
    rows = pa.table({"flight_id": ["a", "b"], "arrived_late": [value, value]})
    (source,) = uc.sources
    landed = raw.land(
        uc,
        source,
        "flights",
        DAY,
        rows,
        rows_in=2,
        rows_quarantined=0,
        as_of=datetime(2013, 1, 6, hour, tzinfo=UTC),
        query="planted by a test",
    )
    build = lineage.record_build(uc, {f"{source}.flights": {DAY: landed}})
    return stage(uc, "labels", DAY, rows, ["flight_id"], build)


def test_what_was_built_from_newer_raw_stands_whoever_publishes_last(
    home: Path, flight_delays: UseCase
) -> None:
    older, newer = _staged(flight_delays, 0.0, 4), _staged(flight_delays, 1.0, 5)
    publish(flight_delays, [older])
    publish(flight_delays, [newer])
    # The run of the night before was slow, and publishes only now.
    (standing,) = publish(flight_delays, [older])
    assert standing.content_hash == newer.content_hash
    stored = tables.read_partitions(flight_delays, "labels", DAY, DAY)
    assert stored["arrived_late"].to_pylist() == [1.0, 1.0]


def test_what_was_built_from_raw_that_is_lost_gives_way(home: Path, flight_delays: UseCase) -> None:
    older = _staged(flight_delays, 0.0, 4)
    backup = set(open_store().list("raw/"))
    publish(flight_delays, [_staged(flight_delays, 1.0, 5)])
    for key in set(open_store().list("raw/")) - backup:
        open_store().delete(key)
    # Another correction takes the number of the one that was lost, and is not it.
    _staged(flight_delays, 2.0, 6)
    assert tables.outdated(flight_delays, "labels", {DAY: str(older.build)}) == set()
    assert publish(flight_delays, [older])[0].content_hash == older.content_hash


def test_the_same_raw_under_other_sql_replaces(home: Path, flight_delays: UseCase) -> None:
    staged = _staged(flight_delays, 0.0, 4)
    publish(flight_delays, [staged])
    edited = stage(
        flight_delays,
        "labels",
        DAY,
        pa.table({"flight_id": ["a"], "arrived_late": [0.5]}),
        ["flight_id"],
        staged.build,
    )
    assert publish(flight_delays, [edited])[0].content_hash == edited.content_hash


def test_the_sweep_keeps_what_is_published(home: Path, flight_delays: UseCase) -> None:
    older, newer = _staged(flight_delays, 0.0, 4), _staged(flight_delays, 1.0, 5)
    publish(flight_delays, [older])
    publish(flight_delays, [newer])
    published = {"labels": [(DAY, newer.content_hash)]}
    assert lineage.sweep(flight_delays, published, keep_days=1) == 0
    assert lineage.sweep(flight_delays, published, keep_days=0) == 2  # The older build and its mark.
    assert lineage.build_ids(flight_delays, "labels") == {(DAY, newer.content_hash): [newer.build]}
    assert lineage.builds_of(flight_delays, "labels", {DAY: newer.content_hash})[DAY]
    assert lineage.sweep(flight_delays, published, keep_days=0) == 0
