"""Every task is measured, and none fails for it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.lake.store import open_store
from nightshift.settings import settings

PARTITION = "2013-07-01"


def run(task: Any, params: dict[str, Any] | None = None, partition: str | None = PARTITION) -> Any:
    """Run a task as Airflow's runner does: with a context around ``execute``."""
    from airflow.sdk.execution_time.context import set_current_context

    ti = SimpleNamespace(
        dag_id="flight_delays.score", task_id="work", run_id="a run", try_number=2, map_index=-1
    )
    run = SimpleNamespace(partition_key=partition, dag_id=ti.dag_id, run_id=ti.run_id)
    context: Any = {"ti": ti, "dag_run": run, "params": params or {}, "outlet_events": {}}
    with set_current_context(context):
        return task.operator.execute(context)


def records() -> list[dict[str, Any]]:
    store = open_store()
    return [json.loads(store.get(key)) for key in store.list("usage/flight_delays/")]


@pytest.fixture
def metered(airflow_home: None, home: Path) -> Any:
    from nightshift.orchestration.metering import task

    return task


def test_what_a_task_used_is_recorded_for_its_night(metered: Any) -> None:
    from nightshift.usage import count_rows

    @metered
    def work(rows: int) -> dict[str, Any]:
        """Handle rows."""
        count_rows(rows)
        return {"rows": rows}

    assert run(work(rows=12)) == {"rows": 12}
    (record,) = records()
    assert record["seconds"] > 0
    assert {
        name: record[name] for name in ("partition", "dag", "task", "attempt", "state", "rows", "days")
    } == {
        "partition": PARTITION,
        "dag": "score",
        "task": "work",
        "attempt": 2,
        "state": "success",
        "rows": 12,
        "days": 1,
    }


def test_the_task_is_the_one_that_airflow_would_have_made(metered: Any) -> None:
    from airflow.sdk import task as plain

    def work(usecase: str) -> dict[str, Any]:
        """Say what it does."""
        return {}

    ours, theirs = metered(retries=7)(work)("a").operator, plain(retries=7)(work)("a").operator
    for name in ("task_id", "doc_md", "retries", "multiple_outputs", "op_args"):
        assert getattr(ours, name) == getattr(theirs, name), name
    gate = metered.short_circuit(ignore_downstream_trigger_rules=False)(work)("a").operator
    assert gate.ignore_downstream_trigger_rules is False


@pytest.mark.parametrize(
    ("error", "state"), [("AirflowSkipException", "skipped"), ("AirflowFailException", "failed")]
)
def test_a_task_that_ends_otherwise_is_recorded_and_ends_so(metered: Any, error: str, state: str) -> None:
    from airflow.sdk import exceptions

    kind = getattr(exceptions, error)

    @metered
    def work() -> None:
        raise kind("as it is")

    with pytest.raises(kind, match="as it is"):
        run(work())
    assert [record["state"] for record in records()] == [state]


def test_a_range_is_recorded_for_its_last_day(metered: Any) -> None:
    @metered
    def work() -> None: ...

    run(work(), params={"start": "2013-01-01", "end": "2013-01-31"}, partition=None)
    assert [(record["partition"], record["days"]) for record in records()] == [("2013-01-31", 31)]


def test_a_run_about_no_day_leaves_nothing(metered: Any) -> None:
    @metered
    def work() -> int:
        return 3

    assert run(work(), partition=None) == 3
    assert records() == []


def test_a_lake_that_takes_no_record_fails_no_task(
    metered: Any, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @metered
    def work() -> int:
        return 3

    blocked = home / "blocked"
    blocked.write_text("a file where the lake should be")
    monkeypatch.setenv("NIGHTSHIFT_LAKE", f"file://{blocked}")
    settings.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert run(work()) == 3
    assert "could not be recorded" in caplog.text


def test_every_task_of_ours_is_metered(dagbag: Any) -> None:
    metered = 0
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            if task.task_id.endswith("approve"):
                continue
            function = task.python_callable
            # Metered, it is another function than the one that was written.
            assert function.__code__ is not function.__wrapped__.__code__, task
            metered += 1
    assert metered > 60
