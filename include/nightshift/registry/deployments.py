"""Which model is in production, which was on any day, and every change between.

The append-only log is the truth. The model in force on a day is that of the last entry whose
``effective_from`` is not after it, so a later decision overrides an earlier one from its day on, and a
rollback needs no entry to be taken back. MLflow's aliases ``champion`` and ``challenger`` and the tags
``state`` and ``approval`` of its model versions only mirror the log: killed between two writes, the log names
exactly one champion, and the next call of ``promote``, ``rollback`` or ``mirror`` completes the rest.

This module reads the log without importing MLflow: scoring asks it every night.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.registry import states
from nightshift.registry.records import Approval, Candidate, Decision, Deployment, Transition
from nightshift.registry.states import Standing
from nightshift.usecase import UseCase

_NIGHT = timedelta(days=1)


def history(uc: UseCase) -> list[Deployment]:
    """Return every entry that changed production, oldest first."""
    return [entry for entry in states.read(uc) if isinstance(entry, Deployment)]


def newest(uc: UseCase) -> Deployment | None:
    """Return the last entry, whether or not its day has come; None before the first promotion."""
    entries = history(uc)
    return entries[-1] if entries else None


def champion_at(uc: UseCase, day: date) -> Deployment | None:
    """Return the deployment in force on ``day``; None before the first one took effect."""
    return _in_force(history(uc), day)


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


def contradicted(uc: UseCase, start: date = date.min, end: date = date.max) -> dict[date, tuple[str, str]]:
    """Return the days whose published predictions name another version than was in force by the log.

    They were scored before a promotion or rollback that covers them, and are to be rebuilt.

    Returns:
        By day, oldest first: the version that the predictions name, and the one in force (empty: none).
    """
    entries = history(uc)
    named = tables.constants(uc, "predictions", start, end, ["model_version"])
    found = {}
    for day, row in sorted(named.items()):
        deployment = _in_force(entries, day)
        in_force = deployment.version if deployment else ""
        if row["model_version"] != in_force:
            found[day] = (row["model_version"], in_force)
    return found


def propose(uc: UseCase, decision: Decision, *, by: str = "gate") -> Standing:
    """Register what the gate judged: a candidate when it was refused, a challenger when it passed.

    Called again, it changes nothing; a candidate that passes at a later attempt becomes a challenger.

    Returns:
        Where its version stands.
    """
    from nightshift.registry.card import keep_card
    from nightshift.registry.models import evaluation_hash, register

    candidate = decision.candidate
    version = register(uc, candidate)
    keep_card(uc, version)
    evidence = evaluation_hash(uc, candidate.run_id)

    def record(action: Literal["register", "challenge"]) -> None:
        states.write(
            uc,
            Transition(
                action=action,
                **_facts(uc, candidate, version),
                evaluation_hash=evidence,
                metrics=decision.metrics,
                reasons=decision.reasons,
                by=by,
                recorded_at=datetime.now(UTC),
            ),
        )

    standing = states.standings(states.read(uc)).get(version)
    if standing is None:
        record("register")
    if decision.promote and (standing is None or standing.state == "candidate"):
        record("challenge")
    mirror(uc)
    return states.standings(states.read(uc))[version]


def standing_of(uc: UseCase, candidate: Candidate) -> Standing:
    """Return where the version of a candidate stands.

    Raises:
        DataError: It was never proposed.
    """
    for standing in states.standings(states.read(uc)).values():
        entry = standing.entries[0]
        if (entry.model_hash, entry.snapshot_hash) == (candidate.content_hash, candidate.snapshot_hash):
            return standing
    raise DataError(
        f"{candidate.trainer} of {candidate.trained_night} has no version yet",
        rule="a candidate is registered when the gate has judged it",
        where=f"deployment log of {uc.name}",
        cure="run the task `gate` of this run again",
    )


def decide(uc: UseCase, version: str, approval: Approval) -> Standing:
    """Record what a person decided about a challenger. A decision stands: taken again, it changes nothing.

    Raises:
        DataError: ``version`` is no challenger, or the opposite was decided before.
    """
    standing = states.standings(states.read(uc)).get(version)
    if standing is None or standing.state not in ("challenger", "champion"):
        raise DataError(
            f"version {version!r} is {standing.state if standing else 'not registered'}, not a challenger",
            rule="people decide about challengers, which passed the gate",
            where=f"deployment log of {uc.name}",
            cure="`nightshift registry list` shows the state of every version",
        )
    if standing.approval is None:
        action: Literal["approve", "reject"] = "approve" if approval.decision == "approved" else "reject"
        facts = standing.entries[-1].model_dump(exclude={"action", "previous_version", "effective_from"})
        reasons = [approval.comment or approval.decision]
        changed = {"approval": approval, "reasons": reasons, "by": approval.by, "recorded_at": approval.at}
        states.write(uc, Transition.model_validate({**facts, "action": action, **changed}))
    elif standing.approval.decision != approval.decision:
        raise _decided(uc, version, standing.approval)
    mirror(uc)
    return states.standings(states.read(uc))[version]


def promote(
    uc: UseCase,
    decision: Decision,
    *,
    effective_from: date,
    by: str = "gate",
    policy: Literal["automatic", "manual"] | None = None,
) -> Deployment:
    """Register the decided candidate and make it champion from ``effective_from`` on.

    Called again for the model that is champion already, it returns the existing entry and only makes sure
    that MLflow follows.

    Args:
        policy: Whether a person must have approved it; by default as the use case's gate says.

    Raises:
        DataError: The gate said no, a person rejected it or has not decided yet, or the newest entry takes
            effect later than ``effective_from``.
    """
    candidate = decision.candidate
    if not decision.promote:
        raise DataError(
            f"the gate refused {candidate.trainer}: {'; '.join(decision.reasons)}",
            rule="only what passed the gate is promoted",
            where=f"{uc.name}, snapshot {candidate.snapshot_hash[:12]}",
            cure="read the evaluation in MLflow; an earlier champion returns through rollback",
        )
    standing = propose(uc, decision)
    version, approval = standing.version, standing.approval
    current = newest(uc)
    if current is not None and current.version == version:
        return current
    if current is not None and effective_from < current.effective_from:
        raise DataError(
            f"version {version} would take effect on {effective_from}, before version {current.version} "
            f"({current.effective_from}), and replace it in the past",
            rule="promotions follow each other in time",
            where=f"deployment log of {uc.name}",
            cure=f"train for {current.effective_from} or later, or roll back by hand",
        )
    if approval is not None and standing.rejected:
        raise _decided(uc, version, approval)
    if approval is None and (policy or uc.gate.approval.policy) == "manual":
        raise DataError(
            f"nobody has approved version {version} yet",
            rule="gate.approval is manual: a person decides about what passed the gate",
            where=f"deployment log of {uc.name}",
            cure=f"answer the approval of the run of {uc.name}.train that trained it, in Airflow's UI",
        )
    return _record(
        uc,
        Deployment(
            action="promote",
            **_facts(uc, candidate, version),
            previous_version=current.version if current else None,
            effective_from=effective_from,
            evaluation_hash=standing.entries[-1].evaluation_hash,
            approval=approval,
            metrics=decision.metrics,
            reasons=decision.reasons,
            by=by,
            recorded_at=datetime.now(UTC),
        ),
    )


def rollback(
    uc: UseCase,
    version: str | None = None,
    *,
    effective_from: date | None = None,
    reason: str,
    by: str = "operator",
) -> Deployment:
    """Make an earlier champion the champion again from ``effective_from`` on.

    A day before the newest entry's is allowed: the days between are then to be scored again (``rebuild``);
    ``contradicted`` names them. Called again with the same arguments, it changes nothing.

    Args:
        version: The earlier champion; by default the one that the last promotion replaced.
        effective_from: First day it scores; by default the first that nothing has scored yet.

    Raises:
        DataError: ``version`` was never a champion, or there is no champion before this one.
    """
    entries = history(uc)
    version = version or champion_before(uc)
    earlier = next((entry for entry in reversed(entries) if entry.version == version), None)
    if earlier is None:
        known = ", ".join(dict.fromkeys(entry.version for entry in entries)) or "none"
        raise DataError(
            f"version {version!r} was never champion of {uc.name}; champions so far: {known}",
            rule="rollback returns to an earlier champion",
            where=f"deployment log of {uc.name}",
            cure="name one of those versions",
        )
    current = entries[-1]
    if current.version == version and effective_from in (None, current.effective_from):
        mirror(uc)
        return current
    return _record(
        uc,
        earlier.model_copy(
            update={
                "action": "rollback",
                "previous_version": current.version,
                "effective_from": effective_from or next_night(uc),
                "reasons": [reason],
                "by": by,
                "recorded_at": datetime.now(UTC),
            }
        ),
    )


def champion_before(uc: UseCase) -> str:
    """Return the version that the last promotion replaced: asked for again after a rollback, the same one.

    Raises:
        DataError: There was no champion, or none before it.
    """
    promotions = [entry for entry in history(uc) if entry.action == "promote"]
    if not promotions or promotions[-1].previous_version is None:
        last = (
            f"version {promotions[-1].version} is the first champion"
            if promotions
            else "there is no champion"
        )
        raise DataError(
            f"{uc.name} has no champion to return to: {last}",
            rule="rollback returns to an earlier champion",
            where=f"deployment log of {uc.name}",
            cure=f"train a new model: {uc.name}.train",
        )
    return promotions[-1].previous_version


def next_night(uc: UseCase) -> date:
    """Return the first day that nothing has scored yet; before the first night, the champion's first day."""
    scored = tables.partition_versions(uc, "predictions")
    current = newest(uc)
    return max(scored) + _NIGHT if scored else current.effective_from if current else uc.history_start


