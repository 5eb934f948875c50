"""docs/validation.md: every suite, every rule and every planted defect that it names is there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "validation.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## Six classes at six stages")[1].split("\n## ")[0]
PLANTED = PROJECT / "tests" / "integration" / "quality" / "test_six_classes.py"


def cases_of_tests(source: str) -> dict[str, set[str]]:
    """Return the ids of the cases of each test function."""
    return {
        node.name: {
            keyword.value.value
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
            for keyword in call.keywords
            if keyword.arg == "id" and isinstance(keyword.value, ast.Constant)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_class_has_a_test_at_every_stage() -> None:
    rows = [line.split("|")[1:-1] for line in TABLE.splitlines() if line.startswith("| **")]
    assert [row[0].strip(" *") for row in rows] == [
        "schema",
        "range",
        "distribution",
        "duplicates",
        "temporal",
        "consistency",
    ]
    for row in rows:
        assert len(row) == 7
        without = [cell.strip() for cell in row[1:] if "`test_" not in cell]
        # A distribution is judged once dbt has made features of it.
        assert without == (["judged on features"] if "distribution" in row[0] else [])


def test_named_cases_of_tests_exist_and_no_case_is_left_out() -> None:
    found = cases_of_tests(PLANTED.read_text(encoding="utf-8"))
    elsewhere = (PROJECT / "tests" / "dbt" / "test_same_features.py").read_text(encoding="utf-8")
    named: dict[str, set[str]] = {}
    for test, cases in re.findall(r"`(test_\w+)`(?: \[([^\]]+)\])?", TABLE):
        named.setdefault(test, set()).update(cases.split(", ") if cases else ())
    assert len(named) >= 12
    for test, cases in named.items():
        assert test in found or f"def {test}(" in elsewhere, test
        assert cases == found.get(test, set()), test


def test_every_suite_is_named_and_every_rule_that_is_named_exists() -> None:
    files = sorted((PROJECT / "expectations" / "flight_delays").glob("*.json"))
    assert len(files) >= 12
    rules = {rule["meta"]["rule"] for file in files for rule in json.loads(file.read_text())["expectations"]}
    rules |= {file.stem for file in (PROJECT / "dbt_project" / "tests" / "generic").glob("*.sql")}
    for file in files:
        assert f"`{file.stem}`" in PAGE, file.name
    cells = "\n".join(line for line in TABLE.splitlines() if line.startswith("| **"))
    words = set(re.findall(r"`([a-z]\w*_\w+)`", cells))
    named = {word for word in words if not word.startswith("test_")}
    assert len(named) >= 30
    assert named <= rules, named - rules
