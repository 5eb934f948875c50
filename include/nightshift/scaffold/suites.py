"""The expectations that a new use case begins with: keys, types of values, and what would leak."""

from __future__ import annotations

from typing import Any

from nightshift.scaffold.answers import Answers

Suite = dict[str, Any]


def suites(answers: Answers) -> dict[str, Suite]:
    """Return each suite by its name, in Great Expectations' own form."""
    entity, label = answers.entity, answers.label
    key = [
        _rule(
            "key_not_null",
            "stop",
            "column_values_to_not_be_null",
            "A row without its key is of no use.",
            column=entity,
        ),
        _rule(
            "key_unique",
            "stop",
            "compound_columns_to_be_unique",
            "A key that comes twice would count twice.",
            column_list=["partition", entity],
        ),
    ]
    numbers = [
        _rule(
            f"{column}_not_null",
            "warn",
            "column_values_to_not_be_null",
            "Replace this by what is known of the column: a range, a share of nulls.",
            column=column,
            mostly=0.5,
        )
        for column in answers.numeric
    ]
    binary = _rule(
        "label_is_binary",
        "quarantine",
        "column_values_to_be_in_set",
        "An outcome is 0 or 1.",
        column=label,
        value_set=[0, 1],
    )
    known_later = _rule(
        "known_after_its_day",
        "stop",
        "column_values_to_be_between",
        "A label that is known on its own day is one that training could not have had.",
        column="days_until_known",
        min_value=1,
    )
    scored = [
        _rule(
            "every_entity_scored",
            "stop",
            "column_distinct_values_to_equal_set",
            "What has features is scored, and nothing else is.",
            column=entity,
            value_set={"$PARAMETER": "entities"},
        ),
        *key,
        _rule(
            "score_is_probability",
            "stop",
            "column_values_to_be_between",
            "Scores are calibrated probabilities.",
            column="score",
            min_value=0,
            max_value=1,
        ),
    ]
    frozen = [
        _rule(
            "entity_in_one_part",
            "stop",
            "column_values_to_be_between",
            "What is in training and in the holdout is examined with its own answer.",
            column="parts_of_entity",
            max_value=1,
        ),
        _rule(
            "before_the_night",
            "stop",
            "column_values_to_be_between",
            "Only days before the night can have labels that the night knows.",
            column="days_before_night",
            max_value=-1,
        ),
    ]
    return {
        "raw_events": _suite("raw_events", [*key, *numbers], quarantine_at_most=0.05),
        "raw_outcomes": _suite("raw_outcomes", [*key, binary], quarantine_at_most=0.05),
        "features": _suite("features", [*key, *numbers], quarantine_at_most=0.02),
        "labels": _suite(
            "labels",
            [*key, known_later, binary],
            quarantine_at_most=0.02,
            derived={"days_until_known": {"days_after": "label_available_on"}},
        ),
        "features_profile": _suite("features_profile", _beside_training(), quarantine_at_most=1.0),
        "snapshot": _suite(
            "snapshot",
            frozen,
            quarantine_at_most=0.0,
            derived={"days_before_night": {"days_after": "day"}},
        ),
        "snapshot_profile": _suite("snapshot_profile", _beside_training(), quarantine_at_most=0.0),
        "predictions": _suite("predictions", scored, quarantine_at_most=0.0),
    }


def _beside_training() -> list[dict[str, Any]]:
    pairs = {
        "mean_not_below_training": ("mean", "mean_low"),
        "mean_not_above_training": ("mean_high", "mean"),
        "filled_as_in_training": ("filled", "filled_low"),
    }
    return [
        _rule(
            name,
            "warn",
            "column_pair_values_a_to_be_greater_than_b",
            "Far from what training saw: look at the source, then at the world.",
            column_A=larger,
            column_B=smaller,
            or_equal=True,
            ignore_row_if="either_value_is_missing",
        )
        for name, (larger, smaller) in pairs.items()
    ]


def _rule(name: str, severity: str, expectation: str, reason: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "type": f"expect_{expectation}",
        "kwargs": kwargs,
        "meta": {"rule": name, "severity": severity, "reason": reason},
    }


def _suite(name: str, rules: list[dict[str, Any]], **meta: Any) -> Suite:
    return {"name": name, "expectations": rules, "meta": meta}
