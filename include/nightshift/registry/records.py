"""What travels from a training to the deployment log, as plain values."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_Record):
    """A trained and logged model that nobody has judged yet.

    ``metrics`` are of the validation rows; ``trained_night`` and ``trained_through`` are as in ``Model``.
    """

    usecase: str
    trainer: str
    run_id: str
    model_uri: str
    content_hash: str
    snapshot_hash: str
    trained_night: date
    trained_through: date
    metrics: dict[str, float]


class Decision(_Record):
    """The gate's answer for the candidate put forward, with its reasons in words.

    ``metrics`` are those of the holdout rows; empty for a champion that is merely confirmed.
    """

    promote: bool
    candidate: Candidate
    metrics: dict[str, float]
    reasons: list[str]

    @property
    def run_id(self) -> str:
        """MLflow run of the candidate."""
        return self.candidate.run_id


class Deployment(_Record):
    """One entry of the deployment log: from ``effective_from`` on, ``version`` is the champion."""

    usecase: str
    action: Literal["promote", "rollback"]
    version: str
    previous_version: str | None
    model_hash: str
    snapshot_hash: str
    run_id: str
    trainer: str
    trained_night: date
    trained_through: date
    effective_from: date
    metrics: dict[str, float]
    reasons: list[str]
    by: str
    recorded_at: datetime
