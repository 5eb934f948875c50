"""Where Airflow raises alerts, and where they are sent from.

``monitoring.alerting`` records them and knows what is still to be sent. The task ``send_alerts`` of the DAGs
``monitor`` and ``watch`` sends them; the callbacks here do at once, and so do tasks that raise alerts after
``send_alerts``. What fails is tried again by the next hourly ``watch``. Airflow runs ``run_failed`` in a
child of its DAG processor and ``deadline_missed`` in its triggerer: both may ask for connections, neither may
take long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from nightshift.orchestration.links import run_address

log = logging.getLogger(__name__)


def run_failed(context: dict[str, Any]) -> None:
    """Raise an alert for a failed DAG run (a DAG's ``on_failure_callback``)."""
    from nightshift.monitoring.alerting import raise_alert

    run = context["dag_run"]
    usecase, _, name = run.dag_id.partition(".")
    partition = _partition(run.partition_key, run.conf)
    key = f", partition {partition}" if partition else ""
    raise_alert(
        usecase,
        "run_failed",
        # Hourly runs have no key, and one that fails every hour is one alert.
        f"{name} {partition}".rstrip(),
        f"{run.dag_id} failed{key} (run {run.run_id})",
        link=run_address(run.dag_id, run.run_id),
    )
    send_at_once(usecase)


def report_failed(context: dict[str, Any]) -> None:
    """Raise an alert for a night's page that was not written (a task's ``on_failure_callback``).

    The task is a teardown, so its run does not fail with it.
    """
    from nightshift.monitoring.alerting import raise_alert

    run = context["dag_run"]
    usecase = run.dag_id.partition(".")[0]
    day = context["params"].get("partition") or run.partition_key or ""
    raise_alert(
        usecase,
        "run_failed",
        f"report {day}".rstrip(),
        f"the page of the night was not written (run {run.run_id}): {context.get('exception')}",
        link=run_address(run.dag_id, run.run_id),
    )
    send_at_once(usecase)


async def deadline_missed(usecase: str, context: dict[str, Any]) -> None:
    """Raise an alert for a run that is still unfinished at its SLA; runs in the triggerer."""
    await asyncio.to_thread(_deadline_missed, usecase, context["dag_run"])


def _deadline_missed(usecase: str, run: dict[str, Any]) -> None:
    from nightshift.monitoring.alerting import raise_alert

    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    partition = _partition(run.get("partition_key"), run.get("conf"))
    key = f", partition {partition}" if partition else ""
    raise_alert(
        usecase,
        "deadline_missed",
        f"{dag_id.partition('.')[2]} {partition or run_id}",
        f"{dag_id} is unfinished at its SLA{key} (run {run_id})",
        link=run_address(dag_id, run_id),
    )
    send_at_once(usecase)


def _partition(key: str | None, conf: dict[str, Any] | None) -> str:
    """Return the night of a run, which one that was triggered by hand has among its parameters."""
    return key or (conf or {}).get("partition") or ""


def send_at_once(usecase: str) -> None:
    """Tell people without waiting for the next hour; fails on nothing, and what fails is tried again then."""
    from nightshift.monitoring.alerting import deliver
    from nightshift.orchestration.notifiers import send
    from nightshift.usecase import load_usecase

    try:
        deliver(load_usecase(usecase), send)
    except Exception:
        log.exception("alerts of %s wait for the next hour", usecase)
