"""What Prometheus reads: how the nights of each use case stand, in its text format.

Everything is read from the tables of the lake, so a page is right whoever wrote them, also with Airflow's
scheduler down. Delta's log names a table's newest commit in its last file; what was read of a table is kept
until that changes, so a page that is asked for again and again costs a listing of each table's log.

Times of partitions are those of their day's beginning in the use case's own time zone; figures of a night are
those of the newest night that has them, whose day is beside them.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from nightshift.errors import NightshiftError
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase, usecase_names

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""The media type of ``page``."""

_ALERT_DAYS = 7

# name: what it says, and its labels after `usecase`.
_METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "up": ("Whether everything about the use case could be told.", ()),
    "usecase_valid": ("Whether the files of the use case can be read.", ()),
    "usecase_readable": ("Whether its lake can be read; if not, nothing more is told of it.", ()),
    "partitions": ("Partitions that are published.", ("layer",)),
    "newest_partition_timestamp_seconds": ("Beginning of the newest partition's day.", ("layer",)),
    "newest_partition_age_seconds": ("How long ago the newest partition's day began.", ("layer",)),
    "newest_partition_rows": ("Rows of the newest partition.", ("layer",)),
    "champion_info": ("1; the labels say which model is in production.", ("version", "trainer")),
    "champion_trained_through_timestamp_seconds": (
        "Beginning of the last day the champion learned from.",
        (),
    ),
    "drift_verdict": ("1 for the verdict of the newest checked night, else 0.", ("verdict",)),
    "drift_judged": ("Whether the newest checked night could be compared with anything.", ()),
    "drift_columns": ("Columns responsible for the verdict of the newest checked night.", ()),
    "predictions": (
        "Figures of the newest night's predictions: scores, confidence, missing values, outliers.",
        ("figure",),
    ),
    "estimated_quality": ("Figures estimated for the newest night, before its labels.", ("metric",)),
    "scoring_latency_seconds": ("Latency of a chunk when the newest night was scored.", ("quantile",)),
    "scoring_rows_per_second": ("Throughput when the newest night was scored.", ()),
    "scoring_failed_attempts": ("Attempts to score the newest night that failed.", ()),
    "quality": ("Figures observed on the newest judged night.", ("metric",)),
    "quality_partition_timestamp_seconds": ("Beginning of the newest judged night's day.", ()),
    "night_cost": ("Cost of the newest night, in NIGHTSHIFT_PRICES' unit.", ("part", "unit")),
    "cost_per_1000_predictions": (
        "What the chain cost for 1,000 predictions of the newest night.",
        ("unit",),
    ),
    "task_seconds": ("Wall clock of a task's tries for the newest night.", ("dag", "task")),
    "task_cpu_seconds": ("Processor time of a task's tries for the newest night.", ("dag", "task")),
    "task_peak_memory_bytes": ("Highest memory of a task's tries for the newest night.", ("dag", "task")),
    "task_gpu_seconds": ("How long a task held a GPU for the newest night.", ("dag", "task")),
    "task_rows": ("Rows that a task handled for the newest night.", ("dag", "task")),
    "task_failures": ("Tries of a task that failed for the newest night.", ("dag", "task")),
    "alerts": (f"Alerts of the last {_ALERT_DAYS} days.", ("kind",)),
}

Samples = list[tuple[str, tuple[str, ...], float]]


@dataclass(frozen=True)
class _Kept:
    commit: str
    samples: Samples


# By lake, use case and layer.
_kept: dict[tuple[str, str, str], _Kept] = {}
_lock = threading.Lock()


def page(names: Iterable[str] | None = None) -> str:
    """Return the page of these use cases, by default of all, as Prometheus's text format 0.0.4.

    Of a use case whose files are not valid, ``nightshift_usecase_valid 0`` is told; of one whose lake cannot
    be read, ``nightshift_usecase_readable 0``; of both, ``nightshift_up 0``, and nothing else.
    """
    found: Samples = []
    with _lock:
        for name in names if names is not None else usecase_names():
            found += [(metric, (name, *labels), value) for metric, labels, value in _whole(name)]
    registry = CollectorRegistry()
    registry.register(_Collected(found))
    return generate_latest(registry).decode()


