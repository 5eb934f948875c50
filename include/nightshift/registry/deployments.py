"""Which model is in production, which was on any day, and every change between.

The append-only log is the truth. The model in force on a day is that of the last entry whose
``effective_from`` is not after it, so a later decision overrides an earlier one from its day on, and a
rollback needs no entry to be taken back. MLflow's aliases ``champion`` and ``challenger`` and the tags
``state`` and ``approval`` of its model versions only mirror the log: killed between two writes, the log names
exactly one champion, and the next call of ``promote``, ``rollback`` or ``mirror`` completes the rest.

This module reads the log without importing MLflow: scoring asks it every night.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from nightshift.errors import DataError
from nightshift.lake import audit, tables
from nightshift.registry import states
from nightshift.registry.records import Approval, Candidate, Decision, Deployment, Transition
from nightshift.registry.states import Entry, OvertakenError, Standing
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

_NIGHT = timedelta(days=1)
_LOOKS = 5

P = ParamSpec("P")
T = TypeVar("T")


def _by_the_newest_log(decide: Callable[P, T]) -> Callable[P, T]:
    """Have ``decide`` look again when another entry was recorded first."""

    @functools.wraps(decide)
    def decided(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_LOOKS - 1):
            try:
                return decide(*args, **kwargs)
            except OvertakenError:
                continue
        return decide(*args, **kwargs)

    return decided


def history(uc: UseCase) -> list[Deployment]:
    """Return every entry that changed production, oldest first."""
    return _deployments(states.read(uc))


def newest(uc: UseCase) -> Deployment | None:
    """Return the last entry, whether or not its day has come; None before the first promotion."""
    return _newest(states.read(uc))


def champion_at(uc: UseCase, day: date, entries: Sequence[Deployment] | None = None) -> Deployment | None:
    """Return the deployment in force on ``day``; None before the first one took effect.

    Args:
        entries: The ``history``, for who asks about many days; read anew by default.
    """
    entries = history(uc) if entries is None else entries
    return next((entry for entry in reversed(entries) if entry.effective_from <= day), None)


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
        deployment = champion_at(uc, day, entries)
        in_force = deployment.version if deployment else ""
        if row["model_version"] != in_force:
            found[day] = (row["model_version"], in_force)
    return found


@_by_the_newest_log
def propose(uc: UseCase, decision: Decision, *, by: str = "gate") -> Standing:
    """Register what the gate judged: a candidate when it was refused, a challenger when it passed.

    Called again, it changes nothing; a candidate that passes at a later attempt becomes a challenger. So does
    one that was overtaken, once it was held against the champion of now.

    Returns:
        Where its version stands.

    Raises:
        DataError: MLflow gave it a number that the log knows as another model's.
    """
    from nightshift.registry.card import keep_card
    from nightshift.registry.models import evaluation_hash, register

    candidate = decision.candidate
    version = register(uc, candidate)
    keep_card(uc, version)
    evidence = evaluation_hash(uc, candidate.run_id)

    def record(action: Literal["register", "challenge"], after: int) -> None:
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
            after,
        )

    known = states.read(uc)
    standing = states.standings(known).get(version)
    if standing is not None and standing.entries[0].model_hash != candidate.content_hash:
        raise DataError(
            f"MLflow calls model {candidate.content_hash[:12]} version {version}, which is model "
            f"{standing.entries[0].model_hash[:12]} in the deployment log",
            rule="a version's number stands for one model",
            where=f"registered model {uc.name}",
            cure="MLflow's database is older than the lake: restore its newest backup",
        )
    if standing is None:
        record("register", len(known))
    if standing is None or standing.state == "candidate":
        challenges = decision.promote
    else:
        challenges = decision.promote and standing.overtaken and _still_rival(_newest(known), decision)
    if challenges:
        record("challenge", len(known) + (standing is None))
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


@_by_the_newest_log
def decide(uc: UseCase, version: str, approval: Approval) -> Standing:
    """Record what a person decided about a challenger. A decision stands: taken again, it changes nothing.

    Raises:
        DataError: ``version`` is no challenger, or the opposite was decided before.
    """
    known = states.read(uc)
    standing = states.standings(known).get(version)
    if standing is None or (standing.approval is None and standing.state != "challenger"):
        raise DataError(
            f"version {version!r} is {standing.state if standing else 'not registered'}, not a challenger",
            rule="people decide about challengers, which passed the gate",
            where=f"deployment log of {uc.name}",
            cure="`nightshift registry list` shows the state of every version",
        )
    if standing.approval is None:
        action: Literal["approve", "reject"] = "approve" if approval.decision == "approved" else "reject"
        facts = standing.entries[-1].model_dump(exclude={"action"})
        reasons = [approval.comment or approval.decision]
        changed = {"approval": approval, "reasons": reasons, "by": approval.by, "recorded_at": approval.at}
        with audit.recorded(
            action,
            usecase=uc.name,
            subject=f"version {version}",
            who=approval.by,
            why=approval.comment,
            details={"model_hash": standing.entries[0].model_hash},
            # A challenger of two champions is decided about twice.
            identity=[len(standing.entries)],
        ):
            states.write(uc, Transition.model_validate({**facts, "action": action, **changed}), len(known))
    elif standing.approval.decision != approval.decision:
        raise _decided(uc, version, standing.approval)
    mirror(uc)
    return states.standings(states.read(uc))[version]


@_by_the_newest_log
def promote(
    uc: UseCase,
    decision: Decision,
    *,
    effective_from: date,
    by: str = "gate",
    policy: Literal["manual"] | None = None,
) -> Deployment:
    """Register the decided candidate and make it champion from ``effective_from`` on.

    Days that are scored already stay as they are: it takes effect on the first day after them. A version is
    promoted once. Called again for it, this returns the entry it has and only makes sure that MLflow follows,
    whatever came later: what was rolled back returns by ``rollback`` alone.

    Args:
        effective_from: First day that it may score.
        policy: ``manual``: a person must have approved it; by default as the use case's gate says.

    Raises:
        DataError: The gate said no, a person rejected it or has not decided yet, the champion is not the one
            that it was held against, or the newest entry takes effect later than this one would.
    """
    candidate = decision.candidate
    if not decision.promote:
        raise DataError(
            f"the gate refused {candidate.trainer}: {'; '.join(decision.reasons)}",
            rule="only what passed the gate is promoted",
            where=f"{uc.name}, snapshot {candidate.snapshot_hash[:12]}",
            cure="read the evaluation in MLflow; an earlier champion returns through rollback",
        )
    version = propose(uc, decision).version
    known = states.read(uc)
    standing, entries = states.standings(known)[version], _deployments(known)
    approval = standing.approval
    for entry in entries:
        if entry.action == "promote" and entry.version == version:
            return entry
    if approval is not None and standing.rejected:
        raise _decided(uc, version, approval)
    current = _newest(known)
    if not _still_rival(current, decision):
        raise _overtaken(uc, version, decision.rival, current)
    effective_from = max(effective_from, _unscored(uc) or effective_from)
    if current is not None and effective_from < current.effective_from:
        raise DataError(
            f"version {version} would take effect on {effective_from}, before version {current.version} "
            f"({current.effective_from}), and replace it in the past",
            rule="promotions follow each other in time",
            where=f"deployment log of {uc.name}",
            cure=f"train for {current.effective_from} or later, or roll back by hand",
        )
    if approval is None and (policy or uc.gate.approval.policy) == "manual":
        raise DataError(
            f"nobody has approved version {version} yet",
            rule="gate.approval is manual: a person decides about what passed the gate",
            where=f"deployment log of {uc.name}",
            cure=f"answer the approval of the run of {uc.name}.train that trained it, in Airflow's UI",
        )
    promotion = Deployment(
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
    )
    # A version is promoted once.
    with _audited(uc, promotion):
        states.write(uc, promotion, len(known))
    mirror(uc)
    return promotion


def rollback(
    uc: UseCase,
    version: str | None = None,
    *,
    effective_from: date | None = None,
    instead_of: str | None = None,
    reason: str,
    by: str = "operator",
) -> Deployment:
    """Make an earlier champion the champion again from ``effective_from`` on.

    A day before the newest entry's is allowed: the days between are then to be scored again (``rebuild``);
    ``contradicted`` names them. Called again with the same arguments, it changes nothing.

    Args:
        version: The earlier champion; by default as ``champion_before`` says.
        effective_from: First day it scores; by default the first that nothing has scored yet.
        instead_of: The champion that it replaces, as whoever decides saw it.

    Raises:
        DataError: ``version`` was never a champion, or would score days that it was trained on; or none is
            given and it is not clear which was the one before; or another champion is in force by now.
    """
    known = states.read(uc)
    entries = _deployments(known)
    version = version or champion_before(uc, reason)
    earlier = earlier_champion(uc, version, entries)
    current = entries[-1]
    if instead_of not in (None, current.version):
        raise _changed_meanwhile(uc, version)
    if current.version == version and effective_from in (None, current.effective_from):
        mirror(uc)
        return current
    effective_from = effective_from or next_night(uc)
    if effective_from <= earlier.trained_night:
        raise DataError(
            f"version {version} would score {effective_from}, and was trained on what was known on "
            f"{earlier.trained_night}",
            rule="a model scores days after the night that it was trained in",
            where=f"deployment log of {uc.name}",
            cure=f"let it begin on {earlier.trained_night + _NIGHT} or later, or name an older champion",
        )
    back = earlier.model_copy(
        update={
            "action": "rollback",
            "previous_version": current.version,
            "effective_from": effective_from,
            "reasons": [reason],
            "by": by,
            "recorded_at": datetime.now(UTC),
        }
    )
    with _audited(uc, back, len(known)):
        try:
            states.write(uc, back, len(known))
        except OvertakenError as error:
            # Not tried again: from another champion, it may be a step that nobody wants.
            raise _changed_meanwhile(uc, version) from error
    mirror(uc)
    return back


def earlier_champion(uc: UseCase, version: str, entries: Sequence[Deployment] | None = None) -> Deployment:
    """Return the newest entry that made ``version`` champion.

    Args:
        entries: Those of the log, from whoever has read it.

    Raises:
        DataError: It was never champion.
    """
    entries = history(uc) if entries is None else entries
    earlier = next((entry for entry in reversed(entries) if entry.version == version), None)
    if earlier is None:
        raise DataError(
            f"version {version!r} was never champion of {uc.name}; champions so far: {_versions(entries)}",
            rule="rollback returns to an earlier champion",
            where=f"deployment log of {uc.name}",
            cure="name one of those versions",
        )
    return earlier


def champion_before(uc: UseCase, reason: str) -> str:
    """Return the version that a rollback for ``reason`` restores when it names none.

    It is the one that the newest entry, a promotion, replaced. After a rollback nobody can tell which was the
    one before, and a version must be named. But asked with the reason of that rollback, which went back by
    this rule itself, it is the same call again (a task killed and retried), and the answer is the same.

    Raises:
        DataError: There was no champion or none before it, or the newest entry is another rollback.
    """
    entries = history(uc)
    last = entries[-1] if entries else None
    if last is not None and last.action == "rollback":
        before = entries[-2]
        again = before.action == "promote" and before.previous_version == last.version
        if again and last.reasons == [reason]:
            return last.version
        raise DataError(
            f"version {last.version} is champion by a rollback already ({'; '.join(last.reasons)})",
            rule="after a rollback, the next one names its version",
            where=f"deployment log of {uc.name}",
            cure=f"name one of the champions so far: {_versions(entries)}",
        )
    if last is None or last.previous_version is None:
        found = f"version {last.version} is the first champion" if last else "there is no champion"
        raise DataError(
            f"{uc.name} has no champion to return to: {found}",
            rule="rollback returns to an earlier champion",
            where=f"deployment log of {uc.name}",
            cure=f"train a new model: {uc.name}.train",
        )
    return last.previous_version


def next_night(uc: UseCase) -> date:
    """Return the first day that nothing has scored yet; before the first night, the champion's first day."""
    current = newest(uc)
    return _unscored(uc) or (current.effective_from if current else uc.history_start)


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
    """Make MLflow's aliases and tags say what the log says; what they say already is not written again.

    A version that is another model there than in the log gets neither: its number was given out twice.
    """
    from nightshift.registry import mlflow as tracking
    from nightshift.registry.models import CHALLENGER, CHAMPION

    entries = states.read(uc)
    standings = states.standings(entries)
    champion = next((of.version for of in standings.values() if of.state == "champion"), None)
    open_ones = [of for of in standings.values() if of.state == "challenger"]
    challenger = max(open_ones, key=lambda of: of.since).version if open_ones else None
    client = tracking.client(uc)
    registered = {
        str(found.version): found.tags for found in client.search_model_versions(f"name = '{uc.name}'")
    }
    other = {
        of.version
        for of in standings.values()
        if of.version in registered and registered[of.version].get("content_hash") != of.entries[0].model_hash
    }
    for name in sorted(other):
        log.error("version %s of %s is another model in MLflow than in the deployment log", name, uc.name)
        del registered[name]
    champion, challenger = (None if of in other else of for of in (champion, challenger))
    aliases = {name: str(of) for name, of in client.get_registered_model(uc.name).aliases.items()}
    for alias, version in ((CHAMPION, champion), (CHALLENGER, challenger)):
        if version is not None and aliases.get(alias) != version:
            client.set_registered_model_alias(uc.name, alias, version)
        elif version is None and alias in aliases:
            client.delete_registered_model_alias(uc.name, alias)
    # Who is champion no more says so before the new one says it is.
    for standing in sorted(standings.values(), key=lambda standing: standing.state == "champion"):
        for key, value in _tags(standing).items():
            if standing.version in registered and registered[standing.version].get(key) != value:
                client.set_model_version_tag(uc.name, standing.version, key, value)


