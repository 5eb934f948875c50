"""``@task`` that also measures: what each try of a task used is logged, and recorded for its night.

What came of it, in words, goes to XCom, from where ``notes`` takes it to the notes of the task and its run.

Metering never fails a task: what cannot be measured or recorded is logged. A task whose process is killed
leaves no record, and neither does one whose run is about no day (``watch``, ``maintain``).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from airflow.sdk import get_current_context
from airflow.sdk import task as airflow_task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.errors import DataError
from nightshift.orchestration.links import linked
from nightshift.orchestration.notes import keep_outcome
from nightshift.orchestration.params import window
from nightshift.usage import Usage, measure

log = logging.getLogger(__name__)

State = Literal["success", "failed", "skipped"]


class _MeteredTask:
    """Airflow's ``task``, as ``@task``, ``@task(...)`` and ``@task.<kind>(...)``, each function metered."""

    def __init__(self, decorator: Any) -> None:
        self._decorator = decorator

    def __getattr__(self, name: str) -> _MeteredTask:
        if name.startswith("_"):
            raise AttributeError(name)
        return _MeteredTask(getattr(self._decorator, name))

    def __call__(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda given: self._finish(self._decorator(**options)(metered(given)))
        return self._finish(self._decorator(metered(function)))

    @staticmethod
    def _finish(decorated: Any) -> Any:
        decorated.operator_class = linked(decorated.operator_class, decorated.function.__name__)
        return decorated


# To type checkers it is Airflow's own.
if TYPE_CHECKING:
    from airflow.sdk import task as task
else:
    task = _MeteredTask(airflow_task)


def metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` such that each call within a running task records what it used."""

    @functools.wraps(function)
    def body(*arguments: Any, **named: Any) -> Any:
        state: State = "failed"
        try:
            with measure() as meter:
                result = function(*arguments, **named)
            state = "success"
            return result
        except AirflowSkipException as skipped:
            state = "skipped"
            meter.told.append(str(skipped))
            raise
        finally:
            keep_outcome(meter.told)
            _record(meter.usage, state)

    # Airflow looks at what a task returns, by names that mean something where it is defined, not here.
    with suppress(NameError):
        body.__annotations__ = get_type_hints(function)
    return body


def _record(used: Usage | None, state: State) -> None:
    if used is None:
        return
    try:
        context = get_current_context()
        task_instance = context["ti"]
        log.info(
            "%s: %.1f s, %.1f s of CPU, at most %.0f MB%s",
            state,
            used.seconds,
            used.cpu_seconds,
            used.peak_memory_mb,
            f", {used.rows} rows" if used.rows else "",
        )
        try:
            start, end = window()
        except DataError:
            return  # The run is about no day.
        from nightshift.monitoring.resources import Work, record

        usecase, _, dag = task_instance.dag_id.partition(".")
        work = Work(
            usecase=usecase,
            partition=end,
            days=(end - start).days + 1,
            dag=dag,
            task=task_instance.task_id,
            map_index=task_instance.map_index if task_instance.map_index is not None else -1,
            run=task_instance.run_id,
            attempt=task_instance.try_number,
            state=state,
        )
        record(work, used)
    except Exception:
        log.warning("what this task used could not be recorded", exc_info=True)
