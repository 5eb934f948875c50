"""Decides whether a candidate may become champion, and says why in words."""

from __future__ import annotations

from nightshift.evaluation.evaluate import Challenge, Evaluation
from nightshift.evaluation.judging import Judged
from nightshift.intervals import MIN_DAYS, Interval
from nightshift.registry import deployments
from nightshift.registry.records import Decision
from nightshift.usecase import UseCase

__all__ = ["Decision", "gate"]


def gate(uc: UseCase, evaluation: Evaluation) -> Decision:
    """Put forward the candidate that was best on validation and hold it against the use case's gate.

    It passes when its holdout metrics keep every floor and ceiling, when fairness, robustness, latency and
    stress keep their limits, when it is better than the baseline, when it is better than the champion beyond
    noise, or not worse (the paired interval of the primary metric on the same rows lies above
    ``min_improvement``), and when no slice with enough rows lost more than its limit beyond noise. For a
    first champion nothing is compared with a champion. A model that is champion already passes, so that a
    rerun ends as the first run did; one that was rolled back does not return by itself.
    """
    best = _best(uc, evaluation)
    metrics = best.judged.metrics
    reasons = _choice(uc, evaluation, best)
    rival = evaluation.champion.version if evaluation.champion else None
    current = deployments.newest(uc)
    if current is not None and current.model_hash == best.candidate.content_hash:
        reasons.append(f"this very model is the champion already, version {current.version}")
        return Decision(
            promote=True, candidate=best.candidate, metrics=current.metrics, reasons=reasons, rival=rival
        )
    passed = all(
        [
            _within_limits(uc, metrics, reasons),
            _is_fair(uc, best.judged, reasons),
            _is_robust(uc, best.judged, reasons),
            _is_quick(uc, best.judged, reasons),
            _behaves(best.judged, reasons),
            _beats_baseline(uc, evaluation, best, reasons),
            _keeps_slices(uc, best, reasons),
            _beats_champion(uc, evaluation, best, reasons),
        ]
    )
    withdrawn = deployments.rolled_back(uc, best.candidate.content_hash)
    if withdrawn is not None:
        passed = False
        reasons.append(
            f"this very model was rolled back on {withdrawn.effective_from} and returns only by hand "
            f"({'; '.join(withdrawn.reasons)})"
        )
    return Decision(promote=passed, candidate=best.candidate, metrics=metrics, reasons=reasons, rival=rival)


def _best(uc: UseCase, evaluation: Evaluation) -> Challenge:
    """Return the best on validation; the baseline only where nothing else is there."""
    contenders = [item for item in evaluation.challenges if item.candidate.trainer != evaluation.baseline]
    return max(
        contenders or evaluation.challenges, key=lambda item: item.candidate.metrics.get(uc.gate.primary, 0.0)
    )


