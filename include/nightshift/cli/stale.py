"""What rests on older versions than those that count now, and having exactly that built again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from nightshift.cli.output import console
from nightshift.errors import TransientError
from nightshift.monitoring.staleness import Stale, nights
from nightshift.partition import spans
from nightshift.services.airflow_api import AirflowApi
from nightshift.usecase import UseCase

_STAGES = {"features": "features", "predictions": "predictions", "drift": "monitoring", "truth": "monitoring"}


def print_stale(uc: UseCase, stale: Sequence[Stale]) -> None:
    """Print what is stale, a line for each stretch of days, with a reason for its last day."""
    if not stale:
        console.print(f"{uc.name}: nothing is stale")
        return
    table = Table("layer", "partitions", "", "because", title=f"{uc.name}: stale", title_justify="left")
    for layer, items in groupby(stale, key=lambda item: item.layer):
        because = {item.partition: item.because for item in items}
        for first, last in spans(because):
            stretch = f"{first}" if first == last else f"{first} to {last}"
            table.add_row(layer, stretch, str((last - first).days + 1), because[last])
    console.print(table)


def rebuild(uc: UseCase, stale: Sequence[Stale]) -> None:
    """Have `<use case>.rebuild` build again what is stale, and wait until it has.

    Raises:
        TransientError: Airflow cannot be reached, or the run failed.
    """
    work = nights(uc, stale)
    every = [night for of_kind in work.values() for night in of_kind]
    conf = {
        "start": min(every).isoformat(),
        "end": max(every).isoformat(),
        "stages": list(dict.fromkeys(_STAGES[kind] for kind, of_kind in work.items() if of_kind)),
        "only_stale": True,
    }
    with AirflowApi() as api:
        run = api.trigger(f"{uc.name}.rebuild", conf)
        console.print(f"{run.dag_id} runs as {run.run_id}")
        run = api.wait_for_run(run, seconds=24 * 3600)
    if run.state != "success":
        raise TransientError(f"{run.dag_id} {run.run_id} ended as {run.state}: read its failed task's log")
