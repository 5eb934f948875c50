"""The form of a training can ask a person, and nobody is asked about what is decided already."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightshift.lake.append_log import append
from nightshift.registry.records import Candidate, Decision

NIGHT = date(2013, 6, 30)
CANDIDATE = Candidate(
    usecase="flight_delays",
    trainer="xgboost",
    run_id="c" * 32,
    model_uri="models:/m-1",
    content_hash="a" * 64,
    snapshot_hash="b" * 64,
    trained_night=NIGHT,
    trained_through=NIGHT,
    metrics={},
)


def test_the_form_cannot_switch_off_a_manual_policy(dagbag: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    form = dagbag.dags["flight_delays.train"].params
    for allowed in (None, "manual"):
        assert form.get_param("approval").resolve(allowed) == allowed
    with pytest.raises(ParamValidationError):
        form.get_param("approval").resolve("automatic")


def test_nobody_is_asked_about_a_champion(airflow_home: None, home: Path, flight_delays: Any) -> None:
    from nightshift.orchestration.approval import ApproveChallenger

    facts = CANDIDATE.model_dump(mode="json", exclude={"model_uri", "content_hash"})
    entry = facts | {
        "action": "promote",
        "version": "1",
        "previous_version": None,
        "model_hash": CANDIDATE.content_hash,
        "effective_from": "2013-07-01",
        "reasons": [],
        "by": "gate",
        "recorded_at": "2026-11-20T10:00:00Z",
    }
    append("deployments/flight_delays", entry)
    decision = Decision(promote=True, candidate=CANDIDATE, metrics={}, reasons=[])
    task = ApproveChallenger(
        task_id="approve", usecase=flight_delays, decision=decision.model_dump(mode="json")
    )
    assert task.execute({"params": {"approval": "manual"}}) is None
