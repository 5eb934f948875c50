"""The gate's verdicts, each with the reason a person would read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from tests import synthetic

from nightshift.errors import DataError
from nightshift.evaluation.evaluate import Challenge, Comparison, Evaluation, Judged
from nightshift.evaluation.fairness import Group, Parity
from nightshift.evaluation.gate import gate
from nightshift.evaluation.latency import Latency
from nightshift.evaluation.robustness import Disturbed
from nightshift.evaluation.stress import StressResult
from nightshift.intervals import Interval
from nightshift.lake import append_log
from nightshift.registry import deployments
from nightshift.registry.records import Candidate, Decision, Deployment
from nightshift.usecase import Change, InvariantCase

GOOD = {"rows": 500.0, "roc_auc": 0.72, "ece": 0.03}


def _candidate(name: str, validation: float) -> Candidate:
    return Candidate(
        usecase="synthetic",
        trainer=name,
        run_id=f"run-{name}",
        model_uri=f"models:/m-{name}",
        content_hash=f"hash-{name}",
        snapshot_hash="snapshot",
        trained_night=date(2020, 2, 9),
        trained_through=date(2020, 2, 1),
        metrics={"roc_auc": validation},
    )


def _challenge(
    name: str,
    validation: float,
    holdout: dict[str, float],
    *,
    champion: Comparison | None = None,
    baseline: Comparison | None = None,
    **examined: Any,
) -> Challenge:
    return Challenge(
        candidate=_candidate(name, validation),
        judged=Judged(**{"metrics": holdout, "slices": {}} | examined),
        versus_champion=champion,
        versus_baseline=baseline,
    )


def _ahead(by: float, noise: float = 0.01, **slices: dict[str, Interval]) -> Comparison:
    """So far ahead in ROC AUC, give or take the noise."""
    found = Interval(value=by, low=by - noise, high=by + noise)
    return Comparison(metrics={"roc_auc": found}, slices=slices)


def _deployment(version: str, model_hash: str) -> Deployment:
    return Deployment(
        usecase="synthetic",
        action="promote",
        version=version,
        previous_version=None,
        model_hash=model_hash,
        snapshot_hash="earlier",
        run_id="run",
        trainer="trees",
        trained_night=date(2020, 2, 2),
        trained_through=date(2020, 1, 25),
        effective_from=date(2020, 2, 3),
        metrics={"roc_auc": 0.7},
        reasons=["first"],
        by="gate",
        recorded_at=datetime(2020, 2, 2, tzinfo=UTC),
    )


def _evaluation(
    *challenges: Challenge,
    champion: Deployment | None = None,
    judged: dict[str, float] | None = None,
    baseline: str = "",
) -> Evaluation:
    return Evaluation(
        usecase="synthetic",
        snapshot_hash="snapshot",
        start=date(2020, 2, 2),
        end=date(2020, 2, 8),
        challenges=list(challenges),
        champion=champion,
        champion_judged=None if judged is None else Judged(metrics=judged, slices={}),
        champion_note="" if judged else "version 1 reads columns the features no longer have: gone",
        baseline=baseline,
    )


def _decide(evaluation: Evaluation, **limits: object) -> Decision:
    limits = {"primary": "roc_auc", "floors": {"roc_auc": 0.6}, "ceilings": {"ece": 0.1}} | limits
    return gate(synthetic.use_case(gate=limits), evaluation)


@pytest.fixture(autouse=True)
def empty_log(home: Path) -> None:
    """The gate asks the deployment log about rollbacks."""


def test_a_first_champion_needs_only_the_limits() -> None:
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD)))
    assert decision.promote
    assert decision.run_id == "run-trees"
    assert decision.metrics == GOOD
    assert decision.reasons == [
        "trees is the only candidate",
        "roc_auc 0.7200 keeps its floor 0.6",
        "ece 0.0300 keeps its ceiling 0.1",
        "there is no champion to beat",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"roc_auc": 0.59}, "roc_auc 0.5900 breaks its floor 0.6"),
        ({"ece": 0.11}, "ece 0.1100 breaks its ceiling 0.1"),
    ],
)
def test_a_broken_limit_stops_it(change: dict[str, float], reason: str) -> None:
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD | change)))
    assert not decision.promote
    assert reason in decision.reasons


def test_a_metric_that_cannot_be_shown_stops_it() -> None:
    decision = _decide(_evaluation(_challenge("trees", 0.7, {"rows": 5.0, "ece": 0.01})))
    assert not decision.promote
    assert any("roc_auc is not defined" in reason for reason in decision.reasons)


def test_validation_chooses_and_the_holdout_only_judges() -> None:
    decision = _decide(
        _evaluation(
            _challenge("lucky", 0.68, GOOD | {"roc_auc": 0.75}),
            _challenge("trees", 0.70, GOOD | {"roc_auc": 0.71}),
        )
    )
    assert decision.run_id == "run-trees"
    assert decision.reasons[0] == (
        "trees is put forward: best roc_auc on validation (lucky 0.6800, trees 0.7000)"
    )


@pytest.mark.parametrize(
    ("ahead", "noise", "margin", "passes"),
    [
        (0.02, 0.01, 0.0, True),
        (0.02, 0.03, 0.0, False),
        (0.02, 0.01, 0.02, False),
        (0.0, 0.0, 0.0, False),
        (-0.02, 0.01, 0.0, False),
        (-0.01, 0.01, -0.03, True),
        (-0.01, 0.03, -0.03, False),
    ],
)
def test_it_must_beat_the_champion_beyond_noise(
    ahead: float, noise: float, margin: float, passes: bool
) -> None:
    evaluation = _evaluation(
        _challenge("trees", 0.7, GOOD, champion=_ahead(ahead, noise)),
        champion=_deployment("1", "old"),
        judged=GOOD | {"roc_auc": 0.72 - ahead},
    )
    decision = _decide(evaluation, min_improvement=margin)
    assert decision.promote is passes
    if margin < 0:
        told = f"{'is no' if passes else 'may be'} more than 0.03 below the champion's 0.7300 (version 1)"
    else:
        told = f"the champion's {0.72 - ahead:.4f} (version 1) by more than {margin:g}"
    assert told in decision.reasons[-1]
    assert f"90% interval {ahead - noise:+.4f} to {ahead + noise:+.4f}" in decision.reasons[-1]
    assert "the same 500 rows of 2020-02-02 to 2020-02-08" in decision.reasons[-1]


def test_days_too_few_for_an_interval_do_not_crown_anyone() -> None:
    decision = _decide(
        _evaluation(
            _challenge("trees", 0.7, GOOD),
            champion=_deployment("1", "old"),
            judged=GOOD | {"roc_auc": 0.5},
        )
    )
    assert not decision.promote
    assert "cannot be told from noise: it takes 3 days or more" in decision.reasons[-1]


def test_a_slice_that_loses_too_much_beyond_noise_stops_it() -> None:
    lost = Interval(value=-0.06, low=-0.09, high=-0.03)
    by_luck = Interval(value=-0.06, low=-0.14, high=0.02)
    rows = {"shop": {"a": {"rows": 900.0}, "b": {"rows": 900.0}, "c": {"rows": 20.0}}}

    def decide(**shops: Interval) -> Decision:
        challenge = _challenge("trees", 0.7, GOOD, champion=_ahead(0.03, shop=shops), slices=rows)
        return _decide(
            _evaluation(challenge, champion=_deployment("1", "old"), judged=GOOD | {"roc_auc": 0.69})
        )

    refused = decide(a=lost, b=by_luck, c=lost)
    assert not refused.promote
    assert [reason for reason in refused.reasons if reason.startswith("shop")] == [
        "shop a loses more than 0.03 of roc_auc to the champion: difference -0.0600, "
        "90% interval -0.0900 to -0.0300, 900 rows"
    ]
    assert decide(b=by_luck, c=lost).promote


@pytest.mark.parametrize(("ahead", "passes"), [(0.02, True), (0.005, True), (0.0, False), (-0.005, False)])
def test_it_must_beat_the_baseline_even_without_a_champion(ahead: float, passes: bool) -> None:
    decision = _decide(
        _evaluation(
            _challenge("plain", 0.9, GOOD | {"roc_auc": 0.72 - ahead}),
            _challenge("trees", 0.7, GOOD, baseline=_ahead(ahead)),
            baseline="plain",
        )
    )
    # However good on validation, the baseline is never the one put forward.
    assert decision.run_id == "run-trees"
    assert decision.promote is passes
    assert any(f"the baseline's {0.72 - ahead:.4f} (plain)" in reason for reason in decision.reasons)


def _parity(low: float, high: float) -> Parity:
    groups = {
        name: Group(rows=rows, base_rate=0.2, rates={"selection_rate": rate})
        for name, rows, rate in (("a", 900, low), ("b", 900, high), ("c", 3, 1.0))
    }
    return Parity(column="shop", min_rows=500, groups=groups, differences={"selection_rate": high - low})


def _stressed(share: float, severity: str) -> StressResult:
    case = InvariantCase(
        kind="invariant",
        name="a_minute_later",
        why="a minute changes nothing",
        change={"hour": Change(add=1)},
        min_share=0.9,
        severity=severity,
    )
    return StressResult(case=case, rows=100, share=share)


SLOW = Latency(p50_ms=1, p95_ms=2000, p99_ms=3000, rows_per_second=50, size_mb=3)


@pytest.mark.parametrize(
    ("examined", "reasons"),
    [
        (
            {"fairness": [_parity(0.1, 0.5)]},
            [
                "selection rate by shop differs by 0.400 (a 0.100, b 0.500) and breaks its limit 0.3",
            ],
        ),
        (
            {"robustness": [Disturbed(scenario="missing", rows=9, roc_auc_loss=0.2, flipped=0.1)]},
            ["missing rows: ROC AUC falls by 0.200, which breaks its limit 0.1"],
        ),
        (
            {"robustness": [Disturbed(scenario="extreme", rows=9, failure="ValueError: inf")]},
            ["extreme rows cannot be scored: ValueError: inf"],
        ),
        (
            {"latency": SLOW},
            [
                "a single row takes 2000.0 ms (P95), above its limit 1000",
                "batches are scored at 50 rows/s, below the limit 200",
            ],
        ),
        (
            {"stress": [_stressed(0.5, "stop")]},
            [
                "stress case a_minute_later fails: 50.0% of 100 rows behave, 90.0% must "
                "(a minute changes nothing)"
            ],
        ),
    ],
    ids=["fairness", "robustness", "failure", "latency", "stress"],
)
def test_what_the_examination_found_stops_it(examined: dict[str, Any], reasons: list[str]) -> None:
    limits = {"fairness": {"selection_rate": 0.3}, "robustness": {"max_auc_loss": {"missing": 0.1}}}
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD, **examined)), **limits)
    assert not decision.promote
    assert set(reasons) <= set(decision.reasons)


def test_what_keeps_its_limits_passes_and_warnings_do_not_stop() -> None:
    examined: dict[str, Any] = {
        "fairness": [_parity(0.1, 0.35)],
        "robustness": [Disturbed(scenario="missing", rows=9, roc_auc_loss=0.05, flipped=0.9)],
        "latency": SLOW.model_copy(update={"p95_ms": 20.0, "rows_per_second": 9000.0}),
        "stress": [_stressed(0.5, "warn"), _stressed(0.95, "stop")],
    }
    limits = {"fairness": {"selection_rate": 0.3}, "robustness": {"max_auc_loss": {"missing": 0.1}}}
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD, **examined)), **limits)
    assert decision.promote
    assert "limits of robustness hold, the closest of 1 at 50%" in decision.reasons
    assert any(reason.startswith("stress case a_minute_later warns: 50.0%") for reason in decision.reasons)


def test_a_champion_that_cannot_be_compared_holds_no_one_back() -> None:
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD), champion=_deployment("1", "old")))
    assert decision.promote
    assert decision.reasons[-1].endswith("version 1 reads columns the features no longer have: gone")


def test_the_champion_itself_is_confirmed() -> None:
    log = f"deployments/{synthetic.use_case().name}"
    append_log.append(log, _deployment("1", "hash-trees").model_dump(mode="json"))
    decision = _decide(_evaluation(_challenge("trees", 0.7, GOOD)))
    assert decision.promote
    assert decision.reasons[-1] == "this very model is the champion already, version 1"


def test_a_model_that_was_rolled_back_does_not_return_by_itself() -> None:
    uc = synthetic.use_case()
    back = _deployment("1", "old").model_copy(update={"action": "rollback", "reasons": ["too many alarms"]})
    for entry in (_deployment("1", "old"), _deployment("2", "hash-trees"), back):
        append_log.append(f"deployments/{uc.name}", entry.model_dump(mode="json"))
    decision = _decide(
        _evaluation(
            _challenge("trees", 0.7, GOOD, champion=_ahead(0.07)),
            champion=back,
            judged=GOOD | {"roc_auc": 0.65},
        )
    )
    assert not decision.promote
    assert "rolled back" in decision.reasons[-1]
    assert "too many alarms" in decision.reasons[-1]


def test_what_the_gate_refused_cannot_be_promoted() -> None:
    refused = _decide(_evaluation(_challenge("trees", 0.7, GOOD | {"roc_auc": 0.5})))
    with pytest.raises(DataError, match="breaks its floor"):
        deployments.promote(synthetic.use_case(), refused, effective_from=date(2020, 2, 10))
    assert deployments.newest(synthetic.use_case()) is None


def test_it_travels_as_json() -> None:
    evaluation = _evaluation(_challenge("trees", 0.7, GOOD), champion=_deployment("1", "old"))
    assert Evaluation.model_validate(evaluation.model_dump(mode="json")) == evaluation
    decision = _decide(evaluation)
    assert Decision.model_validate(decision.model_dump(mode="json")) == decision
