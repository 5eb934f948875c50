"""The night's page and the week's digest say what the tables say, and say what is missing."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests import synthetic

from nightshift.lake import append_log, tables
from nightshift.monitoring import requests
from nightshift.monitoring.pages.write import index_path, nightly_path, sweep, weekly_path, write_pages
from nightshift.monitoring.reports import drift_report, keep
from nightshift.usecase import UseCase

DAY = date(2020, 2, 5)
BEFORE = DAY - timedelta(days=1)
HOSTILE = "<script>alert('x')</script>"


def _put(uc: UseCase, layer: str, day: date, **row: Any) -> None:
    tables.replace_partition(uc, layer, day, pa.Table.from_pylist([row]), [next(iter(row))])


def _night(uc: UseCase) -> None:
    for day in (BEFORE, DAY):
        _put(uc, "predictions", day, order_id="a", score=0.25)
    windows = [
        {
            "length": 1,
            "rows": 80,
            "distances": {"shop": 0.41, "lag": 0.1},
            "limits": {"shop": 0.2, "lag": 0.3},
        }
    ]
    _put(
        uc,
        "monitoring",
        DAY,
        verdict="drift",
        columns=json.dumps(["shop"]),
        findings=json.dumps([{"kind": "new_category", "column": "shop", "message": f"new: {HOSTILE}"}]),
        windows=json.dumps(windows),
    )
    _put(
        uc,
        "monitoring_observed",
        BEFORE,
        rows=77,
        roc_auc=0.71234,
        roc_auc_low=0.65,
        roc_auc_high=0.76,
        brier=0.1876,
    )
    _put(uc, "monitoring_costs", DAY, night=0.0123, per_thousand=0.154)
    append_log.append(
        f"alerts/{uc.name}",
        {
            "kind": "drift",
            "subject": f"{DAY}",
            "message": f"moved {HOSTILE}",
            "at": "2026-01-01T00:00:00+00:00",
        },
    )
    append_log.append(
        f"retrain_requests/{uc.name}", {"night": f"{DAY}", "reasons": ["drift: 3 drifted days"]}
    )


def test_the_page_names_verdict_columns_and_the_figures_of_the_tables(home: Path) -> None:
    uc = synthetic.use_case()
    _night(uc)
    write_pages(uc, DAY)
    page = nightly_path(uc, DAY).read_text(encoding="utf-8")
    for said in (
        "Act: the input has drifted: shop",
        "0.7123<small>0.6500 to 0.7600</small>",
        "0.1876",
        "0.0123",
        "<td>0.41</td><td>0.2</td><td>2.05</td>",
        "drift: 3 drifted days",
        "<strong>requested</strong>",
    ):
        assert said in page, said
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "Nothing recorded: the scores of this night were not described" in page
    assert "scored before scoring was timed" in page


def test_the_week_lists_its_nights_and_links_them(home: Path) -> None:
    uc = synthetic.use_case()
    _night(uc)
    write_pages(uc, DAY)
    digest = weekly_path(uc, "2020-W06").read_text(encoding="utf-8")
    assert "2 of 7 nights" in digest
    assert f"<a href='../nightly/{DAY}.html'>Wed {DAY}</a>" in digest
    assert "0.7123<small>0.6500 to 0.7600</small>" in digest
    assert "not judged" in digest
    assert HOSTILE not in digest
    assert f"nightly/{DAY}.html" in index_path(uc).read_text(encoding="utf-8")


def test_written_again_the_bytes_are_the_same_and_a_changed_table_redraws(home: Path) -> None:
    uc = synthetic.use_case()
    _night(uc)
    paths = write_pages(uc, DAY)
    first = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert write_pages(uc, DAY) == paths
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths} == first
    _put(uc, "monitoring_observed", BEFORE, rows=78, roc_auc=0.6543, brier=0.2)
    # The night before changes the lines of this one.
    write_pages(uc, BEFORE)
    assert "0.6543" in nightly_path(uc, DAY).read_text(encoding="utf-8")


def test_of_a_night_without_anything_the_page_says_so(home: Path) -> None:
    uc = synthetic.use_case()
    write_pages(uc, DAY)
    page = nightly_path(uc, DAY).read_text(encoding="utf-8")
    assert "Act: there are no predictions" in page
    assert page.count("Nothing recorded:") == 6
    assert "no champion in force" in page


def test_pages_go_with_the_days_they_are_about(home: Path) -> None:
    uc = synthetic.use_case()
    old = DAY - timedelta(days=28)
    for day in (old, DAY):
        write_pages(uc, day)
        keep(drift_report(uc, day), "<html></html>", {})
    assert sweep(uc, old) == 0
    # Of the old night: its page, its drift report, and the digest of its week.
    assert sweep(uc, DAY) == 3
    assert not nightly_path(uc, old).exists()
    assert not drift_report(uc, old).parent.exists()
    assert all(
        file.exists() for file in (nightly_path(uc, DAY), drift_report(uc, DAY), weekly_path(uc, "2020-W06"))
    )
    assert f"{old}" not in index_path(uc).read_text(encoding="utf-8")
    assert sweep(uc, DAY) == 0


def test_of_a_night_that_was_not_judged_page_and_digest_say_why(home: Path) -> None:
    uc = synthetic.use_case()
    _put(uc, "predictions", DAY, order_id="a", score=0.25)
    note = "not judged: 3 days are too few"
    _put(uc, "monitoring", DAY, verdict="watch", columns="[]", findings="[]", windows="[]", note=note)
    write_pages(uc, DAY)
    page = nightly_path(uc, DAY).read_text(encoding="utf-8")
    assert f"Watch: {note}" in page
    assert "columns moved" not in page
    assert note in weekly_path(uc, "2020-W06").read_text(encoding="utf-8")


def test_a_page_follows_what_is_known_of_its_night_later(home: Path) -> None:
    uc = synthetic.use_case()
    for day in (BEFORE, DAY):
        _put(uc, "predictions", day, order_id="a", score=0.25)
    requests.ask(uc, BEFORE, [_REASON], champion_version=None)
    for day in (BEFORE, DAY):
        write_pages(uc, day)
    assert "<strong>requested</strong>" in _page(uc, BEFORE)
    assert "0.0456" not in _page(uc, BEFORE)
    # Its last tasks are priced, and its request is closed.
    _put(uc, "monitoring_costs", BEFORE, night=0.0456, per_thousand=0.154)
    write_pages(uc, DAY)
    assert "0.0456" in _page(uc, BEFORE)
    requests.close(uc, BEFORE, "refused", ["no better than the champion"])
    later = DAY + timedelta(days=20)
    write_pages(uc, later)
    assert "<strong>refused</strong>" in _page(uc, BEFORE)
    drawn = {day: nightly_path(uc, day).stat().st_mtime_ns for day in (BEFORE, DAY)}
    write_pages(uc, later)
    assert {day: nightly_path(uc, day).stat().st_mtime_ns for day in drawn} == drawn, "once is enough"


def test_of_several_requests_of_a_night_the_newest_is_shown(home: Path) -> None:
    uc = synthetic.use_case()
    requests.ask(uc, DAY, [_REASON], champion_version=None)
    requests.close(uc, DAY, "failed", ["killed"])
    requests.ask(uc, DAY, [_REASON], champion_version=None, by="Ann")
    write_pages(uc, DAY)
    assert "<strong>requested</strong>" in _page(uc, DAY)


def test_a_range_is_written_at_once(home: Path) -> None:
    uc = synthetic.use_case()
    _night(uc)
    one_by_one = {path: path.read_bytes() for day in (BEFORE, DAY) for path in write_pages(uc, day)}
    for path in one_by_one:
        path.unlink()
    assert set(write_pages(uc, BEFORE, DAY)) >= set(one_by_one)
    for path, content in one_by_one.items():
        if path != nightly_path(uc, BEFORE):  # It was drawn before there was a night after it.
            assert path.read_bytes() == content


_REASON = requests.Evidence(trigger="by_hand", message="why not")


def _page(uc: UseCase, day: date) -> str:
    return nightly_path(uc, day).read_text(encoding="utf-8")
