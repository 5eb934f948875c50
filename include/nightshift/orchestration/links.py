"""Where Airflow's UI leads to from a task: the day in Nightshift's pages, and what the task has written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import cache
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from attrs import frozen

from nightshift.errors import NightshiftError
from nightshift.orchestration.params import window_of
from nightshift.usecase import UseCase, load_usecase


def address(path: str) -> str:
    """Return the address of a page below Airflow's own, as users reach it."""
    from airflow.sdk.configuration import conf

    base = conf.get("api", "base_url", fallback="") or ""
    return f"{base.rstrip('/')}/{path}"


def run_address(dag_id: str, run_id: str) -> str:
    """Return the address of a run in Airflow's UI."""
    return address(f"dags/{dag_id}/runs/{quote(run_id, safe='')}")


@frozen
class _Ended:
    """A task instance that has ended, and the last day of its run."""

    uc: UseCase
    day: date
    ti: Any


def _day(ended: _Ended) -> str:
    return address(f"plugin/nightshift/data?usecase={ended.uc.name}&day={ended.day}")


def _report(name: str) -> Callable[[_Ended], str]:
    def find(ended: _Ended) -> str:
        from nightshift.console.documents import report

        file = name.format(day=ended.day)
        there = report(ended.uc, file) is not None
        return address(f"nightshift/reports/{ended.uc.name}/{file}") if there else ""

    return find


def _models(ended: _Ended) -> str:
    from nightshift.warehouse.dbt import DOCS

    return _report(DOCS)(ended)


def _mlflow_run(ended: _Ended) -> str:
    from nightshift.registry import mlflow as tracking
    from nightshift.services import mlflow

    trained = ended.ti.xcom_pull(task_ids=ended.ti.task_id, map_indexes=ended.ti.map_index)
    return tracking.run_address(ended.uc, trained["run_id"], mlflow.address()) if trained else ""


@frozen
class TaskLink(BaseOperatorLink):
    """One link. A task's process finds its address once the task has ended, well or not, and XCom keeps it.

    ``find`` returns the address; "" for none, such as that of a report that was not written.
    """

    name: str
    xcom_key: str
    find: Callable[[_Ended], str]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address; "" where there is none. Airflow gives the task instance itself for its key."""
        try:
            uc = load_usecase(operator.dag_id.partition(".")[0])
            return self.find(_Ended(uc, window_of(ti_key.get_template_context())[1], ti_key))
        except NightshiftError:
            return ""


def _link(name: str, find: Callable[[_Ended], str]) -> TaskLink:
    return TaskLink(name, f"link_{name.lower().replace(' ', '_')}", find)


_DAY = _link("Day in Nightshift", _day)
_MODELS = _link("dbt docs", _models)
_OWN = {
    "build_features": _MODELS,
    "build_chunks": _MODELS,
    "describe_models": _MODELS,
    "validate_features": _link("Validation report", _report("features/{day}.html")),
    "validate_predictions": _link("Validation report", _report("predictions/{day}.html")),
    "check_drift": _link("Drift report", _report("drift/{day}/drift.html")),
    "take_snapshot": _link("Validation report", _report("snapshot/{day}.html")),
    "train_candidate": _link("MLflow run", _mlflow_run),
    "gate": _link("Model report", _report("evaluation/{day}.html")),
    "write_report": _link("Page of the night", _report("nightly/{day}.html")),
}


@cache
def linked(operator: type, function: str) -> type:
    """Return an operator's class for tasks of a function's name, with that function's links."""
    links = (_DAY, _OWN[function]) if function in _OWN else (_DAY,)
    return type(
        operator.__name__, (operator,), {"operator_extra_links": links, "__module__": operator.__module__}
    )
