"""Evidently's comparison of two samples, and where its reports are kept.

Evidently takes seconds to import, so this module imports it only when it compares.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    import pandas as pd

# Rows of either sample that are compared. The pictures of 42 columns took 6.4 s of CPU against 20,000
# reference rows and 3.2 s against 5,000; the distances move by about 0.02 standard deviations, far below
# any threshold worth setting.
SAMPLE_ROWS = 5_000

_MISSING = "(missing)"


@dataclass(frozen=True)
class Comparison:
    """Distances by column, and Evidently's report of them.

    Attributes:
        distances: Numeric columns: Wasserstein distance in standard deviations of the reference. Categorical
            columns: Jensen-Shannon distance (natural logarithm), a missing value being a category of its own.
        html: A page that needs no network.
        json: The same figures for machines.
    """

    distances: dict[str, float]
    html: str
    json: str


def compare(
    reference: pa.Table, current: pa.Table, *, numeric: Mapping[str, float], categorical: Mapping[str, float]
) -> Comparison:
    """Compare ``current`` with ``reference``, both thinned to at most ``SAMPLE_ROWS`` rows.

    Args:
        reference: Rows that show how things were.
        current: Rows to judge; their order decides only which are taken when there are too many.
        numeric: Threshold of each numeric column to compare; every one has a value in both samples.
        categorical: Threshold of each categorical column to compare.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(numerical_columns=list(numeric), categorical_columns=list(categorical))
    samples = [
        Dataset.from_pandas(
            _frame(_thin(table), list(numeric), list(categorical)), data_definition=definition
        )
        for table in (current, reference)
    ]
    metrics = [
        ValueDrift(column=name, method="wasserstein", threshold=limit) for name, limit in numeric.items()
    ]
    metrics += [
        ValueDrift(column=name, method="jensenshannon", threshold=limit)
        for name, limit in categorical.items()
    ]
    result = Report(metrics).run(*samples)
    distances = {item["config"]["column"]: float(item["value"]) for item in result.dict()["metrics"]}
    return Comparison(distances, result.get_html_str(as_iframe=False), result.json())


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


def _thin(table: pa.Table) -> pa.Table:
    if table.num_rows <= SAMPLE_ROWS:
        return table
    # Evenly spaced rather than random: the same rows on every run.
    return table.take(np.linspace(0, table.num_rows - 1, SAMPLE_ROWS).astype(np.int64))


def _frame(table: pa.Table, numeric: list[str], categorical: list[str]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: pc.cast(table.column(name), pa.float64()).to_numpy() for name in numeric}
    texts = {
        name: pc.fill_null(pc.cast(table.column(name), pa.string()), _MISSING).to_pylist()
        for name in categorical
    }
    return pd.DataFrame(columns | {name: pd.Series(values, dtype=object) for name, values in texts.items()})
