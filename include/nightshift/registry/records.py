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

    ``metrics`` are those of the holdout rows; empty for a champion that is merely confirmed. ``rival`` is the
    version of the champion that it was held against: by the time it is promoted, that one must still be in
    production. None says that there was no champion, so none may have come since.
    """

    promote: bool
    candidate: Candidate
    metrics: dict[str, float]
    reasons: list[str]
    rival: str | None = None

    @property
    def run_id(self) -> str:
        """MLflow run of the candidate."""
        return self.candidate.run_id


class Approval(_Record):
    """What a person decided about a challenger; a decision that nobody took in time is a rejection."""

    decision: Literal["approved", "rejected"]
    by: str
    at: datetime
    comment: str = ""


class _Entry(_Record):
    """What every entry of the deployment log says: about which model, why, on what evidence, who and when.

    ``evaluation_hash`` names the evaluation that the MLflow run ``run_id`` holds; empty where there was none.
    """

    usecase: str
    version: str
    model_hash: str
    snapshot_hash: str
    run_id: str
    trainer: str
    trained_night: date
    trained_through: date
    metrics: dict[str, float]
    reasons: list[str]
    by: str
    recorded_at: datetime
    evaluation_hash: str = ""
    approval: Approval | None = None


class Transition(_Entry):
    """One entry about a version on its way to production; what scores stays as it is.

    ``register`` makes it a candidate and ``challenge``, when the gate let it pass, a challenger. ``approve``
    and ``reject`` record what a person decided about the challenger.
    """

    action: Literal["register", "challenge", "approve", "reject"]


class Deployment(_Entry):
    """One entry that changes production: from ``effective_from`` on, ``version`` is the champion."""

    action: Literal["promote", "rollback"]
    previous_version: str | None
    effective_from: date
