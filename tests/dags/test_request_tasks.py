"""A shadow that fails stops nothing, and every way out of a training tells its request."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift import stages
from nightshift.errors import DataError

NIGHT = date(2013, 7, 1)


def test_a_challenger_that_fails_is_skipped(
    airflow_home: None, flight_delays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from nightshift.orchestration import tasks

    def broken(uc: Any) -> str:
        raise DataError("no such column", rule="r", where="w", cure="c")

    monkeypatch.setattr(tasks, "night", lambda: NIGHT)
    monkeypatch.setattr("nightshift.inference.shadow.challenger", broken)
    with pytest.raises(AirflowSkipException, match="or it failed as logged above"):
        tasks.score_shadow.function(flight_delays.name)


def test_nothing_waits_for_the_shadow(dagbag: Any) -> None:
    shadow = dagbag.dags["flight_delays.score"].get_task("score_shadow")
    assert shadow.upstream_task_ids == {"predictions.publish_predictions"}
    assert not shadow.downstream_task_ids


def test_a_training_takes_its_request_up_before_anything_else(dagbag: Any) -> None:
    dag = dagbag.dags["flight_delays.train"]
    assert [task.task_id for task in dag.tasks if not task.upstream_task_ids] == ["begin_training"]


def test_a_failed_training_closes_its_request(
    home: Any, dagbag: Any, flight_delays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift.monitoring import requests
    from nightshift.monitoring.retrain import ask_by_hand

    ask_by_hand(flight_delays, NIGHT, "drill", by="ann")
    stages.begin_training(flight_delays, NIGHT, "run 1")
    dag = dagbag.dags["flight_delays.train"]
    run = SimpleNamespace(dag_id=dag.dag_id, partition_key="2013-07-01", run_id="run 1")
    # The first of them alone does it: telling people may take long, and be cut short.
    dag.on_failure_callback[0]({"dag": dag, "dag_run": run, "run_id": "run 1", "reason": "task_failure"})
    (life,) = requests.lives(flight_delays)
    assert life.state == "failed"
    assert life.outcome is not None
    assert life.outcome.reasons == ("run run 1 failed: task_failure",)
