"""Nights on the stack end as they do on the embedded default."""

from __future__ import annotations

from datetime import date

import httpx
import pytest

from nightshift.services import airflow
from tests.production.conftest import Nights
from tests.stacks import Stack


@pytest.fixture(scope="module")
def night(nights: Nights) -> date:
    """The second of two nights that have run."""
    for _ in range(2):
        newest = nights.next()
        nights.stack.finish(newest, nights.begin(newest))
    return newest


def test_a_bootstrap_and_nights_end_as_on_the_embedded_default(night: date, nights: Nights) -> None:
    nights.compare()


def test_what_tasks_logged_is_read_from_the_object_store(night: date, nights: Nights) -> None:
    run = nights.stack.api.runs(nights.stack.dag("score"), partition_key=night.isoformat())[0]
    done = [task for task in nights.stack.api.tasks(run) if task.state == "success"]
    assert done
    for task in done:
        assert nights.stack.api.log(task, 5), f"{task.label} has no log"
    # Workers keep none.
    assert not list((nights.stack.home / "airflow" / "logs").glob(f"dag_id={run.dag_id}/**/*.log"))


def test_airflows_database_is_cleaned_by_the_worker_that_may(bootstrapped: Stack) -> None:
    bootstrapped.run("maintain", {})


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YWRtaW46YWRtaW4="}])
def test_the_api_answers_to_tokens_only(bootstrapped: Stack, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{airflow.address()}/api/v2/dags", headers=headers, trust_env=False)
    assert answer.status_code == 401
