"""The Nightshift pages in a browser, beside a real Airflow with real Airflow."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, Response, expect

from nightshift.console.quarantine import Kept, list_kept
from nightshift.inference import explain
from nightshift.lake import raw, tables
from nightshift.monitoring import drift, truth
from nightshift.monitoring.staleness import find_stale
from nightshift.registry import deployments
from nightshift.services import airflow
from nightshift.services.airflow_api import DagRun
from nightshift.usecase import UseCase
from tests.e2e.browser import as_viewer, browser, logged_in, picture, viewer_token
from tests.e2e.conftest import HISTORY
from tests.stacks import CHAIN, Stack, contents, damage_flights


@pytest.fixture(scope="module")
def chromium(two_nights: Stack) -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def admin(chromium: Browser) -> Page:
    return logged_in(chromium)


@pytest.fixture
def page(admin: Page) -> Iterator[Page]:
    """The admin's page; a test fails when it says anything on the console that is an error."""
    said: list[str] = []

    def answered(response: Response) -> None:
        # The console tells of a refusal, and not why.
        if response.status >= 400:
            said.append(f"{response.status} {response.url}: {response.text()}")

    def listen(message: object) -> None:
        if getattr(message, "type", "") == "error":
            said.append(f"{getattr(message, 'text', '')} at {getattr(message, 'location', '')}")

    admin.on("response", answered)
    admin.on("console", listen)

    def failed(error: Error) -> None:
        said.append(str(error))

    admin.on("pageerror", failed)
    yield admin
    admin.remove_listener("console", listen)
    admin.remove_listener("response", answered)
    admin.remove_listener("pageerror", failed)
    assert not said


def shown(page: Page, path: str = "") -> Page:
    page.goto(f"{airflow.address()}/plugin/nightshift{path}")
    page.get_by_role("heading", name="Nightshift", level=1).wait_for()
    return page


def fact(page: Page, name: str) -> str:
    """Return what the page says under a term, without the note below it."""
    return page.locator("dl > *").filter(has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def serious(page: Page) -> list[str]:
    """Return what axe finds in our part of the page that keeps people out."""
    found = Axe().run(page, context="main").response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes'][:3]]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def list_one(uc: UseCase, kept: Kept) -> Kept | None:
    """Return what is in quarantine now of a suite and a partition."""
    return next(list_kept(uc, kept.suite, kept.partition, kept.partition), None)


def started(stack: Stack, page: Page, dag: str) -> DagRun:
    """Confirm the question of a button, and return the run that it starts."""
    before = {run.run_id for run in stack.api.runs(stack.dag(dag))}
    page.get_by_role("alertdialog").get_by_role("button", name="Start").click()
    expect(page.get_by_role("status").filter(has_text="Started")).to_be_visible()
    (run,) = [run for run in stack.api.runs(stack.dag(dag)) if run.run_id not in before]
    return run


def newest_partitions(uc: UseCase) -> list[date]:
    return sorted(tables.partition_versions(uc, "predictions"))


def test_the_side_bar_leads_to_the_last_night(two_nights: Stack, page: Page) -> None:
    uc = two_nights.uc
    page.goto(airflow.address())
    page.get_by_role("link", name="Nightshift").click()
    expect(page.get_by_role("heading", name=uc.title)).to_be_visible()
    night = newest_partitions(uc)[-1]
    expect(page.get_by_text(f"Night of {night}")).to_be_visible()
    predicted = tables.partition_version(uc, "predictions", night)
    assert predicted is not None
    assert fact(page, "Predictions") == f"{predicted.rows:,}"
    landed = [
        manifest
        for source, name, table in uc.tables()
        if (manifest := raw.current(uc, source, name, night - timedelta(days=table.lag_days)))
    ]
    rows = fact(page, "Rows of sources")
    assert rows.startswith(f"{sum(manifest.rows_in for manifest in landed):,}")
    assert f"{sum(manifest.rows_quarantined for manifest in landed):,} quarantined" in rows
    observed = truth.observed(uc)
    newest = max(observed)
    assert fact(page, "Observed quality").startswith(f"{observed[newest][uc.gate.primary]:.3f}")
    assert f"{newest}" in fact(page, "Observed quality")


def test_the_report_of_the_night_opens(two_nights: Stack, page: Page) -> None:
    night = newest_partitions(two_nights.uc)[-1]
    shown(page)
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Report of the night").click()
    expect(opened.value.get_by_text(f"{night}").first).to_be_visible()
    opened.value.close()


def test_a_day_is_found_in_the_calendar_and_told_all_about(two_nights: Stack, page: Page) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    shown(page, "/data")
    grid = page.get_by_role("group", name="Predictions by day")
    expect(grid.locator("[data-state=present]")).to_have_count(
        sum(night - timedelta(days=181) <= day <= night for day in newest_partitions(uc))
    )
    grid.locator(f"[data-day='{night}']").click()
    expect(page.get_by_role("heading", name=f"Partition {night}")).to_be_visible()
    version = tables.partition_version(uc, "predictions", night)
    assert version is not None
    expect(page.get_by_text(version.content_hash[:12]).first).to_be_visible()
    model = tables.constants(uc, "predictions", night, night, ["model_version"])[night]["model_version"]
    lineage = page.get_by_role("group", name=f"What was made of what, of {night}")
    for made in (
        f"Model, version {model}",
        "Predictions",
        *(f"{source}.{name}" for source, name, _ in uc.tables()),
    ):
        expect(lineage.get_by_text(made, exact=True)).to_be_visible()
    drawn = lineage.get_by_role("img")
    expect(drawn).to_have_attribute(
        "aria-label", re.compile("Predictions from Features; Predictions from Model")
    )


def test_dbt_docs_open_from_the_calendar_and_from_the_task_that_builds(two_nights: Stack, page: Page) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    shown(page, "/data")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="dbt docs").click()
    docs = opened.value
    docs.get_by_placeholder("Search for models").fill(uc.features.relation)
    expect(docs.get_by_role("heading", level=1)).to_contain_text(f"{uc.features.relation} 1 search result")
    picture(docs, "dbt-docs")
    docs.close()
    run = two_nights.api.runs(two_nights.dag("features"), partition_key=f"{night}")[-1]
    page.goto(
        f"{airflow.address()}/dags/{run.dag_id}/runs/{run.run_id}/tasks/features.build_features/details"
    )
    expect(page.get_by_role("link", name="dbt docs")).to_have_attribute("href", re.compile("dbt/index.html$"))