def _choice(uc: UseCase, evaluation: Evaluation, best: Challenge) -> list[str]:
    if len(evaluation.challenges) == 1:
        return [f"{best.candidate.trainer} is the only candidate"]
    standing = ", ".join(
        f"{item.candidate.trainer} {item.candidate.metrics.get(uc.gate.primary, float('nan')):.4f}"
        + (" as baseline" if item.candidate.trainer == evaluation.baseline else "")
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


def _is_fair(uc: UseCase, judged: Judged, reasons: list[str]) -> bool:
    passed = True
    limits = {name: limit for name, limit in uc.gate.fairness.model_dump().items() if limit is not None}
    for parity in judged.fairness:
        for name, limit in limits.items():
            if name not in parity.differences:
                continue
            found = {
                value: group.rates[name]
                for value, group in parity.groups.items()
                if group.rows >= parity.min_rows and name in group.rates
            }
            low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
            kept = parity.differences[name] <= limit
            passed &= kept
            reasons.append(
                f"{name.replace('_', ' ')} by {parity.column} differs by {parity.differences[name]:.3f} "
                f"({low} {found[low]:.3f}, {high} {found[high]:.3f}) and {'keeps' if kept else 'breaks'} its "
                f"limit {limit:g}"
            )
    return passed


def _is_robust(uc: UseCase, judged: Judged, reasons: list[str]) -> bool:
    broken = [
        f"{item.scenario} rows cannot be scored: {item.failure}" for item in judged.robustness if item.failure
    ]
    limits = uc.gate.robustness
    figures = []
    for item in judged.robustness:
        for what, value, limit in (
            ("ROC AUC falls by", item.roc_auc_loss, limits.max_auc_loss.get(item.scenario)),
            ("decisions flip for", item.flipped, limits.max_flipped.get(item.scenario)),
        ):
            if value is None or limit is None:
                continue
            figures.append(value / limit if limit else float(value > 0))
            if value > limit:
                broken.append(f"{item.scenario} rows: {what} {value:.3f}, which breaks its limit {limit:g}")
    if not broken and figures:
        reasons.append(
            f"limits of robustness hold, the closest of {len(figures)} at {max(0.0, *figures):.0%}"
        )
    reasons += broken
    return not broken


def _is_quick(uc: UseCase, judged: Judged, reasons: list[str]) -> bool:
    found, limits = judged.latency, uc.gate.latency
    if found is None:
        return True
    broken = []
    if found.p95_ms > limits.p95_ms:
        broken.append(f"a single row takes {found.p95_ms:.1f} ms (P95), above its limit {limits.p95_ms:g}")
    if found.rows_per_second < limits.min_rows_per_second:
        broken.append(
            f"batches are scored at {found.rows_per_second:.0f} rows/s, below the limit "
            f"{limits.min_rows_per_second:g}"
        )
    if found.size_mb > limits.size_mb:
        broken.append(f"the model takes {found.size_mb:.1f} MB, above its limit {limits.size_mb:g}")
    reasons += broken or [
        f"a single row takes {found.p95_ms:.1f} ms (P95), batches {found.rows_per_second:.0f} rows/s, "
        f"the model {found.size_mb:.1f} MB: all within their limits"
    ]
    return not broken


def _behaves(judged: Judged, reasons: list[str]) -> bool:
    failed = [item for item in judged.stress if not item.passed]
    reasons += [
        f"stress case {item.case.name} {'fails' if item.case.severity == 'stop' else 'warns'}: "
        f"{item.share:.1%} of {item.rows} rows behave, {item.case.min_share:.1%} must "
        f"({item.case.why.strip()})"
        for item in failed
    ]
    asked = sum(item.share is not None for item in judged.stress)
    if asked and not failed:
        reasons.append(f"{asked} stress cases hold")
    return all(item.case.severity == "warn" for item in failed)


def _beats_baseline(uc: UseCase, evaluation: Evaluation, best: Challenge, reasons: list[str]) -> bool:
    if not evaluation.baseline or best.candidate.trainer == evaluation.baseline:
        return True
    primary = uc.gate.primary
    theirs = next(
        item.judged.metrics.get(primary)
        for item in evaluation.challenges
        if item.candidate.trainer == evaluation.baseline
    )
    ours = best.judged.metrics.get(primary)
    if ours is None or theirs is None:
        reasons.append(f"{primary} is not defined, so the baseline {evaluation.baseline} is not beaten")
        return False
    found = best.versus_baseline.metrics.get(primary) if best.versus_baseline else None
    reasons.append(
        f"{primary} {ours:.4f} {'beats' if ours > theirs else 'does not beat'} the baseline's {theirs:.4f} "
        f"({evaluation.baseline})" + (f": {_difference(uc, found)}" if found else "")
    )
    return ours > theirs


def _keeps_slices(uc: UseCase, best: Challenge, reasons: list[str]) -> bool:
    if best.versus_champion is None:
        return True
    limits, primary = uc.gate.slices, uc.gate.primary
    held, broken = 0, []
    for column, values in best.versus_champion.slices.items():
        for value, found in values.items():
            if best.judged.slices[column][value]["rows"] < limits.min_rows:
                continue
            if found.value < -limits.max_loss and found.high < 0:
                broken.append(
                    f"{column} {value} loses more than {limits.max_loss:g} of {primary} to the champion: "
                    f"{_difference(uc, found)}, {best.judged.slices[column][value]['rows']:.0f} rows"
                )
            else:
                held += 1
    reasons += broken
    if held and not broken:
        reasons.append(
            f"none of {held} slices with {limits.min_rows} rows or more loses over {limits.max_loss:g} of "
            f"{primary} against the champion beyond noise"
        )
    return not broken


def _beats_champion(uc: UseCase, evaluation: Evaluation, best: Challenge, reasons: list[str]) -> bool:
    champion, judged = evaluation.champion, evaluation.champion_judged
    if champion is None:
        reasons.append("there is no champion to beat")
        return True
    if judged is None:
        reasons.append(f"the champion cannot be compared and holds no one back: {evaluation.champion_note}")
        return True
    primary, margin = uc.gate.primary, uc.gate.min_improvement
    ours, theirs = best.judged.metrics.get(primary), judged.metrics.get(primary)
    period = f"the same {best.judged.metrics['rows']:.0f} rows of {evaluation.start} to {evaluation.end}"
    if ours is None or theirs is None:
        reasons.append(f"{primary} is not defined on {period}")
        return False
    found = best.versus_champion.metrics.get(primary) if best.versus_champion else None
    if found is None:
        reasons.append(f"{_untold(primary, f'the champion (version {champion.version})')} on {period}")
        return False
    better = found.low > margin
    champion_s = f"the champion's {theirs:.4f} (version {champion.version})"
    if margin < 0:
        told = f"{'is no' if better else 'may be'} more than {-margin:g} below {champion_s}"
    else:
        told = f"{'beats' if better else 'does not beat'} {champion_s} by more than {margin:g} beyond noise"
    reasons.append(f"{primary} {ours:.4f} {told}: {_difference(uc, found)} on {period}")
    return better


def _difference(uc: UseCase, found: Interval) -> str:
    interval = f"{uc.gate.confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f}"
    return f"difference {found.value:+.4f}, {interval}"


def _untold(primary: str, other: str) -> str:
    return (
        f"the difference of {primary} to {other} cannot be told from noise: it takes {MIN_DAYS} days or more "
        "with both classes"
    )
