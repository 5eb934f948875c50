"""Personal columns are protected before anything of them is kept: lakes are searched for clear values."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from tests.passengers import Passengers, clear_values, passengers, source, table
from tests.synthetic import use_case

from nightshift import stages
from nightshift.console.quarantine import show_kept
from nightshift.errors import DataError
from nightshift.ingestion import land_partitions, replay
from nightshift.ingestion.fixes import record_fixes
from nightshift.lake import raw
from nightshift.lake.protection import protect
from nightshift.lake.store import open_store
from nightshift.monitoring.alerting import read_alerts
from nightshift.quality.quarantine import plain_rows, read_quarantine
from nightshift.quality.rows import row_id
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2020, 1, 5)
DAYS = (DAY, DAY + timedelta(days=1))
SUITE = {
    "name": "raw_passengers",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "fare", "min_value": 0},
            "meta": {"rule": "fare", "severity": "quarantine", "reason": "Nobody is paid for flying."},
        },
        {
            "type": "expect_column_values_to_match_regex",
            "kwargs": {"column": "full_name", "regex": "^ps_"},
            "meta": {"rule": "name", "severity": "warn", "reason": "To have Great Expectations show values."},
        },
    ],
    "meta": {"quarantine_at_most": 0.5},
}


def booked(name: str = "synthetic", refresh: str = "daily", **changes: dict[str, Any]) -> UseCase:
    return use_case(name=name, sources={"air": source(passengers=table(**changes) | {"refresh": refresh})})


def use_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PII_KEY", key)
    settings.cache_clear()


@pytest.fixture
def key() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture
def rows(home: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[date, pa.Table]:
    """Two days of passengers in the source, a suite that quarantines some, and a key."""
    folder = tmp_path / "project" / "expectations"
    for name in ("synthetic", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "raw_passengers.json").write_text(json.dumps(SUITE), encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    use_key(monkeypatch, key)
    monkeypatch.setattr(Passengers, "tables", {day: passengers(60, 1, day) for day in DAYS})
    return Passengers.tables


def land(uc: UseCase, *days: date) -> list[raw.RawManifest]:
    return land_partitions(uc, "air", "passengers", {day: uc.as_of(day) for day in days or DAYS})


def everything(home: Path) -> Iterator[tuple[str, str]]:
    """Yield all that lies in the lake and beside it, by place: files as they are, and Parquet unpacked."""
    store = open_store()
    kept = {key: store.get(key) for key in store.list("")}
    kept |= {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert any(place.endswith(".parquet") for place in kept)
    for place, content in kept.items():
        yield place, content.decode("utf-8", "replace")
        if place.endswith(".parquet"):
            yield (
                f"{place}, unpacked",
                json.dumps(
                    pq.read_table(pa.BufferReader(content)).to_pylist(), default=str, ensure_ascii=False
                ),
            )


def search(home: Path, values: set[str], also: str = "") -> None:
    """Assert that none of the values lies anywhere."""
    for place, text in [*everything(home), ("the log", also)]:
        found = [value for value in values if value in text or json.dumps(value)[1:-1] in text]
        assert not found, f"{place} holds {found[:3]}"


def test_no_clear_value_is_kept_anywhere(
    home: Path, rows: dict[date, pa.Table], caplog: pytest.LogCaptureFixture, key: str
) -> None:
    uc = booked()
    with caplog.at_level(logging.DEBUG):
        manifests = land(uc)
        assert [one.rows_quarantined for one in manifests] == [6, 6]
        entries = read_quarantine(uc, "raw_passengers", DAY, DAY)
        fixed = row_id(plain_rows(entries)[0])
        new = "a.new.address@mail.example.com"
        record_fixes(
            uc, "raw_passengers", DAY, {fixed: {"email": new, "fare": 10}}, reason="mistyped", by="me"
        )
        assert replay(uc, "air", "passengers", DAY)["accepted"] == 55
    clear = {new}.union(*(clear_values(part) for part in rows.values()))
    assert len(clear) > 500
    search(home, {*clear, key}, caplog.text)
    landed = raw.read(raw.current_many(uc, "air", "passengers")[DAYS[1]])
    given = {row["fare"]: row for row in rows[DAYS[1]].to_pylist()}
    for row in landed.to_pylist():
        was = given[row["fare"]]
        assert row["email"].startswith("ps_")
        assert row["seat_ref"] == (row["email"] if was["seat_ref"] else None), "one domain: they join"
        assert row["full_name"] != row["email"]
        assert row["phone"] == (f"****{was['phone'][-4:]}" if was["phone"] else None)
        assert row["card"] == f"****{was['card'][-4:]}"
        assert row["other_email"] == f"****@{was['other_email'].partition('@')[2]}"
        assert row["born_on"] == was["born_on"].replace(month=1, day=1)
        assert row["remark"] is None
        assert (row["seat"], row["booking"]) == (was["seat"], was["booking"])


def test_a_fixed_row_has_the_pseudonym_of_what_it_should_have_said(
    home: Path, rows: dict[date, pa.Table]
) -> None:
    uc = booked()
    land(uc)
    good = rows[DAYS[1]]["email"][0].as_py()
    entries = plain_rows(read_quarantine(uc, "raw_passengers", DAY, DAY))
    (fix,) = record_fixes(
        uc, "raw_passengers", DAY, {row_id(entries[0]): {"email": good, "fare": 1}}, reason="typo", by="me"
    )
    other_day = raw.read(raw.current_many(uc, "air", "passengers")[DAYS[1]])
    assert fix.after["email"] in other_day["email"].to_pylist()
    # What is shown may be written back: a pseudonym stays what it is.
    (back,) = record_fixes(
        uc,
        "raw_passengers",
        DAY,
        {fix.row_id: {"email": fix.before["email"]}},
        reason="it was right",
        by="me",
    )
    assert back.after == fix.after | {"email": fix.before["email"]}
    replay(uc, "air", "passengers", DAY)
    (again,) = land(uc, DAY)
    assert again == raw.current(uc, "air", "passengers", DAY), "landing again changes nothing"
    assert fix.before["email"] in raw.read(again)["email"].to_pylist()


def in_the_clear() -> UseCase:
    return booked(full_name={"pii": "indirect", "protect": "none"})


def counts(manifest: raw.RawManifest) -> tuple[int, int, int]:
    return manifest.rows_accepted, manifest.rows_quarantined, len(manifest.fixed)


def test_a_fix_outlives_the_day_on_which_a_column_is_protected(
    home: Path, rows: dict[date, pa.Table]
) -> None:
    before, uc = in_the_clear(), booked()
    land(before, DAY)
    bad = [row_id(row) for row in plain_rows(read_quarantine(before, "raw_passengers", DAY, DAY))]
    changes: dict[str, dict[str, Any]] = {bad[0]: {"fare": 50.0}, bad[1]: {"full_name": "Ines Papadakis"}}
    record_fixes(before, "raw_passengers", DAY, changes, reason="mistyped", by="me")
    replay(before, "air", "passengers", DAY)
    (first,) = land(before, DAY)
    assert counts(first) == (55, 5, 2)

    had = set(open_store().list(""))
    (now,) = land_partitions(uc, "air", "passengers", {DAY: uc.as_of(DAY) + timedelta(days=1)})
    assert counts(now) == counts(first), "what people mended stays mended"
    assert all(name.startswith("ps_") for name in raw.read(now)["full_name"].to_pylist())
    shown = show_kept(uc, "raw_passengers", DAY)
    assert not [row for row in shown if not row.row["full_name"].startswith("ps_")]
    # By the id that it had, and by the one that it has.
    further: dict[str, dict[str, Any]] = {bad[1]: {"fare": 7.0}, shown[-1].row_id: {"fare": 8.0}}
    record_fixes(uc, "raw_passengers", DAY, further, reason="mistyped, too", by="me")
    assert replay(uc, "air", "passengers", DAY)["accepted"] == 57
    names = clear_values(rows[DAY]) | {"Ines Papadakis"}
    new = {key: open_store().get(key).decode() for key in set(open_store().list("logs/")) - had}
    assert any(key.startswith("logs/fixes/") for key in new)
    assert not [key for key, text in new.items() for name in names if json.dumps(name)[1:-1] in text]


def test_a_fix_of_what_was_put_aside_in_the_clear_keeps_nothing_clear(
    home: Path, rows: dict[date, pa.Table]
) -> None:
    land(in_the_clear(), DAY)
    uc, had = booked(), set(open_store().list(""))
    bad = plain_rows(read_quarantine(uc, "raw_passengers", DAY, DAY))
    assert bad[0]["full_name"] in clear_values(rows[DAY])
    (fix,) = record_fixes(
        uc, "raw_passengers", DAY, {row_id(bad[0]): {"fare": 50.0}}, reason="mistyped", by="me"
    )
    assert fix.before["full_name"].startswith("ps_")
    assert fix.after == fix.before | {"fare": 50.0}
    (log,) = (key for key in set(open_store().list("logs/fixes/")) - had)
    text = open_store().get(log).decode()
    assert not [value for value in clear_values(rows[DAY]) if json.dumps(value)[1:-1] in text]
    assert replay(uc, "air", "passengers", DAY) == {"replayed": 6, "accepted": 55, "quarantined": 5}


def test_who_only_looks_needs_no_key(
    home: Path, rows: dict[date, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = booked()
    land(uc, DAY)
    bad = show_kept(uc, "raw_passengers", DAY)[0].row_id
    record_fixes(uc, "raw_passengers", DAY, {bad: {"fare": 3.0}}, reason="mistyped", by="me")
    use_key(monkeypatch, "")
    (shown,) = (row for row in show_kept(uc, "raw_passengers", DAY) if row.row_id == bad)
    assert shown.fixed is not None
    assert shown.fixed["fare"] == 3.0


def test_no_error_and_no_warning_shows_a_personal_key(
    home: Path, rows: dict[date, pa.Table], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = booked(email={"protect": "none", "domain": None})
    land(uc, DAY)
    one, two = (row_id(row) for row in plain_rows(read_quarantine(uc, "raw_passengers", DAY, DAY))[:2])
    taken, free = rows[DAY]["email"][0].as_py(), "free@mail.example.com"
    with pytest.raises(DataError, match="which another row has: its values are personal") as refused:
        record_fixes(uc, "raw_passengers", DAY, {one: {"email": taken}}, reason="typo", by="me")
    record_fixes(uc, "raw_passengers", DAY, {two: {"email": free}}, reason="typo", by="me")
    # By the next night a row has come that has the key.
    place = rows[DAY].column_names.index("email")
    emails = [free, *rows[DAY]["email"].to_pylist()[1:]]
    changed = rows[DAY].set_column(place, "email", pa.array(emails))
    monkeypatch.setattr(Passengers, "tables", {DAY: changed})
    land(uc, DAY)
    assert f"the fix of row {two} waits, for its key is taken: its values are personal" in caplog.text
    for text in (str(refused.value), caplog.text):
        assert not [value for value in clear_values(rows[DAY]) | {free} if value in text]


def test_of_an_address_the_host_is_kept_and_of_a_name_nothing(home: Path) -> None:
    given = {
        "Anna@Mail.Example.com": "****@mail.example.com",
        "@anna.quistgaard": "****",
        "anna (@anna.quistgaard)": "****",
        "write to anna @anna.quistgaard": "****",
        "Anna": "****",
    }
    uc, rows = booked(), pa.table({"other_email": [*given, None]})
    once = protect(uc, "air", "passengers", rows)
    assert once["other_email"].to_pylist() == [*given.values(), None]
    assert protect(uc, "air", "passengers", once) == once


@pytest.mark.parametrize("refresh", ["daily", "slow"])
def test_landing_again_finds_the_same_pseudonyms(
    home: Path, rows: dict[date, pa.Table], monkeypatch: pytest.MonkeyPatch, refresh: str
) -> None:
    uc = booked(refresh=refresh)
    monkeypatch.setattr(Passengers, "tables", dict.fromkeys(DAYS, rows[DAY].slice(0, 9)))
    first = land(uc)
    assert len(first) == (2 if refresh == "daily" else 1)
    assert land(uc) == first
    replay(uc, "air", "passengers", DAY)
    assert land(uc) == first
    assert [one.version for one in raw.versions(uc, "air", "passengers", DAY)] == [1]


def test_domains_and_use_cases_do_not_join(home: Path, rows: dict[date, pa.Table]) -> None:
    uc, other = booked(), booked("other")
    apart = booked("other", seat_ref={"domain": "seats"})
    mine, theirs = (raw.read(land(one, DAY)[0]) for one in (uc, other))
    assert set(mine["email"].to_pylist()).isdisjoint(theirs["email"].to_pylist())
    (redone,) = land(apart, DAY)
    changed = raw.read(redone)
    assert changed["email"] == theirs["email"]
    assert set(changed["seat_ref"].drop_null().to_pylist()).isdisjoint(theirs["email"].to_pylist())


def test_without_a_key_nothing_is_landed(
    home: Path, rows: dict[date, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_key(monkeypatch, "")
    with pytest.raises(DataError, match="there is no key") as refused:
        land(booked())
    assert refused.value.where == "NIGHTSHIFT_PII_KEY"
    assert "docs/security.md" in refused.value.cure
    assert open_store().list("") == []
    assert not list(home.glob("reports/**/*.html"))


def test_another_key_is_noticed_and_refused(
    home: Path, rows: dict[date, pa.Table], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = booked()
    first = land(uc)
    other = Fernet.generate_key().decode()
    use_key(monkeypatch, other)
    for act in (lambda: land(uc), lambda: replay(uc, "air", "passengers", DAY)):
        with pytest.raises(DataError, match="another key") as refused:
            act()
        assert not {key, other} & set(str(refused.value).split())
    use_key(monkeypatch, key)
    assert land(uc) == first


def test_a_pseudonym_of_elsewhere_is_not_hashed_again(
    home: Path, rows: dict[date, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of a hash would join with nothing, and nobody would see it."""
    theirs = raw.read(land(booked("other"), DAY)[0])
    place = rows[DAY].column_names.index("email")
    fed_back = rows[DAY].slice(0, theirs.num_rows).set_column(place, "email", theirs["email"])
    monkeypatch.setattr(Passengers, "tables", {DAY: fed_back})
    with pytest.raises(DataError, match="a pseudonym already"):
        land(booked(), DAY)


