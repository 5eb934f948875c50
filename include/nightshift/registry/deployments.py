"""Which model is in production, which was on any day, and every change between.

The append-only log is the truth. The model in force on a day is that of the last entry whose
``effective_from`` is not after it, so a later decision overrides an earlier one from its day on, and a
rollback needs no entry to be taken back. MLflow's alias ``champion`` only mirrors the newest entry:
killed between the two writes, the log already names the new champion (exactly one), and the next call of
``promote``, ``rollback`` or ``sync_alias`` moves the alias.

This module reads the log without importing MLflow: scoring asks it every night.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime

from nightshift.errors import DataError
from nightshift.lake import append_log
from nightshift.registry.records import Decision, Deployment
from nightshift.usecase import UseCase


def history(uc: UseCase) -> list[Deployment]:
    """Return every entry of the log, oldest first."""
    return [Deployment.model_validate(record) for record in append_log.read_log(_log(uc))]


def newest(uc: UseCase) -> Deployment | None:
    """Return the last entry, whether or not its day has come; None before the first promotion."""
    entries = history(uc)
    return entries[-1] if entries else None


def champion_at(uc: UseCase, day: date) -> Deployment | None:
    """Return the deployment in force on ``day``; None before the first one took effect."""
    for entry in reversed(history(uc)):
        if entry.effective_from <= day:
            return entry
    return None


def rival(uc: UseCase, model_hashes: Collection[str]) -> Deployment | None:
    """Return the champion that models with these content hashes have to beat.

    The newest, or, where one of them was in production itself, the newest before it came there: so judging
    them again, after a promotion or a rollback, is the same comparison as the first time.
    """
    found = None
    for entry in history(uc):
        if entry.model_hash in model_hashes:
            break
        found = entry
    return found


def promote(uc: UseCase, decision: Decision, *, effective_from: date, by: str = "gate") -> Deployment:
    """Register the decided candidate and make it champion from ``effective_from`` on.

    Called again for the model that is champion already, it returns the existing entry and only makes sure
    that the alias follows.

    Raises:
        DataError: The gate said no, or the newest entry takes effect later than ``effective_from``.
    """
    from nightshift.registry.models import register

    candidate = decision.candidate
    if not decision.promote:
        raise DataError(
            f"the gate refused {candidate.trainer}: {'; '.join(decision.reasons)}",
            rule="only what passed the gate is promoted",
            where=f"{uc.name}, snapshot {candidate.snapshot_hash[:12]}",
            cure="read the evaluation in MLflow; an earlier champion returns through rollback",
        )
    version = register(uc, candidate)
    current = newest(uc)
    if current is not None and current.version == version:
        sync_alias(uc)
        return current
    if current is not None and effective_from < current.effective_from:
        raise DataError(
            f"version {version} would take effect on {effective_from}, before version {current.version} "
            f"({current.effective_from}), and replace it in the past",
            rule="promotions follow each other in time",
            where=f"deployment log of {uc.name}",
            cure=f"train for {current.effective_from} or later, or roll back by hand",
        )
    return _record(
        uc,
        Deployment(
            usecase=uc.name,
            action="promote",
            version=version,
            previous_version=current.version if current else None,
            model_hash=candidate.content_hash,
            snapshot_hash=candidate.snapshot_hash,
            run_id=candidate.run_id,
            trainer=candidate.trainer,
            trained_night=candidate.trained_night,
            trained_through=candidate.trained_through,
            effective_from=effective_from,
            metrics=decision.metrics,
            reasons=decision.reasons,
            by=by,
            recorded_at=datetime.now(UTC),
        ),
    )


def rollback(
    uc: UseCase, version: str, *, effective_from: date, reason: str, by: str = "operator"
) -> Deployment:
    """Make an earlier champion the champion again from ``effective_from`` on.

    A day before the newest entry's is allowed: the days between are then to be scored again (``rebuild``).
    Called again with the same arguments, it changes nothing.

    Raises:
        DataError: ``version`` was never a champion.
    """
    entries = history(uc)
    earlier = _last_of(entries, version)
    if earlier is None:
        known = ", ".join(dict.fromkeys(entry.version for entry in entries)) or "none"
        raise DataError(
            f"version {version!r} was never champion of {uc.name}; champions so far: {known}",
            rule="rollback returns to an earlier champion",
            where=f"deployment log of {uc.name}",
            cure="name one of those versions",
        )
    current = entries[-1]
    if (current.version, current.effective_from) == (version, effective_from):
        sync_alias(uc)
        return current
    return _record(
        uc,
        earlier.model_copy(
            update={
                "action": "rollback",
                "previous_version": current.version,
                "effective_from": effective_from,
                "reasons": [reason],
                "by": by,
                "recorded_at": datetime.now(UTC),
            }
        ),
    )


def rolled_back(uc: UseCase, model_hash: str) -> Deployment | None:
    """Return the rollback that took the model with ``model_hash`` out of production, if it is still out."""
    entries = history(uc)
    for position in range(len(entries) - 1, 0, -1):
        if entries[position].model_hash == model_hash:
            return None
        if entries[position].action == "rollback" and entries[position - 1].model_hash == model_hash:
            return entries[position]
    return None


def sync_alias(uc: UseCase) -> None:
    """Make MLflow's aliases mirror the newest entry of the log: one champion, which is no challenger."""
    from nightshift.registry import mlflow as tracking
    from nightshift.registry.models import CHALLENGER, CHAMPION

    current = newest(uc)
    if current is None:
        return
    client = tracking.client(uc)
    aliases = client.get_registered_model(uc.name).aliases
    if str(aliases.get(CHAMPION)) != current.version:
        client.set_registered_model_alias(uc.name, CHAMPION, current.version)
    if str(aliases.get(CHALLENGER)) == current.version:
        client.delete_registered_model_alias(uc.name, CHALLENGER)


def _record(uc: UseCase, deployment: Deployment) -> Deployment:
    append_log.append(_log(uc), deployment.model_dump(mode="json"))
    sync_alias(uc)
    return deployment


def _last_of(entries: Sequence[Deployment], version: str) -> Deployment | None:
    return next((entry for entry in reversed(entries) if entry.version == version), None)


def _log(uc: UseCase) -> str:
    return f"deployments/{uc.name}"