def test_the_calendar_is_walked_with_the_keyboard(two_nights: Stack, page: Page) -> None:
    night = newest_partitions(two_nights.uc)[-1]
    shown(page, "/data")
    grid = page.get_by_role("group", name="Features by day")
    grid.locator(f"[data-day='{night}']").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Partition {night - timedelta(days=8)}")).to_be_visible()


def test_a_rebuild_is_started_after_a_question_and_runs_in_airflow(two_nights: Stack, page: Page) -> None:
    night = newest_partitions(two_nights.uc)[-1]
    before = two_nights.api.runs(two_nights.dag("rebuild"))
    shown(page, f"/data?day={night}")
    page.get_by_role("button", name="Rebuild", exact=True).click()
    question = page.get_by_role("alertdialog")
    question.get_by_role("button", name="Cancel").click()
    question.wait_for(state="hidden")
    assert two_nights.api.runs(two_nights.dag("rebuild")) == before
    page.get_by_role("button", name="Rebuild", exact=True).click()
    run = started(two_nights, page, "rebuild")
    assert run.conf["start"] == run.conf["end"] == f"{night}"
    ended = two_nights.api.wait_for_run(run)
    assert ended.state == "success", two_nights.story(ended)


def test_a_night_is_ingested_again_and_all_that_follows_runs_again(two_nights: Stack, page: Page) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    before = contents(uc)
    since = datetime.now(UTC)
    shown(page, f"/data?day={night}")
    page.get_by_role("button", name=f"Ingest night {night} again").click()
    run = two_nights.api.wait_for_run(started(two_nights, page, "ingest"))
    assert run.state == "success", two_nights.story(run)
    assert run.conf == {"partition": f"{night}"}
    for dag in CHAIN[1:]:
        two_nights.wait(lambda dag=dag: two_nights.ended(dag, night, since), f"{dag} of {night}")
    assert contents(uc) == before, "the sources said the same"


def test_who_may_only_look_can_start_nothing(two_nights: Stack, chromium: Browser) -> None:
    night = newest_partitions(two_nights.uc)[-1]
    tab = as_viewer(chromium)
    shown(tab, f"/data?day={night}")
    expect(tab.get_by_role("button", name="Rebuild", exact=True)).to_be_disabled()
    expect(tab.get_by_role("button", name=f"Ingest night {night} again")).to_be_disabled()
    # The button is a courtesy; Airflow is the one that refuses.
    answer = tab.request.post(
        f"{airflow.address()}/api/v2/dags/{two_nights.dag('rebuild')}/dagRuns",
        data={"logical_date": None, "conf": {"start": f"{night}", "end": f"{night}"}},
        headers={"Authorization": f"Bearer {viewer_token()}"},
    )
    assert answer.status == 403
    tab.context.close()


