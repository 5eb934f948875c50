"""The models page: registered versions, which was in production when, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime

from nightshift.console.views import Figure, View
from nightshift.registry import deployments, states
from nightshift.registry.states import Standing, State
from nightshift.settings import settings
from nightshift.usecase import UseCase

_ONE_DAY = timedelta(days=1)


class Decided(View):
    """What a person decided about a challenger."""

    decision: str
    by: str
    at: AwareDatetime
    comment: str


class Version(View):
    """A registered version.

    Attributes:
        state: Where it stands; ``since``: from when on.
        awaiting: Whether it is a challenger about which nobody has decided.
        was_champion: Whether it was in production, so that a rollback may name it.
        metrics: Of the holdout on which the gate judged it, else of its validation rows.
        reasons: What the gate, or whoever moved it last, said.
        evaluated: Whether its evaluation is kept here, so that ``compare`` has figures.
    """

    version: str
    state: State
    since: AwareDatetime
    trainer: str
    trained_night: date
    trained_through: date
    awaiting: bool
    was_champion: bool
    approval: Decided | None
    metrics: dict[str, Figure]
    reasons: tuple[str, ...]
    by: str
    model_hash: str
    snapshot_hash: str
    evaluated: bool


class InProduction(View):
    """A stretch of days that one version was in force on; ``end`` None: until further notice."""

    version: str
    trainer: str
    start: date
    end: date | None
    action: str
    by: str


class Models(View):
    """All versions, the newest first, and who was champion when, the oldest first."""

    primary: str
    versions: tuple[Version, ...]
    champions: tuple[InProduction, ...]


class Estimate(View):
    """A figure and its interval, as far as there is one."""

    value: Figure
    low: Figure = None
    high: Figure = None


class Line(View):
    """One figure of both models; ``difference`` is left - right, paired, where both were on the same rows."""

    name: str
    left: Estimate | None
    right: Estimate | None
    difference: Estimate | None


class Slice(View):
    """The primary metric of both models on a part of the rows."""

    slice: str
    value: str
    rows: int
    left: Estimate | None
    right: Estimate | None
    difference: Estimate | None


class SideBySide(View):
    """Two versions and how they were judged.

    Attributes:
        same_rows: Whether the same rows judged both; if not, figures differ for that reason too.
        rows: In words, which rows.
        metrics: Every metric.
        slices: The primary metric by slice.
        note: Why figures are missing; empty when none are.
    """

    left: Version
    right: Version
    same_rows: bool
    rows: str
    metrics: tuple[Line, ...]
    slices: tuple[Slice, ...]
    note: str


def models(uc: UseCase) -> Models:
    """Return all registered versions, and who was champion when."""
    standings = states.standings(states.read(uc))
    return Models(
        primary=uc.gate.primary,
        versions=tuple(_version(uc, standing) for standing in reversed(standings.values())),
        champions=tuple(_champions(uc)),
    )


def compare(uc: UseCase, left: str, right: str) -> SideBySide:
    """Return two versions side by side.

    Raises:
        DataError: There is no such version.
    """
    ones = states.find(uc, left), states.find(uc, right)
    ours, theirs = (_Judged.of(uc, one) for one in ones)
    met = _meeting(uc, *ones)
    if met is not None:
        ours, theirs, differences, rows = met
        same = True
    else:
        differences, same = {}, False
        rows = f"version {left}: {ours.rows}; version {right}: {theirs.rows}"
    missing = [name for name, judged in ((left, ours), (right, theirs)) if not judged.content]
    return SideBySide(
        left=_version(uc, ones[0]),
        right=_version(uc, ones[1]),
        same_rows=same,
        rows=rows,
        metrics=tuple(_lines(ours.content, theirs.content, differences)),
        slices=tuple(_slices(uc, ours.content, theirs.content, differences)),
        note=f"the evaluation of version {' and '.join(missing)} is not kept on this machine"
        if missing
        else "",
    )


class _Judged:
    """How a version was judged: a ``judged`` of its evaluation as JSON, and the rows in words."""

    def __init__(self, content: Mapping[str, Any], rows: str) -> None:
        self.content = content
        self.rows = rows

    @classmethod
    def of(cls, uc: UseCase, standing: Standing) -> _Judged:
        evaluation = _evaluation(uc, standing)
        mine = _challenge(evaluation, standing) if evaluation else None
        if evaluation is None or mine is None:
            return cls({}, "not known")
        return cls(mine["judged"], f"{evaluation['start']} to {evaluation['end']}")


def _meeting(
    uc: UseCase, left: Standing, right: Standing
) -> tuple[_Judged, _Judged, Mapping[str, Any], str] | None:
    """Return both as one evaluation judged them, with paired differences; None when they never met."""
    for challenger, rival, turned in ((left, right, False), (right, left, True)):
        evaluation = _evaluation(uc, challenger)
        mine = _challenge(evaluation, challenger) if evaluation else None
        if evaluation is None or mine is None:
            continue
        rows = f"{evaluation['start']} to {evaluation['end']}"
        champion = evaluation["champion"]
        if champion is None or champion["version"] != rival.version or mine["versus_champion"] is None:
            continue
        found = _Judged(mine["judged"], rows), _Judged(evaluation["champion_judged"], rows)
        if not turned:
            return found[0], found[1], mine["versus_champion"], rows
        return found[1], found[0], _turned(mine["versus_champion"]), rows
    return None


def _turned(differences: Mapping[str, Any]) -> dict[str, Any]:
    """Return differences seen from the other side."""

    def turn(one: Mapping[str, float]) -> dict[str, float]:
        return {"value": -one["value"], "low": -one["high"], "high": -one["low"]}

    return {
        "metrics": {name: turn(one) for name, one in differences["metrics"].items()},
        "slices": {
            name: {value: turn(one) for value, one in values.items()}
            for name, values in differences["slices"].items()
        },
    }


def _lines(left: Mapping[str, Any], right: Mapping[str, Any], differences: Mapping[str, Any]) -> list[Line]:
    names = [*left.get("metrics", {}), *right.get("metrics", {})]
    return [
        Line(
            name=name,
            left=_estimate(left, name),
            right=_estimate(right, name),
            difference=_interval(differences.get("metrics", {}).get(name)),
        )
        for name in dict.fromkeys(names)
    ]


def _slices(
    uc: UseCase, left: Mapping[str, Any], right: Mapping[str, Any], differences: Mapping[str, Any]
) -> list[Slice]:
    primary = uc.gate.primary
    found: list[Slice] = []
    sliced = (right.get("slices", {}), left.get("slices", {}))
    for name in dict.fromkeys(name for slices in sliced for name in slices):
        rows = {value: one["rows"] for slices in sliced for value, one in slices.get(name, {}).items()}
        found += [
            Slice(
                slice=name,
                value=value,
                rows=int(rows[value]),
                left=_of_slice(left, name, value, primary),
                right=_of_slice(right, name, value, primary),
                difference=_interval(differences.get("slices", {}).get(name, {}).get(value)),
            )
            for value in rows
        ]
    return found


def _estimate(judged: Mapping[str, Any], name: str) -> Estimate | None:
    if name not in judged.get("metrics", {}):
        return None
    return _interval(judged.get("intervals", {}).get(name)) or Estimate(value=judged["metrics"][name])


def _of_slice(judged: Mapping[str, Any], name: str, value: str, metric: str) -> Estimate | None:
    figure = judged.get("slices", {}).get(name, {}).get(value, {}).get(metric)
    interval = judged.get("slice_intervals", {}).get(name, {}).get(value, {}).get(metric)
    return _interval(interval) or (None if figure is None else Estimate(value=figure))


def _interval(found: Mapping[str, float] | None) -> Estimate | None:
    return Estimate(value=found["value"], low=found["low"], high=found["high"]) if found else None


def _version(uc: UseCase, standing: Standing) -> Version:
    last = standing.entries[-1]
    approval = standing.approval
    return Version(
        version=standing.version,
        state=standing.state,
        since=standing.since,
        trainer=last.trainer,
        trained_night=last.trained_night,
        trained_through=last.trained_through,
        awaiting=standing.state == "challenger" and approval is None,
        was_champion=any(entry.action in ("promote", "rollback") for entry in standing.entries),
        approval=Decided(decision=approval.decision, by=approval.by, at=approval.at, comment=approval.comment)
        if approval
        else None,
        metrics=dict(next((entry.metrics for entry in reversed(standing.entries) if entry.metrics), {})),
        reasons=tuple(last.reasons),
        by=last.by,
        model_hash=last.model_hash,
        snapshot_hash=last.snapshot_hash,
        evaluated=_challenge(_evaluation(uc, standing) or {}, standing) is not None,
    )


def _champions(uc: UseCase) -> list[InProduction]:
    """Return who is in force on which days, by what the log says now."""
    entries = deployments.history(uc)
    begins = sorted({entry.effective_from for entry in entries})
    found: list[InProduction] = []
    for number, start in enumerate(begins):
        entry = deployments.champion_at(uc, start, entries)
        assert entry is not None  # nosec B101  # one takes effect on that very day
        if found and found[-1].version == entry.version:
            continue
        later = (
            one
            for one in begins[number + 1 :]
            if (follows := deployments.champion_at(uc, one, entries)) and follows.version != entry.version
        )
        until = next(later, None)
        found.append(
            InProduction(
                version=entry.version,
                trainer=entry.trainer,
                start=start,
                end=until - _ONE_DAY if until else None,
                action=entry.action,
                by=entry.by,
            )
        )
    return found


def _evaluation_file(uc: UseCase, night: date) -> Path:
    return settings().home / "reports" / uc.name / "evaluation" / f"{night}.json"


def _evaluation(uc: UseCase, standing: Standing) -> Mapping[str, Any] | None:
    """Return the evaluation of the night that a version was trained for, as it was written."""
    file = _evaluation_file(uc, standing.entries[-1].trained_night)
    try:
        return _parsed(file, file.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=16)
def _parsed(file: Path, _modified: int) -> Mapping[str, Any]:
    whole: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    evaluation: Mapping[str, Any] = whole["evaluation"]
    return evaluation


def _challenge(evaluation: Mapping[str, Any], standing: Standing) -> Mapping[str, Any] | None:
    """Return what an evaluation says of a version; None when it was about other models."""
    wanted = standing.entries[-1].model_hash
    challenges: list[Mapping[str, Any]] = evaluation.get("challenges", [])
    return next((one for one in challenges if one["candidate"]["content_hash"] == wanted), None)