def rolled_back(uc: UseCase, model_hash: str) -> Deployment | None:
    """Return the rollback that took the model with ``model_hash`` out of production, if it is still out."""
    entries = history(uc)
    for position in range(len(entries) - 1, 0, -1):
        if entries[position].model_hash == model_hash:
            return None
        if entries[position].action == "rollback" and entries[position - 1].model_hash == model_hash:
            return entries[position]
    return None


def mirror(uc: UseCase) -> None:
    """Make MLflow's aliases and tags say what the log says; what they say already is not written again."""
    from nightshift.registry import mlflow as tracking
    from nightshift.registry.models import CHALLENGER, CHAMPION

    entries = states.read(uc)
    standings = states.standings(entries)
    champion = next((entry.version for entry in reversed(entries) if isinstance(entry, Deployment)), None)
    # Of challengers the newest, and none once it or a later decision is in production.
    challenger = None
    for entry in entries:
        if isinstance(entry, Deployment):
            challenger = None
        elif entry.action == "challenge":
            challenger = entry.version
    client = tracking.client(uc)
    aliases = {name: str(of) for name, of in client.get_registered_model(uc.name).aliases.items()}
    for alias, version in ((CHAMPION, champion), (CHALLENGER, challenger)):
        if version is not None and aliases.get(alias) != version:
            client.set_registered_model_alias(uc.name, alias, version)
        elif version is None and alias in aliases:
            client.delete_registered_model_alias(uc.name, alias)
    registered = {
        str(found.version): found.tags for found in client.search_model_versions(f"name = '{uc.name}'")
    }
    # Who is champion no more says so before the new one says it is.
    for standing in sorted(standings.values(), key=lambda standing: standing.state == "champion"):
        for key, value in _tags(standing).items():
            if standing.version in registered and registered[standing.version].get(key) != value:
                client.set_model_version_tag(uc.name, standing.version, key, value)