def test_rows_that_a_rule_put_aside_are_judged_again_with_the_night_that_lands_them(
    two_nights: Stack, page: Page
) -> None:
    uc = two_nights.uc
    kept = next(found for found in list_kept(uc, "raw_weather", *HISTORY))
    shown(page, f"/data?end={HISTORY[1]}")
    cell = page.get_by_role("group", name="Raw by day").locator(f"[data-day='{kept.partition}']")
    expect(cell).to_have_attribute("data-state", "quarantined")
    cell.click()
    part = page.get_by_text(f"{kept.rows} rows of {kept.suite} in quarantine")
    expect(part).to_be_visible()
    # The weather of a day is known by the next night.
    page.get_by_role("button", name="Replay quarantine").click()
    run = two_nights.api.wait_for_run(started(two_nights, page, "replay_quarantine"))
    assert run.state == "success", two_nights.story(run)
    assert run.conf == {"partition": f"{kept.partition + timedelta(days=1)}"}
    # The rule is as it was, so the rows stay aside.
    assert list_one(uc, kept) == kept
    assert f"replayed weather {kept.partition}: {kept.rows} rows were in quarantine" in run.note


def test_a_task_in_airflow_tells_what_it_did_and_leads_to_its_report(two_nights: Stack, page: Page) -> None:
    night = newest_partitions(two_nights.uc)[-1]
    run = two_nights.api.runs(two_nights.dag("features"), partition_key=f"{night}")[-1]
    built = tables.partition_version(two_nights.uc, "features", night)
    assert built is not None
    assert f"built features {night}: {built.rows} rows" in run.note
    (task,) = (one for one in two_nights.api.tasks(run) if one.task_id.endswith("validate_features"))
    page.goto(f"{airflow.address()}/dags/{run.dag_id}/runs/{run.run_id}/tasks/{task.task_id}/details")
    page.get_by_role("link", name="Validation report").click()
    expect(page.get_by_text(f"{night}").first).to_be_visible()
    assert page.url.endswith(f"/reports/{two_nights.uc.name}/features/{night}.html")
    page.go_back()
    page.get_by_role("link", name="Day in Nightshift").click()
    expect(page.get_by_role("heading", name=f"Partition {night}")).to_be_visible()


def test_the_champion_is_on_the_models_page_with_its_card(two_nights: Stack, page: Page) -> None:
    champion = deployments.newest(two_nights.uc)
    assert champion is not None
    shown(page, "/models")
    expect(page.get_by_role("listitem").filter(has_text="until further notice")).to_contain_text(
        f"version {champion.version}"
    )
    with page.expect_popup() as opened:
        page.get_by_role("link", name="card").first.click()
    expect(opened.value.get_by_text("Intended use").first).to_be_visible()
    opened.value.close()


def test_what_was_observed_and_what_moved_is_on_the_monitoring_page(two_nights: Stack, page: Page) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    shown(page, "/monitoring")
    observed = truth.observed(uc)
    newest = max(observed)
    page.get_by_text("Figures").first.click()
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=f"{newest}", exact=True)).first
    expect(row).to_contain_text(f"{observed[newest][uc.gate.primary]:.3f}")
    checked = drift.results(uc, night, night)[night]
    window = checked.windows[0]
    column = max(window.limits, key=lambda name: window.distances[name] / window.limits[name])
    cell = page.get_by_role("row").filter(has_text=column).first.locator(f"[data-day='{night}']")
    ratio = window.distances[column] / window.limits[column]
    expect(cell).to_have_attribute("title", f"{column}, {night}: {ratio:.2f} of its limit")
    # One feature, then and now: shares of all bars are whole.
    name = uc.features.categorical[0]
    shown(page, f"/monitoring?column={name}&day={night}")
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    values = tables.read_partitions(uc, "features", night, night, columns=[name])[name].to_pylist()
    most, number = Counter(values).most_common(1)[0]
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=most, exact=True))
    # The first time, the API loads the model for its reference.
    expect(row).to_contain_text(f"{100 * number / len(values):.1f}%", timeout=60_000)