def _numbers(column: str) -> Callable[[pa.Table], pa.Table]:
    def damage(given: pa.Table) -> pa.Table:
        return given.set_column(given.column_names.index(column), column, pa.array([4912345678] * 60))

    return damage


def _no_dates(given: pa.Table) -> pa.Table:
    return given.set_column(given.column_names.index("born_on"), "born_on", given["full_name"])


@pytest.mark.parametrize("damage", [_numbers("phone"), _numbers("email"), _no_dates])
def test_errors_show_no_personal_value(
    home: Path, rows: dict[date, pa.Table], monkeypatch: pytest.MonkeyPatch, damage: Callable[..., pa.Table]
) -> None:
    monkeypatch.setattr(Passengers, "tables", {DAY: damage(rows[DAY])})
    with pytest.raises(DataError, match="not shown") as refused:
        land(booked(), DAY)
    told = "".join(traceback.format_exception(refused.value))
    assert not [value for value in clear_values(rows[DAY]) | {"4912345678"} if value in told]


def test_a_fix_of_the_wrong_type_is_not_repeated(home: Path, rows: dict[date, pa.Table]) -> None:
    uc = booked()
    land(uc)
    bad = row_id(plain_rows(read_quarantine(uc, "raw_passengers", DAY, DAY))[0])
    typed = "in May 1966"
    with pytest.raises(DataError, match="not shown") as refused:
        record_fixes(uc, "raw_passengers", DAY, {bad: {"born_on": typed}}, reason="typo", by="me")
    assert typed not in "".join(traceback.format_exception(refused.value))


def test_columns_that_nobody_classed_are_told_of_once(
    home: Path, rows: dict[date, pa.Table], caplog: pytest.LogCaptureFixture
) -> None:
    clear: dict[str, Any] = {"pii": "none", "protect": "none", "domain": None}
    uc = booked(seat_ref=clear, card=clear)
    for _ in range(2):
        stages.land(uc, "air", DAY, DAY)
    stages.land(uc, "air", DAYS[1], DAYS[1])
    alerts = read_alerts(uc.name)
    assert sorted((one.subject, one.count) for one in alerts) == [
        ("unclassed air.passengers.card", 1),
        ("unclassed air.passengers.seat_ref", 1),
    ]
    assert {one.kind for one in alerts} == {"data"}
    told = caplog.text + "".join(one.message for one in alerts)
    assert "payment card" in told
    assert not [value for value in clear_values(rows[DAY]) if value in told]
