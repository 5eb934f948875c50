"""In which state each version is, read from the deployment log alone.

A version is registered as a *candidate*, becomes a *challenger* when the gate lets it pass, the *champion*
when it is promoted, and is *archived* when another champion takes its place; a rollback makes it champion
again. A challenger is archived when a person rejects it, or when another version becomes champion first.
The state is never stored: it follows from the order of the log's entries, each of which is one object.
One entry makes a version champion and archives the one before, so no moment has two champions or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from nightshift.errors import DataError, TransientError
from nightshift.lake import append_log
from nightshift.registry.records import Approval, Deployment, Transition
from nightshift.usecase import UseCase

State = Literal["candidate", "challenger", "champion", "archived"]
Entry = Transition | Deployment


@dataclass(frozen=True)
class Change:
    """One version's step from a state to the next; ``before`` is None for a new version."""

    version: str
    before: State | None
    after: State


class OvertakenError(TransientError):
    """Another decision about production was recorded first."""


@dataclass
class Standing:
    """Where a version stands. ``since``: when (UTC) it came into its state; ``entries``: all about it."""

    version: str
    state: State
    since: datetime
    approval: Approval | None = None
    entries: list[Entry] = field(default_factory=list)

    @property
    def rejected(self) -> bool:
        """Whether a person, or nobody in time, rejected it: it is never promoted then."""
        return self.approval is not None and self.approval.decision == "rejected"

    @property
    def overtaken(self) -> bool:
        """Whether another version became champion while it was a challenger; it may challenge that one."""
        deployed = any(isinstance(entry, Deployment) for entry in self.entries)
        return self.state == "archived" and not deployed and not self.rejected


def log_name(uc: UseCase) -> str:
    """Return the name of the use case's deployment log."""
    return f"deployments/{uc.name}"


def read(uc: UseCase) -> list[Entry]:
    """Return every entry of the log, oldest first."""
    return [
        Deployment.model_validate(record)
        if record["action"] in ("promote", "rollback")
        else Transition.model_validate(record)
        for record in append_log.read_log(log_name(uc))
    ]


def write(uc: UseCase, entry: Entry, after: int) -> None:
    """Append ``entry``, which was decided by a log of ``after`` entries.

    Raises:
        OvertakenError: Somebody else's entry came in between, and nothing was written.
    """
    if not append_log.append_next(log_name(uc), after, entry.model_dump(mode="json")):
        raise OvertakenError(
            f"the deployment log of {uc.name} has changed since it was read for this {entry.action} of "
            f"version {entry.version}"
        )


def standings(entries: Sequence[Entry]) -> dict[str, Standing]:
    """Return where each version stands after ``entries`` (oldest first), by version, the oldest first."""
    return _follow(entries)[0]


def find(uc: UseCase, version: str) -> Standing:
    """Return where one version stands.

    Raises:
        DataError: The log does not know it.
    """
    known = standings(read(uc))
    if version not in known:
        raise DataError(
            f"{uc.name} has no version {version!r}; it has {', '.join(known) or 'none yet'}",
            rule="every registered version is in the deployment log",
            where=f"deployment log of {uc.name}",
            cure="name one of those versions"
            if known
            else f"run the {uc.name}.bootstrap DAG, or {uc.name}.train: they register versions",
        )
    return known[version]


def changes(entries: Sequence[Entry]) -> list[list[Change]]:
    """Return, for each of ``entries`` (oldest first), which versions it brought from which state to which."""
    return _follow(entries)[1]


def _follow(entries: Sequence[Entry]) -> tuple[dict[str, Standing], list[list[Change]]]:
    standing: dict[str, Standing] = {}
    steps: list[list[Change]] = []

    def move(found: Standing, after: State, at: datetime) -> Change:
        change = Change(found.version, found.state if found.entries else None, after)
        found.state, found.since = after, at
        return change

    for entry in entries:
        moved = []
        after = _after(entry, standing.get(entry.version))
        if after is not None:
            found = standing.setdefault(entry.version, Standing(entry.version, after, entry.recorded_at))
            moved.append(move(found, after, entry.recorded_at))
            if after == "challenger":
                # What was approved is another comparison, with a champion of then.
                found.approval = None
        if isinstance(entry, Deployment):
            moved += [
                move(other, "archived", entry.recorded_at)
                for other in standing.values()
                if other.state in ("champion", "challenger") and other.version != entry.version
            ]
        if entry.approval is not None:
            standing[entry.version].approval = entry.approval
        standing[entry.version].entries.append(entry)
        steps.append(moved)
    return standing, steps


def _after(entry: Entry, found: Standing | None) -> State | None:
    """Return the state that ``entry`` brings its version to; None when it stays where it is.

    Two processes that propose one version at once may both write: what comes late takes nothing back.
    """
    after: State | None = None
    if isinstance(entry, Deployment):
        after = "champion"
    elif entry.action == "register" and found is None:
        after = "candidate"
    elif entry.action == "challenge" and (found is None or found.state == "candidate" or found.overtaken):
        after = "challenger"
    elif entry.action == "reject" and found is not None and found.state == "challenger":
        after = "archived"
    return None if found is not None and found.state == after else after
