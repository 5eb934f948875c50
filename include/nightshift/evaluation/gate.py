"""Decides whether a candidate may become champion, and says why in words."""

from __future__ import annotations

from nightshift.evaluation.evaluate import Challenge, Evaluation
from nightshift.registry import deployments
from nightshift.registry.records import Decision
from nightshift.usecase import UseCase

__all__ = ["Decision", "gate"]


def gate(uc: UseCase, evaluation: Evaluation) -> Decision:
    """Put forward the candidate that was best on validation and hold it against the use case's gate.

    It passes when its holdout metrics keep every floor and ceiling and its primary metric beats the
    champion's on the same rows by more than ``min_improvement``. A first champion needs only floors and
    ceilings. A model that is champion already passes, so that a rerun ends as the first run did; one that
    was rolled back does not return by itself.
    """
    best = max(evaluation.challenges, key=lambda item: item.candidate.metrics.get(uc.gate.primary, 0.0))
    metrics = best.judged.metrics
    reasons = _choice(uc, evaluation, best)
    current = deployments.newest(uc)
    if current is not None and current.model_hash == best.candidate.content_hash:
        reasons.append(f"this very model is the champion already, version {current.version}")
        return Decision(promote=True, candidate=best.candidate, metrics=current.metrics, reasons=reasons)
    passed = _within_limits(uc, metrics, reasons)
    passed &= _beats_champion(uc, evaluation, metrics, reasons)
    withdrawn = deployments.rolled_back(uc, best.candidate.content_hash)
    if withdrawn is not None:
        passed = False
        reasons.append(
            f"this very model was rolled back on {withdrawn.effective_from} and returns only by hand "
            f"({'; '.join(withdrawn.reasons)})"
        )
    return Decision(promote=passed, candidate=best.candidate, metrics=metrics, reasons=reasons)


def _choice(uc: UseCase, evaluation: Evaluation, best: Challenge) -> list[str]:
    if len(evaluation.challenges) == 1:
        return [f"{best.candidate.trainer} is the only candidate"]
    standing = ", ".join(
        f"{item.candidate.trainer} {item.candidate.metrics.get(uc.gate.primary, float('nan')):.4f}"
        for item in evaluation.challenges
    )
    return [f"{best.candidate.trainer} is put forward: best {uc.gate.primary} on validation ({standing})"]


def _within_limits(uc: UseCase, metrics: dict[str, float], reasons: list[str]) -> bool:
    passed = True
    limits = [(name, limit, "floor") for name, limit in uc.gate.floors.items()]
    limits += [(name, limit, "ceiling") for name, limit in uc.gate.ceilings.items()]
    for name, limit, kind in limits:
        value = metrics.get(name)
        if value is None:
            passed = False
            reasons.append(
                f"{name} is not defined on these rows, so its {kind} {limit:g} cannot be shown to hold"
            )
            continue
        kept = value >= limit if kind == "floor" else value <= limit
        passed &= kept
        reasons.append(f"{name} {value:.4f} {'keeps' if kept else 'breaks'} its {kind} {limit:g}")
    return passed


def _beats_champion(
    uc: UseCase, evaluation: Evaluation, metrics: dict[str, float], reasons: list[str]
) -> bool:
    champion, judged = evaluation.champion, evaluation.champion_judged
    if champion is None:
        reasons.append("there is no champion to beat")
        return True
    if judged is None:
        reasons.append(f"the champion cannot be compared and holds no one back: {evaluation.champion_note}")
        return True
    primary = uc.gate.primary
    ours, theirs = metrics.get(primary), judged.metrics.get(primary)
    period = f"the same {metrics['rows']:.0f} rows of {evaluation.start} to {evaluation.end}"
    if ours is None or theirs is None:
        reasons.append(f"{primary} is not defined on {period}")
        return False
    better = ours > theirs + uc.gate.min_improvement
    reasons.append(
        f"{primary} {ours:.4f} {'beats' if better else 'does not beat'} the champion's {theirs:.4f} "
        f"(version {champion.version}) by more than {uc.gate.min_improvement:g} on {period}"
    )
    return better
