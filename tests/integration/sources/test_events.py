"""Events of a log that grows: each once, whoever reads when, and a log that was rewritten is told."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from event_logs import DAY, LATER, NEXT, capture, line, read, site, write_suite
from upstreams import Upstream

from nightshift.errors import DataError
from nightshift.ingestion.land import land_partitions
from nightshift.lake import journal, raw
from nightshift.lake.store import open_store
from nightshift.sources import log_files
from nightshift.sources.registry import open_connector


def test_a_log_is_read_on_as_it_grows(upstream: Upstream) -> None:
    uc = site(upstream.prefix)
    upstream.append("clicks/p0.jsonl", line("a", page="ü", count=1, seconds=0.5) + line("b"))
    upstream.append("clicks/p1.jsonl", line("c", "2024-03-02T00:00:00+00:00"))
    upstream.append("others/p0.jsonl", b"another table's\n")
    assert capture(uc) == 3
    assert capture(uc) == 0
    rows = open_connector(uc, "site").read("clicks", DAY, LATER).table.sort_by("event").to_pylist()
    at = datetime(2024, 3, 1, 10, tzinfo=UTC)
    assert [tuple(row.values()) for row in rows] == [("a", at, "ü", 1, 0.5), ("b", at, None, None, None)]
    assert read(uc, NEXT) == ["c"]
    upstream.append("clicks/p0.jsonl", line("d"))
    upstream.append("clicks/p2.jsonl", line("e"))
    assert capture(uc) == 2
    assert read(uc) == ["a", "b", "d", "e"]


def test_a_line_that_is_being_written_waits(upstream: Upstream) -> None:
    uc = site(upstream.prefix)
    whole = line("b", page="é")
    upstream.append("clicks/p0.jsonl", line("a") + whole[:-9])
    assert capture(uc) == 1
    for byte in whole[-9:-1]:
        upstream.append("clicks/p0.jsonl", bytes([byte]))
        assert capture(uc) == 0
    upstream.append("clicks/p0.jsonl", b"\n")
    assert capture(uc) == 1
    assert read(uc) == ["a", "b"]


def test_batches_are_bounded_and_say_what_they_read(upstream: Upstream) -> None:
    uc = site(upstream.prefix)
    for part in range(3):
        lines = b"".join(line(f"{part} {number}") for number in range(11))
        upstream.append(f"clicks/p{part}.jsonl", lines)
    assert capture(uc) == 33
    batches = journal.batches(uc, "site", "clicks")
    assert [batch.rows for batch in batches] == [5, 5, 5, 5, 5, 5, 3]
    first_five = len(b"".join(line(f"0 {number}") for number in range(5)))
    assert batches[0].query == f"{upstream.prefix}: clicks/p0.jsonl 0-{first_five}"
    assert batches[-1].query.endswith(f"-{len(lines)}")
    assert len(set(read(uc))) == 33


def test_a_file_larger_than_memory_shall_hold_is_read_in_parts(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "_CHUNK", 100)
    monkeypatch.setattr(log_files, "_LONGEST_LINE", 800)
    uc = site(upstream.prefix, batch_rows=1000)
    upstream.append(
        "clicks/p0.jsonl", b"".join(line(str(number), page="x" * number) for number in range(500))
    )
    assert capture(uc) == 500
    assert len(set(read(uc))) == 500
    start = len(upstream.content("clicks/p0.jsonl"))
    upstream.append("clicks/p0.jsonl", line("long", page="x" * 2000) + line("after"))
    with pytest.raises(DataError, match="it has more than 0 MiB"):
        capture(uc)
    uc = site(upstream.prefix, batch_rows=1000, skip=[f"clicks/p0.jsonl@{start}"])
    assert capture(uc) == 1
    assert "after" in read(uc)


def test_a_night_lands_the_same_events_whenever_it_is_run(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_suite(tmp_path, monkeypatch, "raw_clicks")
    uc = site(upstream.prefix)
    upstream.append("clicks/p0.jsonl", line("a") + line("b", "2024-03-01T23:00:00Z"))
    night = uc.as_of(NEXT)
    (first,) = land_partitions(uc, "site", "clicks", {DAY: night})
    assert first.rows_accepted == 2
    assert f"clicks/p0.jsonl 0-{len(upstream.content('clicks/p0.jsonl'))}" in first.query
    upstream.append("clicks/p0.jsonl", line("c", "2024-03-02T10:00:00Z"))
    (again,) = land_partitions(uc, "site", "clicks", {DAY: night})
    assert (again.version, again.content_hash) == (first.version, first.content_hash)
    upstream.delete("clicks/p0.jsonl")
    (gone,) = land_partitions(uc, "site", "clicks", {DAY: night})
    assert (gone.version, gone.content_hash) == (first.version, first.content_hash)
    assert [row["event"] for row in raw.read(first).to_pylist()] == ["a", "b"]


def test_an_event_is_of_its_day_on_the_clocks_of_the_use_case_and_known_since_then(
    upstream: Upstream,
) -> None:
    uc = site(upstream.prefix, zone="America/New_York")
    upstream.append("clicks/p0.jsonl", line("late", "2024-03-02T03:00:00Z") + line("no time", None))
    before = datetime.now(UTC)
    capture(uc)
    assert read(uc) == ["late"]
    assert read(uc, as_of=datetime(2024, 3, 2, 2, 59, tzinfo=UTC)) == []
    today = before.astimezone(uc.zone).date()
    found = [event for day in (today, today + timedelta(days=1)) for event in read(uc, day)]
    assert found == ["no time"]
    assert read(uc, today, before) == []


def test_an_event_that_comes_late_is_not_known_to_the_night_that_did_not_find_it(upstream: Upstream) -> None:
    uc, night = site(upstream.prefix), datetime.now(UTC)
    upstream.append("clicks/p0.jsonl", line("a"))
    open_connector(uc, "site").capture("clicks", night)
    upstream.append("clicks/p0.jsonl", line("late"))
    capture(uc)
    assert read(uc, as_of=night) == ["a"]
    assert read(uc, as_of=night + timedelta(microseconds=1)) == ["a", "late"]


def test_a_night_that_was_captured_for_asks_nobody(upstream: Upstream) -> None:
    uc, night = site(upstream.prefix), datetime.now(UTC)
    upstream.append("clicks/p0.jsonl", line("a"))
    assert open_connector(uc, "site").capture("clicks", night) == 1
    upstream.put("clicks/p0.jsonl", b"rewritten\n")
    assert open_connector(uc, "site").capture("clicks", night) == 0
    assert read(uc) == ["a"]


def test_a_capture_that_was_overtaken_finds_what_is_remembered_now(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = site(upstream.prefix)
    for event in "abcd":
        upstream.append("clicks/p0.jsonl", line(event))
        capture(uc)
    batches = journal.batches(uc, "site", "clicks")
    with monkeypatch.context() as patch:
        answers = iter([batches[0], batches[-1]])  # others have read on while it slept
        patch.setattr(journal, "last", lambda *_: next(answers))
        assert capture(uc) == 0
    open_store().delete(json.loads(batches[-1].position)["files"])
    with pytest.raises(DataError, match="what was read of each file is not known any more"):
        capture(uc)


def test_an_event_that_comes_twice_is_one_row(upstream: Upstream) -> None:
    uc = site(upstream.prefix, batch_rows=2)
    upstream.append("clicks/p0.jsonl", line("a") + line("b") + line("a"))
    upstream.append("clicks/p1.jsonl", line("a"))
    assert capture(uc) == 4
    assert read(uc) == ["a", "b"]


@pytest.mark.parametrize("others", [b"", line("x") * 40], ids=["shorter", "longer"])
def test_a_log_that_was_rewritten_is_refused(upstream: Upstream, others: bytes) -> None:
    uc = site(upstream.prefix)
    upstream.append("clicks/p0.jsonl", line("a") + line("b"))
    capture(uc)
    upstream.put("clicks/p0.jsonl", line("c") + others)
    upstream.append("clicks/p1.jsonl", line("d"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"clicks/p0.jsonl was rewritten") as error:
            capture(uc)
    assert error.value.where.endswith("clicks/p0.jsonl")
    assert read(uc) == ["a", "b", "d"], "nothing of it is taken, and other files are read"
    upstream.put("clicks/p0.jsonl", line("a") + line("b") + line("e"))
    assert capture(uc) == 1


def test_a_log_rewritten_to_the_same_size_is_refused(upstream: Upstream) -> None:
    uc = site(upstream.prefix)
    upstream.append("clicks/p0.jsonl", line("a"))
    capture(uc)
    upstream.put("clicks/p0.jsonl", line("z"))
    with pytest.raises(DataError, match="is not what was read"):
        capture(uc)


def test_a_file_that_goes_takes_nothing_with_it_and_is_not_read_again(upstream: Upstream) -> None:
    uc = site(upstream.prefix)
    upstream.append("clicks/p0.jsonl", line("a"))
    capture(uc)
    upstream.delete("clicks/p0.jsonl")
    upstream.append("clicks/p1.jsonl", line("b"))
    assert capture(uc) == 1
    upstream.put("clicks/p0.jsonl", line("a"))
    assert capture(uc) == 0
    assert read(uc) == ["a", "b"]


BROKEN = {
    b"half a line\n": "a line is no JSON object",
    b"null\n": "a line is no JSON object",
    b"[1]\n": "a line is no JSON object",
    b"{]}\n": "JSON parse error",
    line("x")[:-1] + line("y"): "a line holds more than one JSON object",
    line("x").replace(b'"x"', b'"x'): "JSON parse error",
    b'{"event": "\xff"}\n': "~ event holds",
    b'{"z": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n": "more than 1000 lists and objects",
    line("x", colour="red"): "+ colour (in ",
    line("x", count="one"): "Column(/count) changed",
    line("x", "2024-03-01T10:00:00"): "~ at is",
    line("x", "yesterday"): "~ at is",
    line("x", "9999-12-31T23:59:59Z", count=2**63): "int64",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken[:30].decode(errors="replace"))
def test_a_line_that_cannot_be_read_is_named_and_may_be_left_out(upstream: Upstream, broken: bytes) -> None:
    uc = site(upstream.prefix, batch_rows=100)
    before = line("a") + line("b")
    upstream.append("clicks/p0.jsonl", before + broken + line("c") + line("d"))
    upstream.append("clicks/p1.jsonl", line("e"))
    place = f"clicks/p0.jsonl@{len(before)}"
    for _ in range(2):
        with pytest.raises(DataError) as error:
            capture(uc)
    assert BROKEN[broken] in error.value.message
    assert error.value.where.endswith(place)
    assert f'skip: ["{place}"]' in error.value.cure
    assert read(uc) == ["a", "b", "e"], "what is before it and beside it is kept"
    mended = site(upstream.prefix, batch_rows=100, skip=[place])
    assert capture(mended) == 2
    assert read(mended) == ["a", "b", "c", "d", "e"]
    last = journal.last(mended, "site", "clicks")
    assert last is not None
    size = len(upstream.content("clicks/p0.jsonl"))
    assert last.query == f"{upstream.prefix}: clicks/p0.jsonl {len(before)}-{size}; left out: {place}"
    assert capture(mended) == 0


def test_lines_are_left_out_wherever_they_stand(upstream: Upstream) -> None:
    first, second = line("a"), line("b")
    upstream.append("clicks/p0.jsonl", first + second + line("c") + line("d"))
    places = [0, len(first), len(first + second) * 2 - len(first)]
    uc = site(upstream.prefix, skip=[f"clicks/p0.jsonl@{at}" for at in places])
    capture(uc)
    assert read(uc) == ["c"]
    upstream.append("clicks/p1.jsonl", line("e") + line("f"))
    with pytest.raises(DataError, match="no line begins at this byte"):
        capture(site(upstream.prefix, skip=["clicks/p1.jsonl@7"]))


def test_a_field_that_is_ignored_may_hold_anything(upstream: Upstream) -> None:
    uc = site(upstream.prefix, ignore=["more"])
    upstream.append(
        "clicks/p0.jsonl", line("a", more=1) + line("b", more={"deep": [1]}) + line("c", more="x")
    )
    upstream.append("clicks/p0.jsonl", b"\n  \n" + line("d").replace(b"\n", b"\r\n"))
    capture(uc)
    assert read(uc) == ["a", "b", "c", "d"]


def test_captures_at_the_same_time_read_each_event_once(upstream: Upstream) -> None:
    uc = site(upstream.prefix, batch_rows=7)
    with ThreadPoolExecutor(3) as others:
        for number in range(8):
            lines = b"".join(line(f"{number:02d} {event:02d}") for event in range(23))
            upstream.append(f"clicks/p{number % 3}.jsonl", lines)
            assert sum(others.map(lambda _: capture(uc), range(3))) == 23
    changes, _ = journal.changes_of(uc, "site", "clicks", DAY)
    assert sorted(changes["event"].to_pylist()) == read(uc)
    assert len(read(uc)) == 8 * 23


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"files": "{day}/*.jsonl"}, "the day of an event is that of its `time`"),
        ({"files": "clicks/**"}, "** stands for folders"),
        ({"files": "clicks/*.jsonl.gz"}, "a log that grows is not packed"),
        ({"skip": ["clicks/p0.jsonl"]}, "is no file@offset"),
        ({"time": "page"}, "'page' is a string of it"),
        ({"time": "moment"}, "'moment' is no column of it"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        open_connector(site(f"{tmp_path.as_uri()}/", **wrong), "site")
    assert message in error.value.message
    assert error.value.where.startswith("toy/sources.yml: sources.site.options.tables.clicks")


def test_a_slow_table_is_no_log(tmp_path: Path) -> None:
    content = json.loads(site(f"{tmp_path.as_uri()}/").model_dump_json())
    content["sources"]["site"]["tables"]["clicks"]["refresh"] = "slow"
    with pytest.raises(DataError, match="refresh: slow"):
        open_connector(type(site("file:///")).model_validate(content), "site")
