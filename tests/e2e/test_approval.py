"""A person approves one challenger and rejects another, with a browser, in Airflow's own UI."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from nightshift.registry import deployments, states
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Deployment
from nightshift.services import airflow, processes, stack
from nightshift.services.airflow_api import AirflowApi, DagRun
from nightshift.settings import settings
from nightshift.usecase import UseCase
from tests import synthetic
from tests.e2e.browser import browser, logged_in
from tests.stacks import COPIED, NOT_COPIED, Stack

NIGHTS = [date(2020, 2, 3) + timedelta(days=9 * number) for number in range(4)]


def _use_case() -> UseCase:
    """The synthetic use case with one trainer, whose gate lets everything pass and asks nobody."""
    training = synthetic.use_case().training.model_dump(exclude_unset=True)
    del training["trainers"]["network"]
    return synthetic.use_case(training=training, gate={"primary": "roc_auc", "min_improvement": -1.0})


@pytest.fixture(scope="module")
def training() -> Iterator[Stack]:
    """A stack of its own, with published features and labels of a made-up use case and a first champion."""
    project = settings().project
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-e2e-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        copy, home = Path(folder) / "project", Path(folder) / "state"
        for name in COPIED:
            if (project / name).exists():
                shutil.copytree(project / name, copy / name, ignore=NOT_COPIED)
        uc = _use_case()
        shutil.rmtree(copy / "include" / "usecases" / "flight_delays")
        synthetic.write_use_case(copy, uc)
        synthetic.write_suites(copy)
        patch.setenv("NIGHTSHIFT_HOME", str(home))
        patch.setenv("NIGHTSHIFT_PROJECT", str(copy))
        patch.setenv("NIGHTSHIFT_RETRY_SECONDS", "3")
        for name in ("AIRFLOW", "MLFLOW", "POSTGRES"):
            patch.setenv(f"NIGHTSHIFT_{name}_PORT", str(processes.free_port()))
        settings.cache_clear()
        try:
            synthetic.publish(uc, synthetic.START, NIGHTS[-1])
            stack.up()
            with AirflowApi() as api:
                api.wait_for_dags([f"{uc.name}.train"])
                running = Stack(api, uc, home)
                running.run("train", {"partition": f"{NIGHTS[0]}"})
                yield running
        finally:
            stack.down()
            settings.cache_clear()


@pytest.fixture(scope="module")
def page(training: Stack) -> Iterator[Page]:
    """A browser in which the admin has logged in."""
    with browser() as chromium:
        yield logged_in(chromium)


def test_a_person_starts_a_training_from_the_form_as_it_opens(training: Stack, page: Page) -> None:
    before = {run.run_id for run in training.api.runs(training.dag("train"))}
    page.goto(f"{airflow.address()}/dags/{training.dag('train')}")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    form.locator("input[type=date]").first.fill(f"{NIGHTS[0]}")
    form.get_by_role("button", name="Trigger", exact=True).click()
    form.wait_for(state="hidden")
    (run,) = [run for run in training.api.runs(training.dag("train")) if run.run_id not in before]
    ended = training.api.wait_for_run(run)
    assert ended.state == "success", training.story(ended)
    assert ended.conf["partition"] == f"{NIGHTS[0]}"
    # The champion knows as much already, so this training has nothing to do.
    assert _task_states(training, run)["model.take_snapshot"] == "skipped"


def _wait_for_a_person(running: Stack, night: date) -> DagRun:
    run = running.api.trigger(running.dag("train"), {"partition": f"{night}", "approval": "manual"})

    def waits() -> bool:
        now = running.api.run(run.dag_id, run.run_id)
        assert not now.finished, running.story(now)
        states = {task.task_id: task.state for task in running.api.tasks(run)}
        return states.get("model.approve") == "awaiting_input"

    running.wait(waits, "the approval")
    return run


def _answer(page: Page, run: DagRun, answer: str, comment: str) -> str:
    """Open the waiting approval, answer it, and return what it said."""
    page.goto(f"{airflow.address()}/dags/{run.dag_id}/runs/{run.run_id}/tasks/model.approve/required_actions")
    page.get_by_role("button", name=answer, exact=True).wait_for()
    said = page.locator("body").inner_text()
    page.locator("[name=element_comment]").first.fill(comment)
    page.get_by_role("button", name=answer, exact=True).click()
    return said


def _newest(running: Stack) -> Deployment:
    found = deployments.newest(running.uc)
    assert found is not None
    return found


def _champion_of_mlflow(running: Stack) -> str:
    return str(tracking.client(running.uc).get_model_version_by_alias(running.uc.name, "champion").version)


def _task_states(running: Stack, run: DagRun) -> dict[str, Any]:
    return {task.task_id: task.state for task in running.api.tasks(run)}


def test_what_a_person_rejects_changes_nothing_and_no_rerun_promotes_it(training: Stack, page: Page) -> None:
    before = _newest(training)
    run = _wait_for_a_person(training, NIGHTS[1])
    said = _answer(page, run, "Reject", "too many false alarms")
    assert "make version 2 champion?" in said
    assert "champion (version 1)" in said
    assert "roc_auc" in said
    ended = training.api.wait_for_run(run)
    assert ended.state == "success", training.story(ended)
    assert _task_states(training, run)["model.promote"] == "skipped"
    rejected = states.standings(states.read(training.uc))["2"]
    assert rejected.state == "archived"
    assert rejected.approval is not None
    assert (rejected.approval.decision, rejected.approval.by) == ("rejected", airflow.ADMIN)
    assert rejected.approval.comment == "too many false alarms"
    # The same night again, and nobody to ask: the same model, and still rejected.
    again = training.run("train", {"partition": f"{NIGHTS[1]}"})
    assert _task_states(training, again)["model.promote"] == "skipped"
    assert _newest(training) == before
    assert _champion_of_mlflow(training) == before.version == "1"


def test_what_a_person_approves_on_the_models_page_becomes_champion(training: Stack, page: Page) -> None:
    run = _wait_for_a_person(training, NIGHTS[2])
    page.goto(f"{airflow.address()}/plugin/nightshift")
    expect(page.get_by_text("version 3 waits")).to_be_visible()
    page.get_by_role("link", name="1 to decide").wait_for()
    page.get_by_role("link", name="Models").click()
    question = page.locator("section").filter(has_text="make version 3 champion?")
    question.get_by_label("Comment").fill("fewer false alarms")
    question.get_by_role("button", name="Approve").click()
    question.wait_for(state="hidden")
    ended = training.api.wait_for_run(run)
    assert ended.state == "success", training.story(ended)
    champion = _newest(training)
    assert (champion.version, champion.effective_from) == ("3", NIGHTS[2] + timedelta(days=1))
    assert champion.approval is not None
    assert (champion.approval.decision, champion.approval.by) == ("approved", airflow.ADMIN)
    assert champion.approval.comment == "fewer false alarms"
    assert _champion_of_mlflow(training) == "3"
    tags = tracking.client(training.uc).get_model_version(training.uc.name, "3").tags
    assert (tags["state"], tags["approval"]) == ("champion", "approved")


def test_two_versions_are_compared_and_the_earlier_put_in_force_again(training: Stack, page: Page) -> None:
    newest = _newest(training)
    page.goto(f"{airflow.address()}/plugin/nightshift/models?left=3&right=1")
    expect(page.get_by_text("Both were judged on the same rows")).to_be_visible()
    line = page.get_by_role("row").filter(has=page.get_by_role("cell", name="roc_auc", exact=True)).first
    figures = [cell.inner_text() for cell in line.get_by_role("cell").all()[1:]]
    assert figures[0].startswith(f"{newest.metrics['roc_auc']:.4f} (")
    ours, theirs, difference = (float(figure.split()[0]) for figure in figures)
    assert difference == pytest.approx(ours - theirs, abs=2e-4)
    page.get_by_role("button", name="Roll back to 1").click()
    question = page.get_by_role("alertdialog")
    expect(question.get_by_role("button", name="Start")).to_be_disabled()
    question.get_by_label("Why").fill("it was better before")
    question.get_by_role("button", name="Start").click()
    training.wait(lambda: _newest(training).version == "1", "the rollback")
    back = _newest(training)
    assert (back.action, back.reasons) == ("rollback", ["it was better before"])
    page.reload()
    expect(page.get_by_role("listitem").filter(has_text="until further notice")).to_contain_text("version 1")


def test_what_a_person_rejects_on_the_models_page_stays_out(training: Stack, page: Page) -> None:
    before = _newest(training)
    run = _wait_for_a_person(training, NIGHTS[3])
    page.goto(f"{airflow.address()}/plugin/nightshift/models")
    question = page.locator("section").filter(has_text="make version 4 champion?")
    question.get_by_label("Comment").fill("no better than the one before")
    question.get_by_role("button", name="Reject").click()
    question.wait_for(state="hidden")
    ended = training.api.wait_for_run(run)
    assert ended.state == "success", training.story(ended)
    assert _task_states(training, run)["model.promote"] == "skipped"
    rejected = states.standings(states.read(training.uc))["4"]
    assert rejected.approval is not None
    assert (rejected.approval.decision, rejected.approval.by) == ("rejected", airflow.ADMIN)
    assert rejected.approval.comment == "no better than the one before"
    assert _newest(training) == before
