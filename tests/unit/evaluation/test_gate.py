"""The gate's verdicts, each with the reason a person would read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from tests import synthetic

from nightshift.errors import DataError
from nightshift.evaluation.evaluate import Challenge, Evaluation, Judged
from nightshift.evaluation.gate import gate
from nightshift.lake import append_log
from nightshift.registry import deployments
from nightshift.registry.records import Candidate, Decision, Deployment

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


def _challenge(name: str, validation: float, holdout: dict[str, float]) -> Challenge:
    return Challenge(candidate=_candidate(name, validation), judged=Judged(metrics=holdout, slices={}))


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
    *challenges: Challenge, champion: Deployment | None = None, judged: dict[str, float] | None = None
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
    ("theirs", "margin", "passes"),
    [(0.71, 0.0, True), (0.72, 0.0, False), (0.73, 0.0, False), (0.71, 0.02, False), (0.69, 0.02, True)],
)
def test_it_must_beat_the_champion_on_the_same_rows(theirs: float, margin: float, passes: bool) -> None:
    evaluation = _evaluation(
        _challenge("trees", 0.7, GOOD), champion=_deployment("1", "old"), judged=GOOD | {"roc_auc": theirs}
    )
    decision = _decide(evaluation, min_improvement=margin)
    assert decision.promote is passes
    assert f"the champion's {theirs:.4f} (version 1)" in decision.reasons[-1]
    assert "the same 500 rows of 2020-02-02 to 2020-02-08" in decision.reasons[-1]


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
        _evaluation(_challenge("trees", 0.7, GOOD), champion=back, judged=GOOD | {"roc_auc": 0.65})
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
