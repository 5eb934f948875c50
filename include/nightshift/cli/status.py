"""What exists, computed from manifests, table logs and append-only logs: no service and no lock is needed."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

from nightshift.errors import DataError
from nightshift.monitoring.alerting import read_alerts
from nightshift.services import stack
from nightshift.usecase import UseCase, load_usecase, usecase_names

_ALERT_DAYS = 7
_ALERTS_SHOWN = 3


def collect() -> dict[str, Any]:
    """Return the whole status as JSON-able values: the contract of ``nightshift status --json``.

    A use case whose files are not valid appears with the key ``error`` alone.
    """
    usecases: dict[str, Any] = {}
    for name in usecase_names():
        try:
            usecases[name] = of_usecase(load_usecase(name))
        except DataError as error:
            usecases[name] = {"error": str(error)}
    processes = {state.name: {"up": state.up, "pid": state.pid, "log": state.log} for state in stack.states()}
    return {
        "usecases": usecases,
        "services": stack.addresses(),
        "serving": stack.serving_database(),
        "processes": processes,
    }


def of_usecase(uc: UseCase) -> dict[str, Any]:
    """Return the status of one use case."""
    from nightshift.monitoring import requests

    predictions = _layer(uc, "predictions")
    return {
        "raw": _raw(uc),
        "features": _layer(uc, "features"),
        "champion": _champion(uc),
        "predictions": {**predictions, "observed": _observed(uc)},
        "drift": _drift(uc),
        "retrain_requests": len(requests.read(uc)),
        "alerts": _alerts(uc),
    }


def _raw(uc: UseCase) -> dict[str, Any]:
    from nightshift.lake import raw
    from nightshift.lake.hashing import combine_hashes

    current = {
        f"{source}/{table}/{day}": manifest
        for source, table, _ in uc.tables()
        for day, manifest in raw.current_many(uc, source, table).items()
    }
    manifests = current.values()
    return {
        "partitions": len(current),
        "rows_in": sum(manifest.rows_in for manifest in manifests),
        "rows_accepted": sum(manifest.rows_accepted for manifest in manifests),
        "rows_quarantined": sum(manifest.rows_quarantined for manifest in manifests),
        "content_hash": combine_hashes((key, manifest.content_hash) for key, manifest in current.items()),
    }


def _layer(uc: UseCase, layer: str) -> dict[str, Any]:
    from nightshift.lake import tables
    from nightshift.lake.hashing import combine_hashes

    versions = tables.partition_versions(uc, layer)
    return {
        "partitions": len(versions),
        "rows": sum(version.rows for version in versions.values()),
        "content_hash": combine_hashes((str(day), version.content_hash) for day, version in versions.items()),
    }


def _champion(uc: UseCase) -> dict[str, Any] | None:
    from nightshift.registry import deployments

    deployment = deployments.newest(uc)
    if deployment is None:
        return None
    return {
        "version": deployment.version,
        "trainer": deployment.trainer,
        "trained_through": str(deployment.trained_through),
        "effective_from": str(deployment.effective_from),
        "metrics": _finite(deployment.metrics),
    }


def _observed(uc: UseCase) -> dict[str, Any]:
    from nightshift.monitoring import truth

    return {str(day): _finite(metrics) for day, metrics in truth.observed(uc).items()}


def _drift(uc: UseCase) -> dict[str, Any]:
    from nightshift.monitoring import drift

    results = drift.results(uc, uc.history_start, date.max)
    return {
        str(day): {"verdict": result.verdict, "columns": list(result.columns), "note": result.note}
        for day, result in results.items()
    }


def _alerts(uc: UseCase) -> dict[str, Any]:
    since = datetime.now(UTC) - timedelta(days=_ALERT_DAYS)
    recent = read_alerts(uc.name, since)
    return {
        "days": _ALERT_DAYS,
        "number": len(recent),
        "newest": [alert.as_json() for alert in recent[:_ALERTS_SHOWN]],
    }


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a metric the rows do not define is null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
