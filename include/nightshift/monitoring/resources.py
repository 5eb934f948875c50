"""What the work for a night used and cost: a record a task, folded into tables, priced, and held to a budget.

Tasks of one night end at about the same time in processes of their own. Each leaves a small object that is
named by its content; ``fold`` puts them into one partition of ``monitoring_resources`` for the night (a row a
try of a task) and one row of ``monitoring_costs``. Timing is the subject of these two tables: work that is
done again adds to them, as it added to the bill. Folding again adds nothing.

A night costs what the chain that runs every night used (``NIGHTLY``). What else was done for it, such as a
training, and what was done for a range of days at once, stand beside it: nights are compared without them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from math import fsum
from statistics import median
from typing import Any, Literal

import pyarrow as pa

from nightshift.lake import tables
from nightshift.lake.store import get_many, open_store
from nightshift.partition import parse_partition
from nightshift.settings import Prices, settings
from nightshift.usage import Usage
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "monitoring_resources"
COSTS = "monitoring_costs"

NIGHTLY = ("ingest", "features", "score", "monitor")
"""The DAGs that run for each night; see DESIGN, section 5."""

_KEY = ("dag", "task", "map_index", "run", "attempt")
# Whoever folds has read a record before it is that old.
_KEPT = timedelta(days=1)


State = Literal["success", "failed", "skipped"]
"""How the try of a task ended."""


@dataclass(frozen=True)
class Work:
    """Which work was measured.

    Attributes:
        usecase: Name of the use case.
        partition: The night that it was for; of a range of days, the last one.
        days: How many days it was for.
        dag: Name of the DAG within the use case; of work outside Airflow, of whatever ran it.
        task: The task.
        map_index: Which of a mapped task; -1 for a task that is not mapped.
        run: Id of the run.
        attempt: Which try, from 1 on.
        state: How it ended.
    """

    usecase: str
    partition: date
    dag: str
    task: str
    days: int = 1
    map_index: int = -1
    run: str = ""
    attempt: int = 1
    state: State = "success"


@dataclass(frozen=True)
class NightCost:
    """What one night used and cost.

    Attributes:
        tasks: Tries of tasks, of everything that was done for the night.
        seconds: Their seconds, which overlap.
        cpu_seconds: Their processor time.
        gb_hours: Peak memory times time.
        gpu_seconds: How long they held a GPU.
        predictions: Rows that are published for the night.
        night: What the nightly chain cost.
        other: What else was done for this night: training, backtests, ranges of one day.
        ranges: What was done for ranges of days that end here: bootstrap, rebuild.
        per_thousand: Cost of the nightly chain for 1,000 predictions; None without predictions.
        by_dag: Cost of each DAG.
        prices: Prices that these costs were reckoned with.
    """

    partition: date
    tasks: int
    seconds: float
    cpu_seconds: float
    gb_hours: float
    gpu_seconds: float
    predictions: int
    night: float
    other: float
    ranges: float
    per_thousand: float | None
    by_dag: dict[str, float]
    prices: Prices


def record(work: Work, used: Usage) -> None:
    """Keep what a piece of work used until ``fold`` takes it up."""
    content = json.dumps({**asdict(work), **asdict(used)}, default=str, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    open_store().put(f"{_folder(work.usecase)}{work.partition}/{digest}.json", content)


def fold(uc: UseCase, night: date) -> list[NightCost]:
    """Put what was recorded for nights up to ``night`` into the tables, and price it.

    What is recorded for later days waits for their own night, and what is recorded for days before the first
    or after the newest one with published features waits until there are some: a run for a day that does not
    exist may have been tried by mistake, and no table may begin to hold that day.

    Returns:
        The cost of every night that records are kept of, the oldest first.
    """
    recorded: dict[date, list[dict[str, Any]]] = {}
    published = tables.partition_versions(uc, "features")
    if not published:
        return []
    first, last = min(published), min(night, max(published))
    keys = [key for key in open_store().list(_folder(uc.name)) if first <= _day(key) <= last]
    for key, content in zip(keys, get_many(keys), strict=True):
        recorded.setdefault(_day(key), []).append(_row(json.loads(content)))
    if not recorded:
        return []
    days = sorted(recorded)
    kept: dict[date, list[dict[str, Any]]] = {}
    for row in tables.read_partitions(uc, LAYER, days[0], days[-1]).to_pylist():
        kept.setdefault(row["partition"], []).append(row)
    whole = {day: _merged(kept.get(day, []), recorded[day]) for day in days}
    tables.replace_partitions(
        uc, LAYER, {day: pa.Table.from_pylist(rows, _SCHEMA) for day, rows in whole.items()}, _KEY
    )
    predictions = tables.partition_versions(uc, "predictions")
    prices = settings().prices
    found = [
        price(day, whole[day], predictions[day].rows if day in predictions else 0, prices) for day in days
    ]
    tables.replace_partitions(uc, COSTS, {cost.partition: _cost_table(cost) for cost in found}, ["partition"])
    return found


def price(day: date, rows: Sequence[Mapping[str, Any]], predictions: int, prices: Prices) -> NightCost:
    """Return what the work in ``rows`` (as in ``monitoring_resources``) cost.

    CPU-hours used, memory at its peak for as long as the task took, and hours that a GPU was held, each at
    its price. A machine that stands idle costs money, too, and is in none of these.
    """
    by_dag: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {"night": [], "other": [], "ranges": []}
    for row in rows:
        cost = (
            row["cpu_seconds"] / 3600 * prices.cpu_hour
            + _gb_hours(row) * prices.gb_hour
            + (row["gpu_seconds"] or 0.0) / 3600 * prices.gpu_hour
        )
        by_dag.setdefault(row["dag"], []).append(cost)
        part = "ranges" if row["days"] > 1 else "night" if row["dag"] in NIGHTLY else "other"
        parts[part].append(cost)
    # fsum gives the same sum in whatever order the rows come.
    night = fsum(parts["night"])
    return NightCost(
        partition=day,
        tasks=len(rows),
        seconds=fsum(row["seconds"] for row in rows),
        cpu_seconds=fsum(row["cpu_seconds"] for row in rows),
        gb_hours=fsum(_gb_hours(row) for row in rows),
        gpu_seconds=fsum(row["gpu_seconds"] or 0.0 for row in rows),
        predictions=predictions,
        night=night,
        other=fsum(parts["other"]),
        ranges=fsum(parts["ranges"]),
        per_thousand=night / predictions * 1000 if predictions else None,
        by_dag={dag: fsum(costs) for dag, costs in sorted(by_dag.items())},
        prices=prices,
    )


def costs(uc: UseCase, start: date, end: date) -> dict[date, NightCost]:
    """Return the kept cost of each night from ``start`` to ``end``, the oldest first."""
    found = {}
    for row in tables.read_partitions(uc, COSTS, start, end).to_pylist():
        row |= {"by_dag": json.loads(row["by_dag"]), "prices": Prices.model_validate_json(row["prices"])}
        found[row["partition"]] = NightCost(**{field.name: row[field.name] for field in fields(NightCost)})
    return found


def over_budget(uc: UseCase, cost: NightCost) -> str | None:
    """Say why a night costs more than ``uc.budget`` allows; None when it does not."""
    budget, unit = uc.budget, cost.prices.unit
    if budget.night is not None and cost.night + cost.other > budget.night:
        return (
            f"the night of {cost.partition} cost {cost.night + cost.other:.4g} {unit}, more than the budget "
            f"of {budget.night:g} ({_largest(cost)})"
        )
    if (
        budget.per_thousand is not None
        and cost.per_thousand is not None
        and cost.per_thousand > budget.per_thousand
    ):
        return (
            f"1,000 predictions of {cost.partition} cost {cost.per_thousand:.4g} {unit}, more than the "
            f"budget of {budget.per_thousand:g} ({_largest(cost)})"
        )
    before = costs(
        uc, cost.partition - timedelta(days=budget.window_nights), cost.partition - timedelta(days=1)
    )
    usual = [
        earlier.night for earlier in before.values() if earlier.night > 0 and earlier.prices == cost.prices
    ]
    if len(usual) < budget.min_nights or cost.night < budget.floor:
        return None
    middle = median(usual)
    if cost.night > budget.ratio * middle:
        return (
            f"the night of {cost.partition} cost {cost.night:.4g} {unit}, {cost.night / middle:.1f} times "
            f"the median of the {len(usual)} nights before ({middle:.4g}; {_largest(cost)})"
        )
    return None


def sweep(uc: UseCase) -> int:
    """Remove records that are in the table and older than a day; return how many."""
    store = open_store()
    limit = datetime.now(UTC) - _KEPT
    old = [key for key, when in store.modified(_folder(uc.name)).items() if when < limit]
    if not old:
        return 0
    days = [_day(key) for key in old]
    folded = {
        (row["partition"], *(row[name] for name in _KEY))
        for row in tables.read_partitions(uc, LAYER, min(days), max(days)).to_pylist()
    }
    removed = 0
    for key, content in zip(old, get_many(old), strict=True):
        row = _row(json.loads(content))
        if (row["partition"], *(row[name] for name in _KEY)) in folded:
            store.delete(key)
            removed += 1
    return removed


_SCHEMA = pa.schema(
    [
        ("partition", pa.date32()),
        ("dag", pa.string()),
        ("task", pa.string()),
        ("map_index", pa.int64()),
        ("run", pa.string()),
        ("attempt", pa.int64()),
        ("state", pa.string()),
        ("days", pa.int64()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
        ("peak_memory_mb", pa.float64()),
        ("rows", pa.int64()),
        ("gpu_seconds", pa.float64()),
        ("gpu_memory_mb", pa.float64()),
        ("gpu_utilisation", pa.float64()),
    ]
)


def _folder(usecase: str) -> str:
    return f"usage/{usecase}/"


def _day(key: str) -> date:
    return parse_partition(key.split("/")[-2])


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: record[name] for name in _SCHEMA.names},
        "partition": date.fromisoformat(record["partition"]),
        "started_at": datetime.fromisoformat(record["started_at"]),
    }


def _merged(*several: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each try of a task once; where it was recorded twice, as it began last."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted((row for rows in several for row in rows), key=lambda row: row["started_at"]):
        found[tuple(row[name] for name in _KEY)] = row
    return list(found.values())


def _gb_hours(row: Mapping[str, Any]) -> float:
    return float(row["peak_memory_mb"]) / 1024 * float(row["seconds"]) / 3600


def _largest(cost: NightCost) -> str:
    most = sorted(cost.by_dag.items(), key=lambda item: -item[1])[:3]
    return "most of it: " + ", ".join(f"{dag} {spent:.4g}" for dag, spent in most)


def _cost_table(cost: NightCost) -> pa.Table:
    row = {
        **{field.name: getattr(cost, field.name) for field in fields(cost)},
        "by_dag": json.dumps(cost.by_dag, sort_keys=True),
        "prices": cost.prices.model_dump_json(),
    }
    numbers = (
        "seconds",
        "cpu_seconds",
        "gb_hours",
        "gpu_seconds",
        "night",
        "other",
        "ranges",
        "per_thousand",
    )
    schema = pa.schema(
        [
            ("partition", pa.date32()),
            ("tasks", pa.int64()),
            ("predictions", pa.int64()),
            *((name, pa.float64()) for name in numbers),
            ("by_dag", pa.string()),
            ("prices", pa.string()),
        ]
    )
    return pa.Table.from_pylist([row], schema)
