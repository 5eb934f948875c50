"""Raw partitions: immutable, versioned by what was known when, and never landed twice."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from lake_writer import AS_OF, land, rows

from nightshift.errors import DataError
from nightshift.lake import raw
from nightshift.lake.hashing import content_hash
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)
NEXT_NIGHT = AS_OF + timedelta(days=1)


def current(uc: UseCase, day: date = DAY) -> raw.RawManifest | None:
    return raw.current(uc, "src", "events", day)


def test_what_was_landed_is_read_back(store: Store, uc: UseCase) -> None:
    manifest = land(DAY, 1)
    assert raw.read(manifest).equals(rows(1))
    assert current(uc) == manifest
    assert (manifest.version, manifest.rows_in, manifest.rows_accepted) == (1, 200, 200)
    assert manifest.columns == {"id": "string", "value": "double"}
    assert store.list(f"raw/toy/src/events/partition={DAY}/") == [
        manifest.object_key,
        f"raw/toy/src/events/partition={DAY}/v1.json",
    ]


def test_landing_twice_makes_no_new_version_and_no_new_object(store: Store, uc: UseCase) -> None:
    first = land(DAY, 1)
    before = {key: store.get(key) for key in store.list("raw/")}
    assert land(DAY, 1) == first
    assert land(DAY, 1, NEXT_NIGHT) == first
    assert {key: store.get(key) for key in store.list("raw/")} == before


def test_a_correction_is_a_new_version_and_the_old_one_stays_readable(store: Store, uc: UseCase) -> None:
    first = land(DAY, 1)
    second = land(DAY, 2, NEXT_NIGHT)
    assert current(uc) == second
    assert raw.versions(uc, "src", "events", DAY) == [first, second]
    assert raw.read(first).equals(rows(1))


def test_the_same_rows_with_more_quarantined_are_a_new_version(store: Store, uc: UseCase) -> None:
    for quarantined in (0, 2, 2):
        raw.land(
            uc,
            "src",
            "events",
            DAY,
            rows(1),
            rows_in=200 + quarantined,
            rows_quarantined=quarantined,
            as_of=AS_OF,
            query="all",
        )
    assert [manifest.rows_quarantined for manifest in raw.versions(uc, "src", "events", DAY)] == [0, 2]


def test_a_manifest_from_before_fixes_were_named_is_read(store: Store, uc: UseCase) -> None:
    first = land(DAY, 1)
    (key,) = (key for key in store.list("raw/") if key.endswith(".json"))
    written = json.loads(store.get(key))
    store.put(
        key, json.dumps({k: v for k, v in written.items() if k not in {"fixed", "quarantine_hash"}}).encode()
    )
    assert current(uc) == first


def test_an_older_night_landed_late_is_recorded_but_never_becomes_current(
    store: Store, uc: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    newer = land(DAY, 2, NEXT_NIGHT)
    assert "recorded" not in caplog.text
    older = land(DAY, 1)
    assert f"src.events of {DAY}: recorded as version 2" in caplog.text
    assert "version 1 stands" in caplog.text
    assert older.version == 2
    assert current(uc) == newer
    assert land(DAY, 1) == older, "the late night run again changes nothing either"
    assert len(raw.versions(uc, "src", "events", DAY)) == 2


def test_any_order_of_nights_ends_with_the_same_current_content(store: Store, uc: UseCase) -> None:
    nights = [(AS_OF + timedelta(days=offset), content) for offset, content in enumerate([1, 2, 2, 3])]
    for offset, order in enumerate([nights, nights[::-1], [nights[i] for i in (2, 0, 3, 1)]]):
        day = DAY + timedelta(days=offset)
        for as_of, content in order:
            land(day, content, as_of)
        now = current(uc, day)
        assert now is not None
        assert raw.read(now).equals(rows(3))


def test_content_that_returns_to_what_it_was_is_current_again(store: Store, uc: UseCase) -> None:
    land(DAY, 1)
    land(DAY, 2, AS_OF + timedelta(days=1))
    third = land(DAY, 1, AS_OF + timedelta(days=2))
    assert third.version == 3
    assert current(uc) == third


def test_a_lost_object_is_named_and_landing_again_restores_it(store: Store, uc: UseCase) -> None:
    manifest = land(DAY, 1)
    store.delete(manifest.object_key)
    with pytest.raises(DataError, match="is gone"):
        raw.read(manifest)
    assert land(DAY, 1) == manifest
    assert raw.read(manifest).equals(rows(1))


@pytest.mark.parametrize("damage", [b"", b"PAR1 not parquet", "other rows"])
def test_a_damaged_object_is_never_read_as_data(store: Store, uc: UseCase, damage: bytes | str) -> None:
    manifest = land(DAY, 1)
    other = store.get(land(DAY, 2, NEXT_NIGHT).object_key)
    store.put(manifest.object_key, other if isinstance(damage, str) else damage)
    with pytest.raises(DataError, match="changed or damaged"):
        raw.read(manifest)


def test_rows_that_do_not_add_up_are_not_landed(store: Store, uc: UseCase) -> None:
    with pytest.raises(DataError, match="200 accepted \\+ 3 quarantined make 203"):
        raw.land(uc, "src", "events", DAY, rows(1), rows_in=204, rows_quarantined=3, as_of=AS_OF, query="all")
    assert store.list("") == []


def test_a_moment_without_a_time_zone_is_refused(store: Store, uc: UseCase) -> None:
    with pytest.raises(DataError, match="no time zone"):
        land(DAY, 1, datetime(2013, 7, 2, 8))


def test_an_empty_day_is_landed_as_an_empty_day(store: Store, uc: UseCase) -> None:
    nothing = rows(1).slice(0, 0)
    manifest = raw.land(
        uc, "src", "events", DAY, nothing, rows_in=2, rows_quarantined=2, as_of=AS_OF, query="all"
    )
    assert current(uc) == manifest
    assert raw.read(manifest).schema.equals(rows(1).schema)
    assert raw.read(manifest).num_rows == 0


def test_the_catalogue_is_part_of_the_record(store: Store, uc: UseCase) -> None:
    landed = land(DAY, 1)
    assert landed.as_of == AS_OF
    assert abs(landed.extracted_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert len(landed.catalogue_hash) == 64


def test_current_of_a_range_and_snapshots_of_slow_tables(store: Store, uc: UseCase) -> None:
    landed = {
        DAY + timedelta(days=offset): land(DAY + timedelta(days=offset), offset) for offset in (0, 2, 5)
    }
    newest = land(DAY, 9, NEXT_NIGHT)
    everything = raw.current_many(uc, "src", "events")
    assert everything == landed | {DAY: newest}
    assert list(everything) == sorted(everything)
    third = DAY + timedelta(days=2)
    assert raw.current_many(uc, "src", "events", start=third, end=third) == {third: landed[third]}
    assert raw.newest_snapshot(uc, "src", "events", DAY + timedelta(days=4)) == landed[third]
    assert raw.newest_snapshot(uc, "src", "events", DAY - timedelta(days=1)) is None


def test_a_range_has_what_was_landed_in_it_whatever_its_length(store: Store, uc: UseCase) -> None:
    days = [date(2012, 11, 30), date(2012, 12, 1), date(2013, 1, 31), date(2013, 2, 1), date(2014, 6, 15)]
    landed = {day: land(day, number, datetime(2014, 7, 1, tzinfo=UTC)) for number, day in enumerate(days)}
    ends = [date(2012, 1, 1), *days, date(2014, 12, 31)]
    for start in ends:
        for end in ends:
            wanted = {day: one for day, one in landed.items() if start <= day <= end}
            assert raw.current_many(uc, "src", "events", start, end) == wanted, (start, end)
    assert raw.current_many(uc, "src", "events") == landed
    versions = dict.fromkeys([*days[1:3], date(2012, 12, 24)], 1)
    found = raw.read_manifests(uc, "src", "events", versions)
    assert found == {day: landed[day] for day in days[1:3]}
    assert raw.read_manifests(uc, "src", "events", {}) == {}


def test_retention_removes_days_and_orphans_and_nothing_else(store: Store, uc: UseCase) -> None:
    land(DAY, 1)
    kept = land(DAY + timedelta(days=1), 1)
    orphan = kept.object_key.replace(kept.content_hash, "0" * 64)
    store.put(orphan, b"left by a killed writer")
    assert raw.expire(uc, DAY + timedelta(days=1)) == 2
    assert raw.sweep_orphans(uc) == 0, "young objects may be about to get their manifest"
    assert store.exists(orphan)
    assert raw.sweep_orphans(uc, older_than_days=-1) == 1
    assert list(raw.current_many(uc, "src", "events").values()) == [kept]
    assert raw.read(kept).equals(rows(1))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_writer_that_comes_back_during_a_sweep_keeps_its_object(
    store: Store, uc: UseCase, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed before its manifest, it lands the same rows again beside ``maintain``."""
    killed = land(DAY, 1)
    store.delete(f"{killed.object_key.rpartition('/')[0]}/v{killed.version}.json")
    delete, again = type(store).delete, []

    def sweep(self: Store, key: str) -> None:
        if moment == "after":
            delete(self, key)
        if not again:
            again.append(land(DAY, 1))
        if moment == "before":
            delete(self, key)

    monkeypatch.setattr(type(store), "delete", sweep)
    assert raw.sweep_orphans(uc, older_than_days=-1) == 0
    assert again == [current(uc)]
    assert raw.read(again[0]).equals(rows(1))