def test_why_a_prediction_got_its_score_is_told_down_to_the_raw_objects(
    two_nights: Stack, page: Page
) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    scored = tables.read_partitions(uc, "predictions", night, night).to_pylist()
    wanted = scored[len(scored) // 2]
    shown(page, "/prediction")
    page.get_by_label("Entity").fill(wanted[uc.entity][:-2].lower())
    page.get_by_role("button", name=wanted[uc.entity]).click()
    expect(page.get_by_role("heading", name=wanted[uc.entity])).to_be_visible()
    assert fact(page, "Score") == f"{wanted['score']:.4f}"
    strongest = json.loads(wanted["reasons"])[0]
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=strongest["feature"], exact=True))
    expect(row).to_contain_text(f"{abs(strongest['contribution']):.3f}")
    page.get_by_role("button", name="Explain by every feature").click()
    explained = explain.explain(uc, wanted)
    expect(page.get_by_text("What each feature adds")).to_be_visible()
    for contribution in (explained.contributions[0], explained.contributions[-1]):
        cell = page.get_by_role("cell", name=contribution.feature, exact=True)
        expect(page.get_by_role("row").filter(has=cell)).to_contain_text(
            f"{abs(contribution.contribution):.3f}"
        )
    expect(page.get_by_text("What would change the decision")).to_be_visible()
    change = explained.counterfactual
    told = f"to a score of {change.score:.4f}" if change else "No allowed change of"
    expect(page.get_by_text(told)).to_be_visible()
    for changed in change.changes if change else ():
        cell = page.get_by_role("cell", name=re.compile(rf"^{changed.feature}( \(follows\))?$"))
        expect(page.get_by_role("row").filter(has=cell).filter(has_text=changed.after).first).to_be_visible()
    picture(page, "explanation", whole=True)
    # Down to a raw partition, and on to its manifest.
    page.get_by_role("link", name=f"{night - timedelta(days=1)}").first.click()
    expect(page.get_by_role("heading", name="Raw versions")).to_be_visible()


def test_what_was_shown_stays_while_the_answer_is_away(two_nights: Stack, admin: Page) -> None:
    # What is away is an error on the console, too, so this page is not listened to.
    chromium = admin.context.browser
    assert chromium is not None
    context = chromium.new_context(storage_state=admin.context.storage_state())
    page = context.new_page()
    page.set_default_timeout(60_000)
    try:
        page.clock.install()
        shown(page)
        heading = page.get_by_role("heading", name=two_nights.uc.title)
        expect(heading).to_be_visible()
        page.route("**/api/tonight", lambda route: route.fulfill(status=503, json={"message": "away"}))
        page.clock.fast_forward(61_000)
        for _ in range(3):
            page.clock.run_for(10_000)
        expect(page.get_by_role("alert")).to_contain_text("away")
        expect(heading).to_be_visible()
        page.unroute("**/api/tonight")
        page.clock.run_for(61_000)
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(heading).to_be_visible()
    finally:
        context.close()


def test_an_entity_that_nobody_scored_is_answered_with_some_that_were(two_nights: Stack, admin: Page) -> None:
    # Its refusal is an error on the console, too, so this page is not listened to.
    shown(admin, "/prediction?entity=no-such")
    problem = admin.get_by_role("alert")
    expect(problem).to_contain_text("no prediction of")
    expect(problem).to_contain_text("cure")


@pytest.mark.parametrize("path", ["", "/data", "/models", "/monitoring", "/prediction"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_kept_out_by_how_a_page_is_made(
    two_nights: Stack, page: Page, path: str, theme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=theme)
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    night = newest_partitions(two_nights.uc)[-1]
    shown(page, f"{path}?day={night}" if path == "/data" else path)
    page.locator("main section").first.wait_for()
    page.wait_for_load_state("networkidle")
    picture(page, f"{path.strip('/') or 'tonight'}-{theme}", whole=True)
    assert serious(page) == []


def test_on_a_phone_nothing_is_wider_than_the_screen(two_nights: Stack, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        day = newest_partitions(two_nights.uc)[-1]
        for path in ("", f"/data?day={day}", "/models", "/monitoring", "/prediction"):
            shown(page, path)
            page.locator("main section").first.wait_for()
            picture(page, f"{path.partition('?')[0].strip('/') or 'tonight'}-phone", whole=True)
            wide = page.evaluate(
                "() => { const m = document.querySelector('main'); return m.scrollWidth - m.clientWidth }"
            )
            assert wide <= 0, path
    finally:
        page.set_viewport_size({"width": 1280, "height": 800})


def test_what_is_stale_is_seen_in_the_calendar_and_rebuilt(two_nights: Stack, page: Page) -> None:
    uc, night = two_nights.uc, newest_partitions(two_nights.uc)[-1]
    # A row of the day before that day is in quarantine now, and the night looks back on it.
    damage_flights(uc, night - timedelta(days=2), 1)
    shown(page, f"/data?day={night}")
    cell = page.get_by_role("group", name="Features by day").locator(f"[data-day='{night}']")
    expect(cell).to_have_attribute("data-state", "stale")
    page.get_by_role("button", name="Rebuild what is stale").click()
    run = two_nights.api.wait_for_run(started(two_nights, page, "rebuild"))
    assert run.state == "success", two_nights.story(run)
    assert run.conf["only_stale"] is True
    assert [item for item in find_stale(uc, night, night) if item.partition == night] == []
    page.reload()
    expect(page.get_by_text("looking for what is stale")).to_be_hidden()
    expect(cell).to_have_attribute("data-state", "present")
