"""What every DAG shares: owner, tags, retry policy, deadline; and which use cases there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, get_parsing_context
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowTaskTimeout

from nightshift.errors import DataError, TransientError
from nightshift.orchestration.alerts import deadline_missed, run_failed
from nightshift.orchestration.links import address
from nightshift.orchestration.notes import TAG
from nightshift.orchestration.params import refuse_unknown_params
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase, usecase_names

# Tries of a task that waits for other nights: an hour of them, at half a minute each.
_WAITING_TRIES = 120


def retry_policy(unknown: RetryAction = RetryAction.DEFAULT) -> ExceptionRetryPolicy:
    """Return the rule that holds everywhere: bad data fails at once, bad luck is tried again.

    A task that hangs fails at its first timeout, or it would hold up its DAG for days.

    Args:
        unknown: What to do about an error that says neither; by default the task's own tries.
    """
    return ExceptionRetryPolicy(
        default=unknown,
        rules=[
            RetryRule(DataError, RetryAction.FAIL, reason="bad data: the same input gives the same answer"),
            RetryRule(
                AirflowTaskTimeout, RetryAction.FAIL, reason="it ran longer than NIGHTSHIFT_TASK_HOURS"
            ),
            RetryRule(
                TransientError,
                RetryAction.RETRY,
                retry_delay=timedelta(seconds=settings().retry_seconds),
                reason="bad luck: not there yet, locked, or lost on the way",
            ),
        ],
    )


def waiting() -> dict[str, Any]:
    """Return the options of a task that waits for other nights by being tried again.

    Many tries are for that alone: an error of an unknown kind fails at once.
    """
    return {"retries": _WAITING_TRIES, "retry_policy": retry_policy(unknown=RetryAction.FAIL)}


def placed(queue: str) -> dict[str, Any]:
    """Return the options that send a task to ``queue``, whichever executor runs it.

    Workers of Celery ask for queues. The KubernetesExecutor knows none: it makes each task the pod of a
    template, so the queue names the template, where a deployment has one for it.
    """
    template = Path(settings().pod_templates) / f"{queue}.yaml"
    if not settings().pod_templates or not template.exists():
        return {"queue": queue}
    return {"queue": queue, "executor_config": {"pod_template_file": str(template)}}


def use_cases() -> Iterator[UseCase]:
    """Yield each valid use case; while a task runs, only the one its DAG belongs to.

    A broken one is skipped, so that it cannot take the others' DAGs down; ``dags/check_usecases.py``
    shows its error.
    """
    running = get_parsing_context().dag_id
    for name in usecase_names():
        if running and not running.startswith(f"{name}."):
            continue
        try:
            yield load_usecase(name)
        except DataError:
            continue


def check_use_cases() -> None:
    """Raise the errors of the use cases that ``use_cases`` skips."""
    errors = []
    for name in usecase_names():
        try:
            load_usecase(name)
        except DataError as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup("use cases that cannot be read", errors)


def live_from(usecase: UseCase) -> datetime:
    """Return the start date of the nightly schedule: see ``Settings.live_from``."""
    return datetime.combine(settings().live_from, time(), tzinfo=usecase.zone)


def dag_options(usecase: UseCase, name: str, doc: str | None, **more: Any) -> dict[str, Any]:
    """Return the keyword arguments that every DAG of ``usecase`` shares, updated by ``more``.

    Args:
        usecase: The use case.
        name: Name of the DAG within the use case.
        doc: Docstring of its file: a title, and paragraphs whose first sentence describes it in lists.
        more: Arguments of its own.
    """
    return {
        "dag_id": f"{usecase.name}.{name}",
        "dag_display_name": f"{usecase.title}: {name.replace('_', ' ')}",
        "description": _first_sentence(doc or ""),
        "doc_md": f"{doc}{IN_AIRFLOW}{_in_airflow(usecase, more.get('params') or {})}",
        "tags": [TAG, usecase.name, name],
        "start_date": datetime(usecase.history_start.year, 1, 1, tzinfo=usecase.zone),
        "catchup": False,
        "max_active_runs": 16,
        "is_paused_upon_creation": False,
        "on_failure_callback": run_failed,
        "owner_links": {usecase.owner: usecase.owner_link} if usecase.owner_link else {},
        "default_args": {
            "owner": usecase.owner,
            "pre_execute": refuse_unknown_params,
            "retries": 3,
            "retry_delay": timedelta(seconds=settings().retry_seconds),
            "retry_policy": retry_policy(),
            # Of each try; a question to a person has a timeout of its own, and waits outside of any task.
            "execution_timeout": timedelta(hours=settings().task_hours),
            # Many kilobytes of JSON, which XCom has anyway; stages log what they did in a line each.
            "show_return_value_in_logs": False,
        },
        **more,
    }


IN_AIRFLOW = "\n#### In Airflow\n\n"
"""What parts a DAG's own words, which `dags/README.md` has, from what Airflow's UI shows below them."""


def _in_airflow(usecase: UseCase, params: Mapping[str, Param]) -> str:
    example = json.dumps(_example(usecase, params))
    runbook = address("nightshift/docs/runbooks/run_failed.md")
    pages = address(f"plugin/nightshift?usecase={usecase.name}")
    trigger = f"**To trigger it:** `{example}`. " if params else ""
    return (
        f"{trigger}**When it fails:** [what to do]({runbook}). **What came of it:** [Nightshift]({pages}).\n"
    )


def _example(usecase: UseCase, params: Mapping[str, Param]) -> dict[str, Any]:
    """Return a configuration that a run may be given: days, and what has no default."""
    first = usecase.history_start
    days = {"start": first, "end": first + timedelta(days=30)}
    found: dict[str, Any] = {}
    for name, param in params.items():
        if param.schema.get("format") == "date" and name != "effective_from":
            found[name] = f"{days.get(name, first + timedelta(days=31))}"
        elif not param.has_value and "null" not in param.schema.get("type", ()):
            found[name] = "say why"
    return found


def _first_sentence(doc: str) -> str:
    text = " ".join(line for line in doc.splitlines() if not line.startswith("#"))
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def nightly_deadline(usecase: UseCase) -> DeadlineAlert:
    """Return the alert for a run still unfinished at the use case's SLA.

    It hangs on the time of queueing, for runs with a partition key have no logical date.
    """
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=usecase.schedule.sla_minutes),
        callback=AsyncCallback(deadline_missed, kwargs={"usecase": usecase.name}),
    )
