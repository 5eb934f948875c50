"""Evidently's comparison of two samples, and where its reports are kept.

Evidently takes seconds to import, so this module imports it only when it compares.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.monitoring.baseline import numbers
from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    import pandas as pd

# Rows of either sample that are compared: the distances move by about 0.02 standard deviations, far below any
# threshold worth setting, and the cost falls to a half of that with 20,000.
SAMPLE_ROWS = 5_000

# Columns that Evidently draws. Drawing is most of the cost: 95 columns took 10 s of CPU, their distances 1 s.
PICTURES = 12

_MISSING = "(missing)"


@dataclass(frozen=True)
class Comparison:
    """Distances by column, and Evidently's report of the columns that matter most.

    Attributes:
        distances: Numeric columns: Wasserstein distance in standard deviations of the reference. Categorical
            columns: Jensen-Shannon distance (natural logarithm), a missing value being a category of its own.
        html: A page that needs no network.
        json: ``distances`` and ``limits`` of all columns, and under ``report`` the figures of the page.
    """

    distances: dict[str, float]
    html: str
    json: str


def thin(table: pa.Table) -> pa.Table:
    """Return at most ``SAMPLE_ROWS`` rows, evenly spaced rather than random: the same rows on every run."""
    if table.num_rows <= SAMPLE_ROWS:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, SAMPLE_ROWS).astype(np.int64))


def compare(
    reference: pa.Table,
    current: pa.Table,
    *,
    numeric: Mapping[str, float],
    categorical: Mapping[str, float],
    picture: Sequence[str] = (),
) -> Comparison:
    """Compare ``current`` with ``reference``, both thinned, by Evidently's statistics.

    Every column is compared. Drawn are those in ``picture`` and the ones furthest beyond their limit, or
    nearest to it, up to ``PICTURES`` in all.

    Args:
        reference: Rows that show how things were.
        current: Rows to judge; their order decides only which are taken when there are too many.
        numeric: Limit of each numeric column to compare; every one has a value in both samples.
        categorical: Limit of each categorical column to compare.
        picture: Columns to draw in any case.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
    from evidently.legacy.core import ColumnType
    from evidently.metrics import ValueDrift

    limits = {**numeric, **categorical}
    frames = [_frame(thin(table), list(numeric), list(categorical)) for table in (reference, current)]
    distances = {}
    for name, limit in limits.items():
        test, kind = (
            (wasserstein_stat_test, ColumnType.Numerical)
            if name in numeric
            else (jensenshannon_stat_test, ColumnType.Categorical)
        )
        before, now = (frame[name].replace([-np.inf, np.inf], np.nan).dropna() for frame in frames)
        distances[name] = float(test(before, now, kind, limit).drift_score)
    furthest = sorted(distances, key=lambda name: -distances[name] / limits[name])
    drawn = list(dict.fromkeys([*picture, *furthest]))[:PICTURES]
    definition = DataDefinition(
        numerical_columns=[name for name in drawn if name in numeric],
        categorical_columns=[name for name in drawn if name in categorical],
    )
    before, now = (Dataset.from_pandas(frame[drawn], data_definition=definition) for frame in frames)
    report = Report(
        [
            ValueDrift(
                column=name,
                method="wasserstein" if name in numeric else "jensenshannon",
                threshold=limits[name],
            )
            for name in drawn
        ]
    ).run(now, before)
    figures = {"distances": distances, "limits": limits, "report": json.loads(report.json())}
    return Comparison(distances, report.get_html_str(as_iframe=False), json.dumps(figures, indent=1))


def drift_report(uc: UseCase, partition: date) -> Path:
    """Return where the drift report of ``partition`` is kept; ``drift.json`` lies beside it."""
    return settings().home / "reports" / uc.name / "drift" / partition.isoformat() / "drift.html"


def keep(report: Path, comparison: Comparison) -> None:
    """Write the HTML page at ``report`` and the JSON beside it, each whole or not at all, the page last."""
    report.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((report.with_suffix(".json"), comparison.json), (report, comparison.html)):
        draft = target.with_name(f"{target.name}.{os.getpid()}.part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)


def _frame(table: pa.Table, numeric: list[str], categorical: list[str]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: numbers(table, name) for name in numeric}
    texts = {
        name: pc.fill_null(pc.cast(table.column(name), pa.string()), _MISSING).to_pylist()
        for name in categorical
    }
    return pd.DataFrame(columns | {name: pd.Series(values, dtype=object) for name, values in texts.items()})
