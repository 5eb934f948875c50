"""Notes in Airflow's UI: what each task came to, and its run, so that one page tells how a night went.

Tasks put their outcome into XCom: what they said (``metering``), and why they failed (a hook that Airflow
calls in their process). When a run ends, Airflow's scheduler calls the other hooks, which write the notes
within the transaction that ends the run. A note that a person wrote stays as it is. Nothing here fails a run:
all of it is undone where a part fails, and logged.

The scheduler forks tasks, which are to see each edit of Nightshift: nothing else of it is imported here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow.listeners import hookimpl
from airflow.providers.common.compat.sdk import redact
from airflow.sdk import get_current_context

log = logging.getLogger(__name__)

TAG = "nightshift"
"""The tag of the DAGs whose runs get notes."""

OUTCOME = "outcome"
"""The XCom key under which a task tells what came of it."""

_LONGEST = 1000  # characters, of a note in Airflow's database


@dataclass(frozen=True)
class Ended:
    """A task instance of a run that has ended. ``outcome``: its own words, "" when it left none."""

    task: str
    map_index: int
    state: str
    outcome: str


def note(text: str, longest: int = _LONGEST) -> str:
    """Return ``text``, cut where it is longer than a note may be."""
    return text if len(text) <= longest else text[: longest - 2].rstrip() + " …"


def keep_outcome(lines: Sequence[str]) -> None:
    """Keep what came of the task that runs; called again, it adds to that."""
    try:
        _keep(get_current_context()["ti"], lines)
    except Exception:
        log.warning("what came of this task could not be kept for its note", exc_info=True)


def _keep(ti: Any, lines: Sequence[str]) -> None:
    _said.setdefault(ti.id, []).extend(filter(None, lines))
    if _said[ti.id]:
        # A log masks by itself.
        ti.xcom_push(OUTCOME, note(str(redact("\n".join(_said[ti.id])))))


# By task instance: a process runs one, in tests several.
_said: dict[Any, list[str]] = {}


@hookimpl
def on_task_instance_failed(task_instance: Any, error: BaseException | str | None) -> None:
    """Keep why a task failed, also when that was before its own code began."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    # Scheduler and API server call this, too, about tasks that they find lost, or that a person marks failed.
    if error is not None and isinstance(task_instance, RuntimeTaskInstance):
        from nightshift.errors import NightshiftError

        ours = isinstance(error, NightshiftError | str)
        why = str(error) if ours else f"{type(error).__name__}: {error}"
        try:
            _keep(task_instance, [why])
        except Exception:
            log.warning("why this task failed could not be kept for its note", exc_info=True)


def run_note(ended: Sequence[Ended]) -> str:
    """Return the note of a run, in Markdown: what failed first, with its reason, then what the others did.

    Lists of runs show the first line alone: of a good run, what the last task said.

    Args:
        ended: The run's task instances, in the order in which they began.
    """
    said = [one for one in ended if one.state in ("success", "skipped") and one.outcome]
    failed = [one for one in ended if one.state == "failed"]
    lines = [f"**{_name(one)} failed**: {_sentence(one.outcome) or _SILENT}" for one in failed[:3]]
    if len(failed) > 3:
        lines.append(f"**and {len(failed) - 3} more failed**")
    if held := sorted({one.task for one in ended if one.state == "upstream_failed"}):
        lines.append(f"**not run because of that**: {', '.join(held)}")
    elif not failed and said:
        lines.append(_sentence(said[-1].outcome))
    done = dict.fromkeys(one.task for one in said)
    lines += [_of_task(task, [one for one in ended if one.task == task]) for task in done]
    return _whole_lines(lines)


_SILENT = "it left no word, as a task does that is killed or loses its worker; its log may tell"


