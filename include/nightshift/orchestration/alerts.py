"""Telling people: every alert goes to the log and to the lake's append-only alert log.

``nightshift alerts`` and ``nightshift status`` read them from there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)

_CURES = {
    "run_failed": "read the log of its failed task in Airflow's UI: the error there names its own cure",
    "deadline_missed": "open the run in Airflow's UI: the log of a task up for retry says what it waits for",
    "night_late": "find the night's newest run in Airflow's UI; where there is none, trigger `ingest` for it",
    "night_stuck": "mend what its failed run says, then trigger the DAG that failed, with that partition",
}


@dataclass(frozen=True)
class Alert:
    """One alert: when, what, and what to do about it."""

    at: datetime
    kind: str
    message: str
    cure: str


def alert(usecase: str, kind: str, message: str) -> None:
    """Record one alert, for ``read_alerts``."""
    from nightshift.lake.append_log import append

    log.error("ALERT %s %s: %s", usecase, kind, message)
    at = datetime.now(UTC).isoformat()
    append(f"alerts/{usecase}", {"kind": kind, "message": message, "at": at})


def read_alerts(usecase: str) -> list[Alert]:
    """Return every alert of a use case, newest first; times are UTC."""
    from nightshift.lake.append_log import read_log

    return [
        Alert(
            at=datetime.fromisoformat(record["at"]),
            kind=record["kind"],
            message=record["message"],
            cure=_CURES[record["kind"]],
        )
        for record in reversed(read_log(f"alerts/{usecase}"))
    ]


def run_failed(context: dict[str, Any]) -> None:
    """Raise an alert for a failed DAG run (a DAG's ``on_failure_callback``)."""
    run = context["dag_run"]
    key = f", partition {run.partition_key}" if run.partition_key else ""
    alert(run.dag_id.split(".")[0], "run_failed", f"{run.dag_id} failed{key} (run {run.run_id})")


async def deadline_missed(usecase: str, context: dict[str, Any]) -> None:
    """Raise an alert for a run that is still unfinished at its SLA; runs in the triggerer."""
    run = context["dag_run"]
    key = f", partition {run['partition_key']}" if run.get("partition_key") else ""
    message = f"{run['dag_id']} is unfinished at its SLA{key} (run {run['dag_run_id']})"
    await asyncio.to_thread(alert, usecase, "deadline_missed", message)
