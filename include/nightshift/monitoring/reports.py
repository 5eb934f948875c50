"""Evidently's page about a day, and where it is kept.

The page shows what was found elsewhere (``drift``) in Evidently's pictures; it decides nothing. Evidently
takes seconds to import, so this module imports it only when it draws.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.monitoring.baseline import SCORE
from nightshift.monitoring.drift import DriftResult
from nightshift.monitoring.sketches import numbers, texts
from nightshift.registry import deployments, models
from nightshift.registry.records import Deployment
from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    import pandas as pd

# Rows of either sample that are drawn.
SAMPLE_ROWS = 5_000

# Columns that Evidently draws. Drawing is most of the cost: 95 columns took 10 s of CPU, their distances 1 s.
PICTURES = 12

_MISSING = "(missing)"


def draw(uc: UseCase, result: DriftResult, deployed: Sequence[Deployment] | None = None) -> Path | None:
    """Draw the page of a judged day, unless it is there already; None when there is nothing to draw.

    Drawn are the scores, the columns that moved, and those nearest to their limit.

    Args:
        uc: The use case.
        result: What ``drift.check`` found for the day.
        deployed: ``deployments.history``, for who draws many days; read anew by default.
    """
    page = drift_report(uc, result.partition)
    deployment = deployments.champion_at(uc, result.partition, deployed)
    if deployment is None or not result.windows or _stamp(page) == result.inputs:
        return page if page.exists() else None
    day = _day(uc, result.partition)
    reference = models.load_model(uc, deployment.version, deployment.model_hash).reference
    window = result.windows[0]
    nearest = sorted(window.distances, key=lambda name: -window.distances[name] / window.limits[name])
    wanted = dict.fromkeys([SCORE, *result.columns, *nearest])
    drawn = [name for name in wanted if name in window.distances and _has_values(reference, name, uc)][
        :PICTURES
    ]
    if not drawn:
        return None
    limits = {name: window.limits[name] for name in drawn}
    categorical = [name for name in drawn if name in uc.features.categorical]
    html, figures = compare(reference, day, limits=limits, categorical=categorical)
    keep(page, html, {"inputs": result.inputs, "result": result.model_dump(mode="json"), "report": figures})
    return page


def compare(
    reference: pa.Table, current: pa.Table, *, limits: Mapping[str, float], categorical: Sequence[str]
) -> tuple[str, object]:
    """Return Evidently's page about ``current`` beside ``reference``, and the figures on it.

    Args:
        reference: Rows that show how things were.
        current: Rows to show beside them.
        limits: Columns to draw, and what an ordinary day stays below: Wasserstein distance in standard
            deviations of the reference; of categorical ones Jensen-Shannon distance.
        categorical: Which of them are categorical.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    numeric = [name for name in limits if name not in categorical]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=list(categorical))
    before, now = (
        Dataset.from_pandas(_frame(thin(table), numeric, categorical), data_definition=definition)
        for table in (reference, current)
    )
    report = Report(
        [
            ValueDrift(
                column=name,
                method="jensenshannon" if name in categorical else "wasserstein",
                threshold=limit,
            )
            for name, limit in limits.items()
        ]
    ).run(now, before)
    return report.get_html_str(as_iframe=False), json.loads(report.json())


def thin(table: pa.Table) -> pa.Table:
    """Return at most ``SAMPLE_ROWS`` rows, evenly spaced rather than random: the same rows on every run."""
    if table.num_rows <= SAMPLE_ROWS:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, SAMPLE_ROWS).astype(np.int64))


def drift_report(uc: UseCase, partition: date) -> Path:
    """Return where the drift report of ``partition`` is kept; ``drift.json`` lies beside it."""
    return settings().home / "reports" / uc.name / "drift" / partition.isoformat() / "drift.html"


def keep(report: Path, html: str, figures: Mapping[str, object]) -> None:
    """Write the HTML page at ``report`` and the JSON beside it, each whole or not at all, the page first."""
    report.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    # The figures say which result the page shows, so they come last: without them it is drawn again.
    for target, content in ((report, html), (report.with_suffix(".json"), text)):
        draft = target.with_name(f"{target.name}.{os.getpid()}.part")
        draft.write_text(content, encoding="utf-8")
        draft.replace(target)


def _stamp(page: Path) -> str | None:
    """Return which result the kept page shows; None when there is none, or a part of it is missing."""
    try:
        found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8")).get("inputs")
    except (OSError, ValueError):
        return None
    return str(found) if page.exists() else None


def _day(uc: UseCase, partition: date) -> pa.Table:
    """Return features and scores of one day, in order of the entity."""
    columns = [uc.entity, *uc.features.columns]
    features = tables.read_partitions(uc, "features", partition, partition, columns=columns)
    scores = tables.read_partitions(uc, "predictions", partition, partition, columns=[uc.entity, SCORE])
    return features.join(scores, keys=uc.entity, join_type="left outer").sort_by(uc.entity)


def _has_values(table: pa.Table, name: str, uc: UseCase) -> bool:
    if name not in table.column_names:
        return False
    return name in uc.features.categorical or bool(np.isfinite(numbers(table, name)).any())


def _frame(table: pa.Table, numeric: Sequence[str], categorical: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: numbers(table, name) for name in numeric}
    named = {name: pc.fill_null(texts(table, name), _MISSING).to_pylist() for name in categorical}
    return pd.DataFrame(columns | {name: pd.Series(values, dtype=object) for name, values in named.items()})