def _of_task(task: str, instances: Sequence[Ended]) -> str:
    if len(instances) == 1:
        (one,) = instances
        said = _sentence(one.outcome)
        return f"{task}: {said}" if one.state == "success" and said else f"{task}: {_state(one, said)}"
    states = Counter(one.state for one in instances)
    return f"{task}: {', '.join(f'{count} {state}' for state, count in states.items())}"


def _state(one: Ended, said: str) -> str:
    return f"{one.state}, {said}" if said else one.state


def _name(one: Ended) -> str:
    return one.task if one.map_index < 0 else f"{one.task} [{one.map_index}]"


def _sentence(outcome: str) -> str:
    return "; ".join(line.strip() for line in outcome.splitlines() if line.strip())


def _whole_lines(lines: Iterable[str]) -> str:
    """Return a line, and a list of as many more in Markdown as a note takes, the long ones cut."""
    items = [
        f"{'- ' if number else ''}{note(line, _LONGEST // 2)}" + ("" if number else "\n")
        for number, line in enumerate(lines)
    ]
    whole = ""
    for number, item in enumerate(items):
        rest = f"- and {len(items) - number} more, see the tasks' own notes\n"
        if len(whole) + len(item) + len(rest) + 1 > _LONGEST:
            return whole + rest
        whole += f"{item}\n"
    return whole


@hookimpl
def on_dag_run_success(dag_run: Any) -> None:
    """Write the notes of a run that ended well."""
    _write(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: Any) -> None:
    """Write the notes of a run that failed."""
    _write(dag_run)


def _write(dag_run: Any) -> None:
    try:
        _write_notes(dag_run)
    except Exception:
        log.exception("no notes of %s, run %s", dag_run.dag_id, dag_run.run_id)


def _write_notes(dag_run: Any) -> None:
    from airflow.models.dag import DagTag
    from airflow.models.dagrun import DagRunNote
    from airflow.models.taskinstance import TaskInstance, TaskInstanceNote
    from airflow.models.xcom import XComModel
    from sqlalchemy import and_, delete, insert, select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    session.flush()  # The scheduler may have states in hand that the database has not.
    # A savepoint of the connection: the scheduler forbids commits of its session, and counts one of the
    # session's own savepoints as such.
    connection = session.connection()
    with connection.begin_nested():
        ours = select(DagTag.name).where(DagTag.dag_id == dag_run.dag_id, DagTag.name == TAG)
        if connection.scalar(ours) is None:
            return
        found = connection.execute(
            select(
                TaskInstance.id,
                TaskInstance.task_id,
                TaskInstance.map_index,
                TaskInstance.state,
                XComModel.value,
            )
            .outerjoin(
                XComModel,
                and_(
                    XComModel.dag_run_id == dag_run.id,
                    XComModel.task_id == TaskInstance.task_id,
                    XComModel.map_index == TaskInstance.map_index,
                    XComModel.key == OUTCOME,
                ),
            )
            .where(TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id == dag_run.run_id)
            .order_by(TaskInstance.start_date.nulls_last(), TaskInstance.task_id, TaskInstance.map_index)
        ).all()
        ended = [
            Ended(row.task_id, row.map_index, str(row.state or ""), str(row.value or "")) for row in found
        ]
        of_run = {"dag_run_id": dag_run.id, "content": run_note(ended)}
        of_tasks = [
            {"ti_id": row.id, "content": one.outcome}
            for row, one in zip(found, ended, strict=True)
            if one.outcome
        ]
        for model, column, notes in (
            (DagRunNote, DagRunNote.dag_run_id, [of_run] if of_run["content"] else []),
            (TaskInstanceNote, TaskInstanceNote.ti_id, of_tasks),
        ):
            wanted = {new[column.key]: new for new in notes}
            if not wanted:
                continue
            # Those of persons have a user.
            connection.execute(delete(model).where(column.in_(wanted), model.user_id.is_(None)))
            written = set(connection.scalars(select(column).where(column.in_(wanted))))
            if fresh := [new for identity, new in wanted.items() if identity not in written]:
                connection.execute(insert(model), fresh)