def _tags(standing: Standing) -> dict[str, str]:
    tags = {"state": str(standing.state)}
    if standing.approval is not None:
        at = f"{standing.approval.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        tags |= {
            "approval": standing.approval.decision,
            "approval_by": f"{standing.approval.by}, {at}",
            "approval_comment": standing.approval.comment,
        }
    return tags


def _facts(uc: UseCase, candidate: Candidate, version: str) -> dict[str, Any]:
    return {
        "usecase": uc.name,
        "version": version,
        "model_hash": candidate.content_hash,
        "snapshot_hash": candidate.snapshot_hash,
        "run_id": candidate.run_id,
        "trainer": candidate.trainer,
        "trained_night": candidate.trained_night,
        "trained_through": candidate.trained_through,
    }


def _record(uc: UseCase, deployment: Deployment) -> Deployment:
    states.write(uc, deployment)
    mirror(uc)
    return deployment


def _in_force(entries: list[Deployment], day: date) -> Deployment | None:
    return next((entry for entry in reversed(entries) if entry.effective_from <= day), None)


def _decided(uc: UseCase, version: str, approval: Approval) -> DataError:
    comment = f": {approval.comment}" if approval.comment else ""
    return DataError(
        f"version {version} was {approval.decision} by {approval.by} on {approval.at:%Y-%m-%d}{comment}",
        rule="what was decided about a challenger stands",
        where=f"deployment log of {uc.name}",
        cure="train for a later night: another model is another challenger",
    )
