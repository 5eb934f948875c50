"""Nights on the stack end as they do on the embedded default."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from tests.production.conftest import HISTORY
from tests.stacks import Stack, contents

from nightshift.services import airflow

NIGHTS = [HISTORY[1] + timedelta(days=offset) for offset in (1, 2)]


@pytest.fixture(scope="module")
def nights(bootstrapped: Stack) -> dict[str, Any]:
    """What two nights have left."""
    for night in NIGHTS:
        bootstrapped.finish(night, bootstrapped.ingest([night]))
    return contents(bootstrapped.uc)


def test_a_bootstrap_and_nights_end_as_on_the_embedded_default(
    nights: dict[str, Any], undisturbed: Any
) -> None:
    expected = undisturbed(len(NIGHTS))
    for layer in ("raw flights", "features", "labels", "predictions", "monitoring"):
        assert len(expected[layer]) >= len(NIGHTS)
    assert nights == expected


def test_tasks_run_on_workers_and_their_logs_outlive_them(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    run = bootstrapped.api.runs(bootstrapped.dag("score"), partition_key=NIGHTS[0].isoformat())[0]
    tasks = bootstrapped.api.tasks(run)
    assert tasks
    for one in tasks:
        if one.state == "success":
            assert bootstrapped.api.log(one, 5), f"{one.label} has no log"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YWRtaW46YWRtaW4="}])
def test_the_api_answers_to_tokens_only(bootstrapped: Stack, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{airflow.address()}/api/v2/dags", headers=headers, trust_env=False)
    assert answer.status_code in (401, 403)
