"""Building features and labels of a range of nights, and staging them day by day.

Features of a night depend on the raw partitions of its look-back, and on nothing else: not on which nights
were built before, nor in which order, nor in how large a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError, TransientError
from nightshift.lake import raw
from nightshift.lake.lineage import record_build
from nightshift.lake.staging import Staged, stage
from nightshift.partition import days
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.engine import engine
from nightshift.warehouse.load import load, partitions_read, wanted
from nightshift.warehouse.read import read

Layer = Literal["features", "labels"]


def require_raw(uc: UseCase, start: date, end: date) -> None:
    """Check that everything the nights ``start`` to ``end`` look back on has landed.

    Raises:
        TransientError: A raw partition has no manifest, so its night was not ingested yet; lags computed
            now would silently be wrong.
    """
    missing: list[str] = []
    for source, name, table in uc.tables():
        where = f"{source}.{name}"
        if table.refresh == "slow":
            if raw.newest_snapshot(uc, source, name, start) is None:
                missing.append(f"{where}: no snapshot up to {start}")
            continue
        first, last = partitions_read(uc, table, start, end)
        landed = raw.current_many(uc, source, name, first, last)
        lacking = [day for day in days(first, last) if day not in landed]
        if lacking:
            missing.append(f"{where}: {_shortened(lacking)}")
    if missing:
        raise TransientError(
            f"{uc.name}: features of {start} to {end} wait for raw partitions that are not there yet: "
            + "; ".join(missing)
        )


def build(uc: UseCase, start: date, end: date) -> dict[Layer, list[Staged]]:
    """Build the nights ``start`` to ``end`` in the warehouse and stage what came out, a partition a day.

    Returns:
        ``features``: one item per night. ``labels``: one per day whose truth those nights made known or
        corrected. Both oldest first.

    Raises:
        TransientError: Raw partitions are missing, or the warehouse is locked or out of reach.
        DataError: A model or a data test failed, or the relations do not have the columns that
            ``usecase.yml`` declares.
    """
    require_raw(uc, start, end)
    first, last = _labelled(uc, start, end)
    # Nights that overlap share partitions of the warehouse: none of these steps may fall between another's.
    with engine().exclusive(uc.name):
        manifests = wanted(uc, start, end)
        build_id = record_build(uc, manifests)
        load(uc, start, end, manifests)
        dbt.build(uc, start, end)
        features = read(uc, uc.features.relation, start, end)
        labels = read(uc, uc.label.relation, first, last)
    columns = (uc.entity, "partition", uc.event_time, *uc.features.columns)
    staged: dict[Layer, list[Staged]] = {
        "features": list(_stage(uc, "features", _exactly(uc, features, columns), days(start, end), build_id))
    }
    staged["labels"] = list(_stage(uc, "labels", labels, days(first, last), build_id))
    return staged


def _labelled(uc: UseCase, start: date, end: date) -> tuple[date, date]:
    """Return the first and last day whose truth the nights made known, late arrivals included."""
    corrections = max(table.correction_days for _, _, table in uc.tables())
    first = start - timedelta(days=uc.label.lag_days + corrections)
    return max(uc.history_start, first), end - timedelta(days=uc.label.lag_days)


def _exactly(uc: UseCase, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    if set(table.column_names) != set(columns):
        absent = sorted(set(columns) - set(table.column_names))
        surplus = sorted(set(table.column_names) - set(columns))
        raise DataError(
            f"relation {uc.features.relation} lacks {absent} and has {surplus} besides",
            rule="the feature relation has the entity, partition, event time and the features, nothing else",
            where=f"usecase.yml of {uc.name}, features, and the model {uc.features.relation}",
            cure="list the same columns in both",
        )
    return table.select(columns)


def _stage(
    uc: UseCase, layer: Layer, table: pa.Table, partitions: Iterable[date], build_id: str
) -> Iterator[Staged]:
    table = table.sort_by("partition")
    counts = {row["values"].as_py(): row["counts"].as_py() for row in pc.value_counts(table["partition"])}
    offset = 0
    for day in partitions:
        rows = counts.get(day, 0)
        yield stage(uc, layer, day, table.slice(offset, rows), (uc.entity,), build_id)
        offset += rows


def _shortened(lacking: Sequence[date]) -> str:
    shown = ", ".join(str(day) for day in lacking[:3])
    return shown if len(lacking) <= 3 else f"{shown} and {len(lacking) - 3} more"
