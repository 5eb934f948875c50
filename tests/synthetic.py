"""A small made-up history, published to the lake as the real one is: features and labels by day."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from nightshift.lake import tables
from nightshift.partition import days
from nightshift.usecase import UseCase

START = date(2020, 1, 1)
CATEGORICAL = ("shop", "city")
NUMERIC = ("demand", "lag", "hour")
SHOPS = ("a", "b", "c", "d")


def use_case(**changes: Any) -> UseCase:
    """A use case over the made-up columns; ``changes`` replace its top-level keys."""
    content: dict[str, Any] = {
        "name": "synthetic",
        "title": "Made-up orders",
        "description": "Orders of four shops.",
        "owner": "tests",
        "timezone": "UTC",
        "history_start": START,
        "entity": "order_id",
        "event_time": "ordered_at",
        "label": {"column": "returned", "relation": "labels_synthetic"},
        "schedule": {"hour": 4},
        "features": {
            "relation": "features_synthetic",
            "lookback_days": 7,
            "categorical": CATEGORICAL,
            "numeric": NUMERIC,
        },
        "slices": ["shop"],
        "costs": {"false_positive": 1, "false_negative": 3},
        "training": {
            "window_days": 60,
            "validation_days": 7,
            "holdout_days": 7,
            "seed": 7,
            "trainers": {
                "trees": {"kind": "xgboost", "params": {"rounds": 60, "early_stopping_rounds": 10}},
                "network": {"kind": "torch", "params": {"hidden": [16], "epochs": 4, "batch_rows": 256}},
            },
        },
        "evaluation": {"resamples": 200},
        "gate": {"primary": "roc_auc", "floors": {"roc_auc": 0.6}, "ceilings": {"ece": 0.2}},
        "drift": {"reference_rows": 300},
        "retrain": {"enabled": True, "every_days": 7},
        "retention": {"raw_days": 30, "table_days": 30, "version_days": 30, "staging_days": 7},
        "sources": {
            "none": {
                "connector": "none:None",
                "description": "none",
                "owner": "tests",
                "access": "none",
                "sla": "none",
                "tables": {
                    "none": {
                        "description": "none",
                        "key": ["id"],
                        "refresh": "daily",
                        "columns": {"id": {"type": "string", "description": "none"}},
                    }
                },
            }
        },
    }
    return UseCase.model_validate(content | changes)


def features_of(day: date, rows: int = 80) -> pa.Table:
    """One day's features, the same at each call. ``demand`` and ``shop`` carry the signal."""
    random = np.random.default_rng(day.toordinal())
    shop = random.integers(0, len(SHOPS), rows)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    hour = random.integers(0, 24, rows)
    return pa.table(
        {
            "order_id": [f"{day:%Y%m%d}-{i:04d}" for i in range(rows)],
            "partition": pa.array([day] * rows, pa.date32()),
            "ordered_at": pa.array([midnight + timedelta(hours=int(h)) for h in hour]),
            "shop": pa.array([SHOPS[i] for i in shop]),
            "city": pa.array(random.choice(["x", "y"], rows).tolist(), mask=random.random(rows) < 0.1),
            "demand": pa.array(random.normal(size=rows) + 0.4 * shop),
            "lag": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.2),
            "hour": pa.array(hour, pa.int64()),
        }
    )


def labels_of(day: date, rows: int = 80) -> pa.Table:
    """The day's outcomes: known the next night, save every tenth, a night later, and some that never are."""
    random = np.random.default_rng(day.toordinal() + 10**7)
    features = features_of(day, rows)
    shop = np.array([SHOPS.index(value) for value in features["shop"].to_pylist()])
    logit = 1.2 * features["demand"].to_numpy() + 0.8 * (shop == 2) - 1.5
    outcome = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    late = np.arange(rows) % 10 == 3
    return pa.table(
        {
            "order_id": features["order_id"],
            "partition": features["partition"],
            "returned": pa.array(outcome, mask=np.arange(rows) % 40 == 5),
            "label_available_on": pa.array(
                [day + timedelta(days=2 if is_late else 1) for is_late in late], pa.date32()
            ),
        }
    )


def publish(uc: UseCase, start: date, end: date, rows: int = 80) -> None:
    """Publish features and labels of every day from ``start`` to ``end``, as one commit each."""
    for layer, of_day in (("features", features_of), ("labels", labels_of)):
        contents = {day: of_day(day, rows) for day in days(start, end)}
        tables.replace_partitions(uc, layer, contents, [uc.entity])


def write_use_case(project: Path, uc: UseCase) -> None:
    """Put a use case into a checkout as people write one: what it says, and its sources beside it."""
    folder = project / "include" / "usecases" / uc.name
    folder.mkdir(parents=True)
    content = uc.model_dump(mode="json", exclude_unset=True)
    sources = {"sources": content.pop("sources")}
    for name, part in (("usecase", content), ("sources", sources)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(part, sort_keys=False), encoding="utf-8")


def write_suites(project: Path) -> None:
    """Put suites into a checkout that let the snapshots of the use case pass."""
    folder = project / "expectations" / "synthetic"
    folder.mkdir(parents=True)
    rule = {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": "part"},
        "meta": {"rule": "part_not_null", "severity": "stop", "reason": "Every row lies in a part."},
    }
    for name in ("snapshot", "snapshot_profile"):
        suite = {"name": name, "expectations": [rule], "meta": {"quarantine_at_most": 0.0}}
        (folder / f"{name}.json").write_text(json.dumps(suite), encoding="utf-8")