class _Collected:
    """Samples as the library collects them."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return nothing: what there is differs from page to page."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each metric that has samples."""
        for name, (says, labels) in _METRICS.items():
            family = GaugeMetricFamily(f"nightshift_{name}", says, labels=("usecase", *labels))
            for metric, values, value in self._samples:
                if metric == name:
                    family.add_metric(values, value)
            if family.samples:
                yield family


def _whole(name: str) -> Samples:
    """Return what is told of a use case; what is wrong with it is logged, and takes nothing from others."""
    try:
        uc = load_usecase(name)
    except Exception as error:
        log.warning("the files of %s cannot be read: %s", name, error, exc_info=not _is_ours(error))
        return [("up", (), 0.0), ("usecase_valid", (), 0.0)]
    valid: Samples = [("usecase_valid", (), 1.0)]
    try:
        return [*valid, ("usecase_readable", (), 1.0), *_of_usecase(uc), ("up", (), 1.0)]
    except Exception as error:
        log.warning("the metrics of %s cannot be read: %s", name, error, exc_info=not _is_ours(error))
        return [*valid, ("usecase_readable", (), 0.0), ("up", (), 0.0)]


def _is_ours(error: Exception) -> bool:
    """Tell whether an error says itself where it is from and what to do."""
    return isinstance(error, NightshiftError)


def _of_usecase(uc: UseCase) -> Samples:
    found: Samples = []
    for layer, commit in _commits(uc).items():
        key = (settings().lake_uri, uc.name, layer)
        kept = _kept.get(key)
        if kept is None or kept.commit != commit:
            read = _READERS.get(layer)
            samples = [*_partitions(uc, layer), *(read(uc) if read else [])]
            kept = _kept[key] = _Kept(commit, samples)
        found += kept.samples
    now = datetime.now(UTC).timestamp()
    ages: Samples = [
        ("newest_partition_age_seconds", labels, now - value)
        for metric, labels, value in found
        if metric == "newest_partition_timestamp_seconds"
    ]
    return [*found, *ages, *_champion(uc), *_alerts(uc)]


def _commits(uc: UseCase) -> dict[str, str]:
    """Return the name of each layer's newest commit; looks at the tables' logs, and not at their files."""
    from nightshift.lake.store import open_store

    store, folder = open_store(), f"tables/{uc.name}/"
    found: dict[str, str] = {}
    for layer in store.folders(folder):
        commits = [key for key in store.list(f"{folder}{layer}/_delta_log/") if key.endswith(".json")]
        if commits:
            found[layer] = commits[-1]
    return found


def _partitions(uc: UseCase, layer: str) -> Samples:
    from nightshift.lake.tables import partition_versions

    versions = partition_versions(uc, layer)
    found: Samples = [("partitions", (layer,), len(versions))]
    if versions:
        newest = max(versions)
        found.append(("newest_partition_timestamp_seconds", (layer,), _begins(uc, newest)))
        found.append(("newest_partition_rows", (layer,), versions[newest].rows))
    return found


def _drift(uc: UseCase) -> Samples:
    from nightshift.monitoring import drift

    day = _newest(uc, drift.LAYER)
    result = drift.results(uc, day, day).get(day) if day else None
    if result is None:
        return []
    verdicts = [("drift_verdict", (name,), float(name == result.verdict)) for name in _VERDICTS]
    return [
        *verdicts,
        ("drift_judged", (), float(not result.note)),
        ("drift_columns", (), len(result.columns)),
    ]


def _predictions(uc: UseCase) -> Samples:
    from nightshift.monitoring import predictions

    day = _newest(uc, predictions.LAYER)
    if day is None:
        return []
    profile = predictions.profiles(uc, day, day)[day]
    return [("predictions", (name,), float(getattr(profile, name))) for name in _FIGURES]


def _scoring(uc: UseCase) -> Samples:
    from nightshift.monitoring import predictions

    day = _newest(uc, predictions.PERFORMANCE)
    if day is None:
        return []
    row = predictions.performance(uc, day, day)[day]
    found: Samples = [("scoring_failed_attempts", (), float(row["attempts_failed"]))]
    # Where every attempt has failed, there is nothing else.
    if row["rows_per_second"] is not None:
        found.append(("scoring_rows_per_second", (), row["rows_per_second"]))
    for quantile, name in (("0.5", "p50_ms"), ("0.95", "p95_ms"), ("0.99", "p99_ms")):
        if row[name] is not None:
            found.append(("scoring_latency_seconds", (quantile,), row[name] / 1000))
    return found


