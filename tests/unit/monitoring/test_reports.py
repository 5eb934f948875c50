"""Evidently's distances are the ones documented, and its pages are complete."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from nightshift.monitoring import reports
from nightshift.usecase import UseCase


def _table(rows: int, seed: int, shift: float = 0.0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table({"x": random.normal(size=rows) * 3 + shift, "c": random.choice(["a", "b"], size=rows)})


def test_numeric_distance_is_wasserstein_in_standard_deviations() -> None:
    reference, current = _table(2000, 1), _table(500, 2, shift=6.0)
    found = reports.compare(reference, current, numeric={"x": 0.5}, categorical={}).distances["x"]
    x, y = reference["x"].to_numpy(), current["x"].to_numpy()
    assert found == pytest.approx(wasserstein_distance(x, y) / np.std(x), rel=1e-3)
    assert found == pytest.approx(2.0, abs=0.15)


def test_categorical_distance_counts_missing_and_new_values() -> None:
    reference = pa.table({"c": ["a"] * 50 + ["b"] * 50})
    current = pa.table({"c": pa.array(["a"] * 40 + [None] * 10 + ["new"] * 50)})
    found = reports.compare(reference, current, numeric={}, categorical={"c": 0.2}).distances["c"]
    assert found == pytest.approx(jensenshannon([0.5, 0.5, 0, 0], [0.4, 0, 0.1, 0.5]), abs=1e-3)


def test_many_rows_are_thinned_to_the_same_rows_every_time() -> None:
    reference, current = _table(40_000, 1), _table(40_000, 2)
    first, second = (
        reports.compare(reference, current, numeric={"x": 0.5}, categorical={"c": 0.2}) for _ in range(2)
    )
    assert first.distances == second.distances
    assert max(first.distances.values()) < 0.1


def test_pages_need_no_network_and_name_every_column(home: Path, flight_delays: UseCase) -> None:
    page = reports.drift_report(flight_delays, date(2013, 7, 1))
    comparison = reports.compare(_table(300, 1), _table(300, 2), numeric={"x": 0.5}, categorical={"c": 0.2})
    reports.keep(page, comparison)
    assert page.is_relative_to(home)
    figures = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert figures["distances"] == comparison.distances
    assert {item["config"]["column"] for item in figures["report"]["metrics"]} == {"x", "c"}
    html = page.read_text(encoding="utf-8")
    assert "<script src=" not in html
    assert len(html) > 1_000_000
    assert sorted(file.name for file in page.parent.iterdir()) == ["drift.html", "drift.json"]


def test_the_page_draws_what_moved_most_and_agrees_with_the_distances() -> None:
    random = np.random.default_rng(3)
    reference = pa.table({f"x{i}": random.normal(size=500) for i in range(40)})
    current = pa.table({f"x{i}": random.normal(size=300) + (i == 17) for i in range(40)})
    limits = dict.fromkeys(reference.column_names, 0.5)
    comparison = reports.compare(reference, current, numeric=limits, categorical={}, picture=["x3"])
    assert len(comparison.distances) == 40
    drawn = {
        item["config"]["column"]: item["value"] for item in json.loads(comparison.json)["report"]["metrics"]
    }
    assert len(drawn) == reports.PICTURES
    assert {"x3", "x17"} <= set(drawn)
    assert drawn == pytest.approx({name: comparison.distances[name] for name in drawn})
