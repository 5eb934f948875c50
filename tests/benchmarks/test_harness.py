"""What the harness promises: equal results or no figures, alternating rounds, medians, and a page of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # nosec B405  # reads what the test wrote

import pytest

from nightshift.settings import settings

from . import report
from .harness import ROUNDS, Comparison, DifferentResultsError, Measure, Timed, compare, row

SECONDS = {"ours": [9.0, 3.0, 1.0, 2.0, 2.5, 8.0], "other": [9.0, 1.0, 2.0, 1.5, 1.0, 4.0]}


def made(measure: Measure = "ratio", at_most: float = 2.0, calls: list[str] | None = None) -> Comparison:
    def side(name: str) -> Any:
        def run(number: int) -> Timed:
            if calls is not None:
                calls.append(f"{name}{number}")
            return Timed(SECONDS[name][number], result=number)

        return run

    def check(ours: int, other: int) -> None:
        if ours != other:
            raise DifferentResultsError

    return Comparison("importing dags/", "x", measure, at_most, side("ours"), side("other"), check, "A note.")


def test_rounds_alternate_after_a_warm_up_that_does_not_count() -> None:
    calls: list[str] = []
    measured = compare(made(calls=calls), ROUNDS)
    assert calls == [f"{name}{number}" for number in range(ROUNDS + 1) for name in ("ours", "other")]
    # Medians of 3, 1, 2, 2.5, 8 and of 1, 2, 1.5, 1, 4; the warm-up's 9 seconds are nowhere.
    assert measured["ours_s"] == {"median": 2.5, "range": [1.0, 8.0]}
    assert measured["other_s"] == {"median": 1.5, "range": [1.0, 4.0]}
    assert (measured["ratio"], measured["ratio_range"]) == (1.667, [0.5, 3.0])
    assert measured["rounds"] == ROUNDS >= 5


def test_different_results_give_no_figures() -> None:
    whole = made()
    different = Comparison(
        **{**vars(whole), "other": lambda number: Timed(1.0, result=number if number < 3 else "else")}
    )
    with pytest.raises(DifferentResultsError):
        compare(different, ROUNDS)


@pytest.mark.parametrize(
    ("measure", "at_most", "verdict", "target"),
    [
        ("ratio", 1.7, "met", "at most 1.7 times"),
        ("ratio", 1.6, "missed", "at most 1.6 times"),
        ("overhead", 1.0, "met", "at most 1 s more"),
        ("overhead", 0.9, "missed", "at most 0.9 s more"),
        ("seconds", 2.5, "met", "at most 2.5 s"),
        ("seconds", 2.4, "missed", "at most 2.4 s"),
    ],
)
def test_the_verdict_is_of_the_median(measure: Measure, at_most: float, verdict: str, target: str) -> None:
    pairs = list(zip(SECONDS["ours"][1:], SECONDS["other"][1:], strict=True))
    found = row(made(measure, at_most), pairs)
    assert (found["verdict"], found["target"]) == (verdict, target)


def test_rows_are_merged_into_the_page_its_figures_and_its_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    try:
        figures, page, chart = report.files()
        first = compare(made(), ROUNDS)
        report.write([first | {"name": "batch inference", "verdict": "missed"}])
        report.write([first])
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    rows = json.loads(figures.read_text())["rows"]
    assert [(found["name"], found["verdict"]) for found in rows] == [
        ("importing dags/", "met"),
        ("batch inference", "missed"),
    ]
    assert all({"name", "against", "ratio", "target", "verdict"} <= set(found) for found in rows)
    assert page.read_text().count("1.67 (0.50 to 3.00)") == 2
    drawn = ElementTree.parse(chart)  # nosec B314  # reads what the test wrote
    assert len(drawn.findall("{http://www.w3.org/2000/svg}rect[@class='met']")) == 1


def test_the_committed_page_shows_the_committed_figures() -> None:
    figures, page, chart = report.files()
    rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert page.read_text(encoding="utf-8") == report.render(rows)
    assert chart.read_text(encoding="utf-8") == report.draw(rows)


def test_quick_runs_and_writes_nothing() -> None:
    """``night`` needs minutes and a whole Airflow; the end-to-end tests run that chain."""
    files = report.files()
    before = [file.read_bytes() for file in files]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", "imports", "inference"],
        cwd=settings().project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs, and the results are equal") == 2
    assert [file.read_bytes() for file in files] == before
