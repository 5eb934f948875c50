"""Judging the data of a training before anything is trained: parts that leak, labels that are one-sided.

A snapshot is frozen, so no row of it can be quarantined: its rules stop the training, or warn. Two suites
judge it. ``snapshot`` sees one row a labelled entity: the part it is in (train, validation, holdout), its
day, event time and label, and in how many parts the entity (``parts_of_entity``) and a row with the same
model inputs (``parts_of_inputs``) lie. ``snapshot_profile`` sees one row a part and feature, beside what the
training part says of the feature, as ``reference.COMPARED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa

from nightshift.errors import DataError
from nightshift.quality.reference import profile, side_by_side
from nightshift.quality.schema import check_schema, feature_columns
from nightshift.quality.suites import load_suite, suite_file
from nightshift.quality.validate import validate
from nightshift.usecase import UseCase

_NIGHT = "night"


def validate_snapshot(uc: UseCase, night: date, parts: Mapping[str, pa.Table]) -> list[str]:
    """Judge the parts of a snapshot as they were frozen; reports are named by the night.

    Args:
        uc: The use case.
        night: The night whose knowledge the snapshot holds.
        parts: Its rows by part; ``train`` is what the others are compared with.

    Returns:
        One line for each broken ``warn`` rule.

    Raises:
        DataError: A ``stop`` rule is broken, columns are missing or of another type, or a suite quarantines.
    """
    for name in ("snapshot", "snapshot_profile"):
        _refuse_quarantine(uc, name)
    for part, rows in parts.items():
        declared = feature_columns(uc) | {uc.label.column: "number"}
        place = f"{uc.name}/snapshot of {night}, {part}"
        check_schema(rows, declared, rule="snapshot.columns", place=place, exact=False)
    warnings: list[str] = []
    for name, rows in (
        ("snapshot", _records(uc, night, parts)),
        ("snapshot_profile", _compared(uc, night, parts)),
    ):
        warnings += validate(uc, name, rows, partition_column=_NIGHT, where=name, partitions=[night]).warnings
    return warnings


def _records(uc: UseCase, night: date, parts: Mapping[str, pa.Table]) -> pa.Table:
    columns = [uc.entity, uc.event_time, uc.label.column]
    together = pa.concat_tables(
        rows.select([*columns, "partition"])
        .rename_columns([*columns, "day"])
        .append_column("part", pa.repeat(pa.scalar(part), rows.num_rows))
        for part, rows in parts.items()
    )
    part_of = together["part"].to_pandas()
    # A number of 64 bits instead of the row: among a million rows, one chance in 37 million that two meet.
    inputs = pd.concat(
        [pd.util.hash_pandas_object(_inputs(uc, rows), index=False) for rows in parts.values()],
        ignore_index=True,
    )
    return (
        together.append_column("parts_of_entity", _parts_of(together[uc.entity].to_pandas(), part_of))
        .append_column("parts_of_inputs", _parts_of(inputs, part_of))
        .append_column(_NIGHT, pa.repeat(pa.scalar(night), together.num_rows))
    )


def _inputs(uc: UseCase, rows: pa.Table) -> pd.DataFrame:
    """Return what a model reads. Whole numbers become floats in a part with nulls: so in every part."""
    return pd.DataFrame(
        {
            name: rows[name].cast(pa.float64()).to_pandas()
            if name in uc.features.numeric
            else rows[name].to_pandas()
            for name in uc.features.columns
        }
    )


def _parts_of(values: pd.Series[Any], part_of: pd.Series[Any]) -> pa.Array:
    """Return for each value in how many parts it lies."""
    pairs = pd.DataFrame({"value": values, "part": part_of})
    counts = pairs.drop_duplicates().groupby("value").size()
    return pa.array(pairs["value"].map(counts), pa.int64())


def _compared(uc: UseCase, night: date, parts: Mapping[str, pa.Table]) -> pa.Table:
    known = profile(uc, parts["train"])
    return pa.Table.from_pylist(
        [
            {_NIGHT: night, "part": part, "feature": name} | side_by_side(rows[name], known.get(name, {}))
            for part, rows in parts.items()
            for name in uc.features.numeric
        ]
    )


def _refuse_quarantine(uc: UseCase, name: str) -> None:
    suite = load_suite(uc, name)
    if rules := [rule.name for rule in suite.expectations if rule.meta.severity == "quarantine"]:
        raise DataError(
            f"rules of suite {name!r} quarantine: {', '.join(rules)}",
            rule="a snapshot is frozen: its rules stop or warn",
            where=str(suite_file(uc, name)),
            cure="give them the severity stop or warn; quarantine the rows where they enter, "
            "with the features or labels",
        )
