"""Entries of the deployment log, as version 0.1.0 wrote them: a first champion, a second, and a way back."""

from __future__ import annotations

from typing import Any

from nightshift.lake.append_log import append
from nightshift.registry import states
from nightshift.usecase import UseCase

FIRST: dict[str, Any] = {
    "usecase": "flight_delays",
    "action": "promote",
    "version": "1",
    "previous_version": None,
    "model_hash": "a" * 64,
    "snapshot_hash": "b" * 64,
    "run_id": "c" * 32,
    "trainer": "xgboost",
    "trained_night": "2013-06-30",
    "trained_through": "2013-06-15",
    "effective_from": "2013-07-01",
    "metrics": {"roc_auc": 0.7},
    "reasons": ["there is no champion to beat"],
    "by": "gate",
    "recorded_at": "2026-11-20T10:00:00Z",
}
SECOND = {
    "version": "2",
    "previous_version": "1",
    "model_hash": "d" * 64,
    "trained_night": "2013-07-07",
    "trained_through": "2013-06-22",
    "effective_from": "2013-07-08",
}
BACK = {"action": "rollback", "previous_version": "2", "effective_from": "2013-07-10", "by": "operator"}


def deploy(uc: UseCase, *changes: dict[str, Any]) -> None:
    """Write an entry for each of ``changes`` to the first."""
    for changed in changes:
        append(states.log_name(uc), FIRST | changed)
