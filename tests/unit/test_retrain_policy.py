"""The retrain policy that a minimal use case gets, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nightshift.usecase import Retrain


def test_a_use_case_that_says_nothing_has_every_trigger_a_rest_and_a_budget() -> None:
    policy = Retrain()
    assert policy.enabled
    assert set(policy.triggers) == {"drift", "quality", "labels", "schedule"}
    assert (policy.max_quality_loss, policy.new_labels) == (0.05, 0.15)
    # What the schedule alone asks for fits, and cool-down does not hold it up.
    assert policy.budget.days / policy.every_days < policy.budget.requests
    assert policy.cooldown_days < policy.every_days


@pytest.mark.parametrize(
    "wrong",
    [
        {"triggers": ["by_hand"]},
        {"drifted_nights": 5, "drift_window": 4},
        {"budget": {"requests": 0}},
        {"max_quality_loss": 0.0},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Retrain.model_validate(wrong)
