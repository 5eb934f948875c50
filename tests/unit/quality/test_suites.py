"""Suites as people write them: what is refused, and that those of this repository are whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightshift.errors import DataError
from nightshift.quality.engine import judges_rows
from nightshift.quality.rules import bind
from nightshift.quality.suites import load_suite
from nightshift.settings import settings
from nightshift.usecase import UseCase

META = {"rule": "trial_rule", "severity": "quarantine", "reason": "a reason long enough"}
RULE = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "a"}, "meta": META}


def suite(**changes: Any) -> dict[str, Any]:
    return {"name": "trial", "expectations": [RULE], "meta": {"quarantine_at_most": 0.1}} | changes


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (suite(surprise=1), "surprise"),
        (suite(expectations=[RULE | {"meta": META | {"severity": "shout"}}]), "severity"),
        (suite(expectations=[RULE | {"meta": {"rule": "x", "severity": "warn"}}]), "reason"),
        (suite(expectations=[RULE, RULE]), "used twice: trial_rule"),
        (suite(expectations=[RULE | {"kwargs": {"column": "a", "mostly": 0.9}}]), "mostly"),
        (suite(meta={"quarantine_at_most": 0.1, "derived": {"x": {}}}), "exactly one"),
        (suite(name="other"), "other"),
        (suite(expectations=[]), "expectations"),
    ],
)
def test_a_malformed_suite_is_refused_and_the_fault_named(
    flight_delays: UseCase, write_suite: Callable[..., Path], content: dict[str, Any], named: str
) -> None:
    write_suite(RULE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=named) as error:
        load_suite(flight_delays, "trial")
    assert "trial.json" in error.value.where


def test_a_missing_suite_says_where_it_should_be(flight_delays: UseCase, home: Path) -> None:
    with pytest.raises(DataError, match="nowhere") as error:
        load_suite(flight_delays, "nowhere")
    assert error.value.where.endswith("nowhere.json")


def test_every_table_of_the_catalogue_has_a_suite_that_fits_its_columns(flight_delays: UseCase) -> None:
    tables = flight_delays.tables()
    assert len(tables) >= 6
    for _, name, table in tables:
        found = load_suite(flight_delays, f"raw_{name}")
        bind(found, [*table.columns, "partition", *found.meta.derived], name)
        required = {column for column, declared in table.columns.items() if not declared.nullable}
        counted = {column for derived in found.meta.derived.values() for column in derived.nulls or ()}
        assert required <= counted, f"raw_{name} lets nulls through that the catalogue forbids"
        rules = {rule.name: rule for rule in found.expectations}
        assert {"volume", "required_values_present", "row_not_repeated", "key_unique"} <= set(rules)
        assert rules["key_unique"].kwargs["column_list"] == ["partition", *table.key]


def test_great_expectations_can_build_every_rule_of_this_repository() -> None:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    files = sorted(settings().expectations.glob("*/*.json"))
    assert len(files) >= 10
    for file in files:
        for rule in json.loads(file.read_text(encoding="utf-8"))["expectations"]:
            judges_rows(rule["type"], str(file))
            # The one parameter there is stands for a set of values.
            given = {
                key: ["x"] if isinstance(value, dict) and "$PARAMETER" in value else value
                for key, value in rule["kwargs"].items()
            }
            ExpectationConfiguration(type=rule["type"], kwargs=given).to_domain_obj()


def test_an_unknown_expectation_is_an_error() -> None:
    with pytest.raises(DataError, match="expect_miracles"):
        judges_rows("expect_miracles", "trial")
