"""How the commands show their findings to people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from nightshift.services import airflow, stack
from nightshift.services.checks import Finding

# Where nobody looks on, the width of a terminal means nothing.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def print_addresses() -> None:
    """Print where Airflow, MLflow and the predictions answer, as far as they run, and the logins."""
    found, serving = stack.addresses(), stack.serving_database()
    if found["airflow"]:
        login = f"user {airflow.ADMIN}, password {airflow.admin_password()}"
        console.print(f"Airflow     {found['airflow']}  {login}")
    if found["mlflow"]:
        console.print(f"MLflow      {found['mlflow']}  no login")
    if serving:
        console.print(
            f"PostgreSQL  {serving['host']}:{serving['port']}  database {serving['database']}, "
            f"user {serving['user']}, password in {serving['password_file'] or 'NIGHTSHIFT_POSTGRES_URL'}"
        )


def print_alerts(alerts: Iterable[Mapping[str, Any]]) -> None:
    """Print alerts, as `status --json` describes them: when, what about and what, and below it the cure."""
    for alert in alerts:
        when = datetime.fromisoformat(alert["last_at"])
        times = f" ({alert['count']} times)" if alert["count"] > 1 else ""
        about = f"{alert['kind']} {alert['subject']}".rstrip()
        console.print(f"{when:%Y-%m-%d %H:%M} UTC  {alert['severity']}  {about}{times}", markup=False)
        console.print(f"  {alert['message']}", markup=False)
        if alert["link"]:
            console.print(f"  look at: {alert['link']}", markup=False)
        console.print(f"  cure: {alert['cure']} ({alert['runbook']})", markup=False)
        if alert["silenced"]:
            console.print(f"  silenced {alert['silenced']}", markup=False)
        for delivery in alert.get("deliveries", ()):
            failed = f" after {delivery['tries']} tries: {delivery['error']}" if delivery["error"] else ""
            console.print(f"  {delivery['to']}: {delivery['state']}{failed}", markup=False)


def print_finding(finding: Finding) -> None:
    """Print one check of `doctor`, with its cure when it failed."""
    mark = "[green]ok  [/]" if finding.passed else "[red]FAIL[/]"
    console.print(f"{mark} {finding.check}: ", end="")
    console.print(finding.detail, markup=False)
    if finding.cure:
        console.print(f"     cure: {finding.cure}", markup=False)


def print_status(found: dict[str, Any]) -> None:
    """Print the status of every use case and service."""
    for name, usecase in found["usecases"].items():
        if "error" in usecase:
            console.print(f"{name}: {usecase['error']}", markup=False)
        else:
            console.print(usecase_table(name, usecase))
            print_alerts(usecase["alerts"]["newest"])
    for name, process in found["processes"].items():
        console.print(f"{name:<24} {'up, pid ' + str(process['pid']) if process['up'] else 'down'}")
    print_addresses()


def usecase_table(name: str, status: dict[str, Any]) -> Table:
    """Return the summary of one use case, as `status --json` describes it."""
    table = Table(title=name, show_header=False, title_justify="left")
    raw, features, champion = status["raw"], status["features"], status["champion"]
    table.add_row(
        "raw",
        f"{raw['partitions']} partitions; rows: {raw['rows_in']} landed = {raw['rows_accepted']} accepted "
        f"+ {raw['rows_quarantined']} quarantined",
    )
    table.add_row("features", f"{features['partitions']} partitions, {features['rows']} rows")
    if champion:
        metrics = ", ".join(
            f"{key} {champion['metrics'][key]:.3f}"
            for key in ("roc_auc", "pr_auc", "brier", "ece")
            if champion["metrics"].get(key) is not None
        )
        table.add_row(
            "champion",
            f"version {champion['version']} ({champion['trainer']}), trained through "
            f"{champion['trained_through']}; holdout: {metrics}",
        )
    else:
        table.add_row("champion", "none yet")
    predictions = status["predictions"]
    table.add_row("predictions", f"{predictions['partitions']} partitions, {predictions['rows']} rows")
    for day in sorted({*predictions["observed"], *status["drift"]}):
        table.add_row(f"  {day}", _night(predictions["observed"].get(day), status["drift"].get(day)))
    table.add_row("retrain requests", str(status["retrain_requests"]))
    alerts = status["alerts"]
    table.add_row(
        "alerts",
        f"{alerts['number']} in the last {alerts['days']} days"
        + ("; `nightshift alerts` lists all" if alerts["number"] else ""),
    )
    return table


def _night(observed: dict[str, Any] | None, drift: dict[str, Any] | None) -> str:
    verdict = f"drift: {drift['note'] or drift['verdict']}" if drift else "drift: not checked"
    if not observed:
        return f"{verdict}; truth not known yet"
    area = observed.get("roc_auc")
    auc = "undefined" if area is None else f"{area:.3f}"
    return f"{verdict}; observed AUC {auc} on {observed['rows']} rows"
