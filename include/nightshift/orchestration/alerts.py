"""Telling people: every alert goes to the log and to the lake's append-only alert log."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)


def alert(usecase: str, kind: str, message: str) -> None:
    """Record one alert; ``status`` and the pages read them back."""
    from nightshift.lake.append_log import append

    log.error("ALERT %s %s: %s", usecase, kind, message)
    at = datetime.now(UTC).isoformat()
    append(f"alerts/{usecase}", {"kind": kind, "message": message, "at": at})


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
