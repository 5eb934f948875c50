"""Evidently's page: complete without a network, with the limits that decide."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import wasserstein_distance

from nightshift.monitoring import reports
from nightshift.usecase import UseCase


def _table(rows: int, seed: int, shift: float = 0.0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table({"x": random.normal(size=rows) * 3 + shift, "c": random.choice(["a", "b"], size=rows)})


def test_the_page_shows_the_columns_asked_for_by_evidentlys_own_distances() -> None:
    reference, current = _table(2000, 1), _table(500, 2, shift=6.0)
    html, figures = reports.compare(reference, current, limits={"x": 0.4, "c": 0.2}, categorical=["c"])
    assert isinstance(figures, dict)
    drawn = {item["config"]["column"]: item for item in figures["metrics"]}
    assert {name: item["config"]["threshold"] for name, item in drawn.items()} == {"x": 0.4, "c": 0.2}
    x, y = reference["x"].to_numpy(), current["x"].to_numpy()
    assert drawn["x"]["value"] == pytest.approx(wasserstein_distance(x, y) / np.std(x), rel=1e-3)
    assert "<script src=" not in html
    assert len(html) > 1_000_000


def test_many_rows_are_thinned_to_the_same_rows_every_time() -> None:
    first, second = (reports.thin(_table(40_000, 1)) for _ in range(2))
    assert first.num_rows == reports.SAMPLE_ROWS
    assert first.equals(second)


def test_page_and_figures_lie_side_by_side(home: object, flight_delays: UseCase) -> None:
    page = reports.drift_report(flight_delays, date(2013, 7, 1))
    reports.keep(page, "<html>", {"inputs": "1"})
    assert sorted(file.name for file in page.parent.iterdir()) == ["drift.html", "drift.json"]