def test_a_correction_of_the_last_digit_is_a_version(store: Store, uc: UseCase) -> None:
    for value in (12345678.91, 12345678.94):
        data = pa.table({"id": ["a"], "value": [value]})
        landed = raw.land(
            uc, "src", "events", DAY, data, rows_in=1, rows_quarantined=0, as_of=AS_OF, query="all"
        )
        assert raw.read(landed)["value"].to_pylist() == [value]
    assert current(uc) == landed


def test_an_object_named_before_all_digits_counted_is_read(store: Store, uc: UseCase) -> None:
    data = pa.table({"id": ["a"], "value": [12345678.91]})
    landed = raw.land(uc, "src", "events", DAY, data, rows_in=1, rows_quarantined=0, as_of=AS_OF, query="all")
    older = content_hash(data, ["id"])
    renamed = landed.model_copy(
        update={
            "content_hash": older,
            "object_key": landed.object_key.replace(landed.content_hash, older),
        }
    )
    store.put(renamed.object_key, store.get(landed.object_key))
    assert older != landed.content_hash
    assert raw.read(renamed).equals(data)


def test_rows_are_landed_in_the_lakes_types(store: Store, uc: UseCase) -> None:
    narrow = rows(1).set_column(0, "id", rows(1)["id"].dictionary_encode())
    wide = land(DAY, 1)
    assert (
        raw.land(uc, "src", "events", DAY, narrow, rows_in=200, rows_quarantined=0, as_of=AS_OF, query="x")
        == wide
    )
    assert raw.read(wide).schema.field("id").type == pa.string()
