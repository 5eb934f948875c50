"""A night through real Airflow leaves what its tasks used, and Prometheus can read it there with a token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nightshift.lake import tables
from nightshift.monitoring import resources
from nightshift.services import airflow
from tests.e2e.conftest import HISTORY
from tests.stacks import Stack, token

# The first night that the champion of `bootstrapped` scores.
NIGHT = HISTORY[1] + timedelta(days=1)
PAGE = "/nightshift/metrics"


@pytest.fixture(scope="module")
def night(bootstrapped: Stack) -> Stack:
    """The stack with one night that ran from raw data to what it cost."""
    since = datetime.now(UTC)
    if tables.partition_version(bootstrapped.uc, "monitoring_costs", NIGHT) is None:
        since = bootstrapped.ingest([NIGHT])
        bootstrapped.finish(NIGHT, since)
    return bootstrapped


def get(path: str, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(f"{airflow.address()}{path}", headers=headers, timeout=60, trust_env=False)


def test_nobody_reads_the_page_without_a_token(night: Stack) -> None:
    assert get(PAGE, {}).status_code == 401
    assert get(PAGE, {"Authorization": "Bearer made.up.token"}).status_code == 403
    for path in ("/nightshift/docs", "/nightshift/openapi.json"):
        assert "nightshift_" not in get(path, {}).text


def test_the_night_is_on_the_page_with_what_its_tasks_used(night: Stack) -> None:
    answer = get(PAGE, {"Authorization": f"Bearer {token()}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        family.name: {
            tuple(value for name, value in sorted(sample.labels.items()) if name != "usecase"): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(answer.text)
    }
    assert found["nightshift_partitions"][("predictions",)] >= 1
    cpu = found["nightshift_task_cpu_seconds"]
    assert {("ingest", "load"), ("features", "features.build_features"), ("score", "predictions.score")} <= (
        cpu.keys()
    )
    assert all(value > 0 for value in cpu.values())
    assert found["nightshift_night_cost"][("night", "CPU-hours")] > 0
    assert found["nightshift_cost_per_1000_predictions"][("CPU-hours",)] > 0


def test_every_task_of_the_chain_is_in_the_table(night: Stack) -> None:
    rows = tables.read_partitions(night.uc, resources.LAYER, NIGHT, NIGHT).to_pylist()
    assert {row["dag"] for row in rows} >= {"ingest", "features", "score", "monitor"}
    nightly = [row for row in rows if row["dag"] in resources.NIGHTLY]
    assert all(row["days"] == 1 and row["seconds"] > 0 and row["peak_memory_mb"] > 50 for row in nightly)
    by_task = {row["task"]: row for row in rows if row["dag"] == "score"}
    published = tables.partition_versions(night.uc, "predictions")[NIGHT].rows
    assert by_task["predictions.publish_predictions"]["rows"] == published


def test_the_bootstrap_makes_no_night_look_expensive(night: Stack) -> None:
    cost = resources.costs(night.uc, HISTORY[1], HISTORY[1])[HISTORY[1]]
    assert cost.ranges > 0
    assert cost.night == 0
