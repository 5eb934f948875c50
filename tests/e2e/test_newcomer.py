"""The way of somebody who is new, in the browser alone: from last night to why a prediction is what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
import yaml
from playwright.sync_api import Page, expect

from nightshift.console.quarantine import list_kept, rows_kept
from nightshift.lake import raw, tables
from nightshift.registry import deployments
from nightshift.services.airflow_api import DagRun
from nightshift.settings import settings
from tests.e2e.browser import browser, logged_in, picture
from tests.stacks import CHAIN, Stack, damage_flights

BROKEN = 14


@pytest.fixture
def night(two_nights: Stack) -> date:
    """One more night than there were, so that nobody has looked at it yet."""
    newest = max(tables.partition_versions(two_nights.uc, "predictions")) + timedelta(days=1)
    since = two_nights.ingest([newest])
    two_nights.finish(newest, since)
    return newest


@pytest.fixture
def broken(two_nights: Stack, night: date) -> dict[str, int]:
    """In that night the source called 14 flights years late: by id, what it had said before."""
    return damage_flights(two_nights.uc, night - timedelta(days=1), BROKEN)


@pytest.fixture
def asked(two_nights: Stack, night: date) -> Iterator[DagRun]:
    """A training that waits for a person: what it brings passes a gate that asks for nothing."""
    file = settings().project / "include" / "usecases" / two_nights.uc.name / "usecase.yml"
    before = file.read_text()
    usecase = yaml.safe_load(before)
    usecase["gate"] = {
        "primary": usecase["gate"]["primary"],
        "min_improvement": -1.0,
        "slices": {"min_rows": 500, "max_loss": 1.0},
    }
    file.write_text(yaml.safe_dump(usecase))
    try:
        conf = {"partition": f"{night}", "approval": "manual"}
        run = two_nights.api.trigger(two_nights.dag("train"), conf)
        two_nights.wait(lambda: _waits(two_nights, run), "the question to a person")
        yield run
    finally:
        file.write_text(before)


def _waits(stack: Stack, run: DagRun) -> bool:
    now = stack.api.run(run.dag_id, run.run_id)
    assert not now.finished, stack.story(now)
    states = {task.task_id: task.state for task in stack.api.tasks(run)}
    return states.get("model.approve") == "awaiting_input"


def _champion(stack: Stack) -> str:
    newest = deployments.newest(stack.uc)
    assert newest is not None
    return newest.version


def _start(page: Page, why: str = "") -> None:
    question = page.get_by_role("alertdialog")
    if why:
        question.get_by_label("Why").fill(why)
    question.get_by_role("button", name="Start").click()
    expect(page.get_by_role("status").filter(has_text="Started")).to_be_visible()


def test_from_last_night_to_one_prediction_in_the_browser_alone(
    two_nights: Stack, night: date, broken: dict[str, int], asked: DagRun
) -> None:
    uc, day = two_nights.uc, night - timedelta(days=1)
    (source,) = uc.sources
    good = raw.versions(uc, source, "flights", day)[-2]
    first = _champion(two_nights)
    with browser() as chromium:
        page = logged_in(chromium)
        page.set_viewport_size({"width": 1280, "height": 900})

        # Last night.
        page.get_by_role("link", name="Nightshift").click()
        expect(page.get_by_text(f"Night of {night}")).to_be_visible()
        expect(page.get_by_text(f"{BROKEN} quarantined")).to_be_visible()
        expect(page.get_by_role("link", name="1 to decide")).to_be_visible()
        picture(page, "tonight")

        # Why 14 rows were put aside; what they should have said; replayed.
        page.get_by_role("link", name=f"of {day}", exact=True).click()
        part = page.get_by_text(f"{BROKEN} rows of raw_flights in quarantine")
        expect(part).to_be_visible()
        kept = rows_kept(uc, "raw_flights", day)
        expect(page.get_by_role("cell", name=kept[0].reason).first).to_be_visible()
        for row in kept:
            page.get_by_text(row.row_id[:12], exact=True).click()
            field = page.get_by_label(f"arrival_delay_minutes of row {row.row_id[:12]}")
            expect(field).to_have_value("99999")
            if row is kept[0]:
                part.scroll_into_view_if_needed()
                picture(page, "quarantine")
            field.fill(f"{broken[row.row['flight_id']]}")
        since = datetime.now(UTC)
        page.get_by_role("button", name="Fix and replay").click()
        _start(page, why="the airline's own record")
        two_nights.wait(lambda: not list(list_kept(uc, "raw_flights", day, day)), "the rows to be landed")
        mended = raw.current(uc, source, "flights", day)
        assert mended is not None
        assert mended.content_hash == good.content_hash, "what was fixed is what the source had said"
        for dag in CHAIN[1:]:
            two_nights.wait(lambda dag=dag: two_nights.ended(dag, night, since), f"{dag} of {night}")
        expect(part).to_be_hidden(timeout=120_000)

        # Two models.
        page.get_by_role("link", name="Models", exact=True).click()
        question = page.locator("section").filter(has_text="champion?")
        question.get_by_label("Comment").fill("fewer false alarms")
        picture(page, "models")
        question.get_by_role("button", name="Approve").click()
        question.wait_for(state="hidden")
        ended = two_nights.api.wait_for_run(asked)
        assert ended.state == "success", two_nights.story(ended)
        second = _champion(two_nights)
        assert second != first
        page.reload()
        page.get_by_label("Version", exact=True).select_option(second)
        page.get_by_label("Compared with").select_option(first)
        metric = page.get_by_role("cell", name=uc.gate.primary, exact=True)
        expect(page.get_by_role("row").filter(has=metric).first).to_contain_text("(")
        picture(page, "side-by-side")

        # Back to the one before.
        page.get_by_role("button", name=f"Roll back to {first}").click()
        _start(page, why="it was better before")
        two_nights.wait(lambda: _champion(two_nights) == first, "the rollback")

        # One prediction.
        page.get_by_role("link", name="Prediction", exact=True).click()
        entity = next(iter(broken))
        stored = tables.read_partitions(uc, "predictions", day, day).to_pylist()
        scored = next(row for row in stored if row[uc.entity] == entity)
        page.get_by_label("Entity").fill(entity)
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("heading", name=entity)).to_be_visible()
        expect(page.get_by_text(f"{scored['score']:.4f}", exact=True)).to_be_visible()
        strongest = json.loads(scored["reasons"])[0]["feature"]
        expect(page.get_by_role("cell", name=strongest, exact=True)).to_be_visible()
        picture(page, "prediction")