def _deployments(entries: Sequence[Entry]) -> list[Deployment]:
    return [entry for entry in entries if isinstance(entry, Deployment)]


def _newest(entries: Sequence[Entry]) -> Deployment | None:
    return next((entry for entry in reversed(entries) if isinstance(entry, Deployment)), None)


def _versions(entries: Sequence[Deployment]) -> str:
    return ", ".join(dict.fromkeys(entry.version for entry in entries)) or "none"


def _unscored(uc: UseCase) -> date | None:
    """Return the first day after all that was scored; None when nothing was."""
    scored = tables.partition_versions(uc, "predictions")
    return max(scored) + _NIGHT if scored else None


def _still_rival(current: Deployment | None, decision: Decision) -> bool:
    """Return whether in production is what the candidate was held against, or the candidate itself."""
    if current is None:
        return decision.rival is None
    return decision.rival == current.version or current.model_hash == decision.candidate.content_hash


def _overtaken(uc: UseCase, version: str, rival: str | None, current: Deployment | None) -> DataError:
    compared = f"held against version {rival}" if rival else "judged when there was no champion"
    now = f"version {current.version} ({current.action} by {current.by})" if current else "none"
    return DataError(
        f"version {version} was {compared}, and the champion is {now} now",
        rule="a challenger replaces the champion that it was compared with",
        where=f"deployment log of {uc.name}",
        cure=f"train for a later night; or trigger {uc.name}.train for this night again with a "
        "holdout_override: its candidates are then compared with the champion of now",
    )


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


def _audited(uc: UseCase, deployment: Deployment, *identity: object) -> AbstractContextManager[None]:
    return audit.recorded(
        deployment.action,
        usecase=uc.name,
        subject=f"version {deployment.version}",
        who=deployment.by,
        why="; ".join(deployment.reasons),
        details={
            "from": deployment.effective_from.isoformat(),
            "instead_of": deployment.previous_version,
            "model_hash": deployment.model_hash,
        },
        identity=[deployment.model_hash, *identity],
    )


def _changed_meanwhile(uc: UseCase, version: str) -> DataError:
    return DataError(
        f"version {version} was not put in force again: another decision was recorded meanwhile",
        rule="a rollback replaces the champion that whoever decided for it saw",
        where=f"deployment log of {uc.name}",
        cure="look at `nightshift registry log`, and decide again",
    )


def _decided(uc: UseCase, version: str, approval: Approval) -> DataError:
    comment = f": {approval.comment}" if approval.comment else ""
    return DataError(
        f"version {version} was {approval.decision} by {approval.by} on {approval.at:%Y-%m-%d}{comment}",
        rule="what was decided about a challenger stands",
        where=f"deployment log of {uc.name}",
        cure="train for a later night: another model is another challenger",
    )