def _estimates(uc: UseCase) -> Samples:
    from nightshift.lake.tables import read_partitions
    from nightshift.monitoring import estimates

    day = _newest(uc, estimates.LAYER)
    rows = read_partitions(uc, estimates.LAYER, day, day).to_pylist() if day else []
    return [
        ("estimated_quality", (name,), row[name])
        for row in rows
        for name in estimates.METRICS
        if row.get(name) is not None
    ]


def _quality(uc: UseCase) -> Samples:
    from nightshift.lake.tables import read_partitions
    from nightshift.monitoring import truth

    day = _newest(uc, truth.OBSERVED)
    if day is None:
        return []
    (row,) = read_partitions(uc, truth.OBSERVED, day, day).to_pylist()
    found: Samples = [
        ("quality", (name,), float(value))
        for name, value in sorted(row.items())
        if isinstance(value, int | float)
    ]
    return [*found, ("quality_partition_timestamp_seconds", (), _begins(uc, day))]


def _costs(uc: UseCase) -> Samples:
    from nightshift.monitoring import resources

    day = _newest(uc, resources.COSTS)
    if day is None:
        return []
    cost = resources.costs(uc, day, day)[day]
    unit = cost.prices.unit
    found: Samples = [
        ("night_cost", (part, unit), value)
        for part, value in (("night", cost.night), ("other", cost.other), ("ranges", cost.ranges))
    ]
    if cost.per_thousand is not None:
        found.append(("cost_per_1000_predictions", (unit,), cost.per_thousand))
    return found


def _tasks(uc: UseCase) -> Samples:
    from nightshift.lake.tables import read_partitions
    from nightshift.monitoring import resources

    day = _newest(uc, resources.LAYER)
    rows = read_partitions(uc, resources.LAYER, day, day).to_pylist() if day else []
    tasks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        tasks.setdefault((row["dag"], row["task"]), []).append(row)
    found: Samples = []
    for task, tries in sorted(tasks.items()):
        found += [
            ("task_seconds", task, sum(row["seconds"] for row in tries)),
            ("task_cpu_seconds", task, sum(row["cpu_seconds"] for row in tries)),
            ("task_peak_memory_bytes", task, max(row["peak_memory_mb"] for row in tries) * 1024 * 1024),
            ("task_rows", task, sum(row["rows"] for row in tries)),
            ("task_failures", task, sum(row["state"] == "failed" for row in tries)),
        ]
        if any(row["gpu_seconds"] is not None for row in tries):
            found.append(("task_gpu_seconds", task, sum(row["gpu_seconds"] or 0.0 for row in tries)))
    return found


def _champion(uc: UseCase) -> Samples:
    from nightshift.registry import deployments

    deployment = deployments.newest(uc)
    if deployment is None:
        return []
    return [
        ("champion_info", (deployment.version, deployment.trainer), 1.0),
        ("champion_trained_through_timestamp_seconds", (), _begins(uc, deployment.trained_through)),
    ]


def _alerts(uc: UseCase) -> Samples:
    from nightshift.monitoring.alerting import read_alerts

    since = datetime.now(UTC) - timedelta(days=_ALERT_DAYS)
    kinds = Counter(alert.kind for alert in read_alerts(uc.name, since))
    return [("alerts", (kind,), float(number)) for kind, number in sorted(kinds.items())]


def _newest(uc: UseCase, layer: str) -> date | None:
    from nightshift.lake.tables import partition_versions

    return max(partition_versions(uc, layer), default=None)


def _begins(uc: UseCase, day: date) -> float:
    return datetime.combine(day, time(), tzinfo=uc.zone).timestamp()


_VERDICTS = ("quiet", "watch", "drift")
_FIGURES = (
    "mean",
    "deviation",
    "positive_rate",
    "entropy",
    "margin",
    "rows_missing",
    "rows_outside",
)
# What is read of a layer beside its partitions. A layer that is not there has nothing to tell.
_READERS: dict[str, Callable[[UseCase], Samples]] = {
    "monitoring": _drift,
    "monitoring_observed": _quality,
    "monitoring_predictions": _predictions,
    "monitoring_performance": _scoring,
    "monitoring_estimates": _estimates,
    "monitoring_costs": _costs,
    "monitoring_resources": _tasks,
}
