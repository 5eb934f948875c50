"""Which machine a task runs on, whichever executor runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# What trains a network, wherever it is trained; and what opens Airflow's own database.
ELSEWHERE = {
    "train_tabular_network": "gpu",
    "evaluate_tabular_network": "gpu",
    "run_trial_tabular_network": "gpu",
    "clean_airflow_database": "upkeep",
}


def placed(dagbag: Any) -> dict[str, tuple[str, dict[str, str]]]:
    """Return queue and executor's configuration of each task that is not in the default queue."""
    from airflow.serialization.serialized_objects import DagSerialization

    found = {}
    for dag in dagbag.dags.values():
        # As the scheduler gets it, which is who reads them.
        for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_dict.values():
            options = task.partial_kwargs if task.is_mapped else vars(task)
            if options.get("queue", "default") != "default":
                name = task.task_id.rpartition(".")[2]
                found[name] = (options["queue"], dict(options.get("executor_config") or {}))
    return found


def test_tasks_that_need_another_machine_say_so(dagbag: Any) -> None:
    assert placed(dagbag) == {name: (queue, {}) for name, queue in ELSEWHERE.items()}


def test_on_kubernetes_a_queue_is_a_pod(parse: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for queue in ("gpu", "upkeep"):
        (tmp_path / f"{queue}.yaml").touch()
    monkeypatch.setenv("NIGHTSHIFT_POD_TEMPLATES", str(tmp_path))
    assert placed(parse()) == {
        name: (queue, {"pod_template_file": str(tmp_path / f"{queue}.yaml")})
        for name, queue in ELSEWHERE.items()
    }
