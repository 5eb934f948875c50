"""A small use case with a real champion: published features and labels, a trained and registered model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from tests.lakes import environment, put_lake

from nightshift.lake import tables
from nightshift.partition import days
from nightshift.registry.deployments import promote
from nightshift.registry.records import Decision
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import EvaluationRules, Explanations, Labelling, Trainer, UseCase, load_usecase

FIRST_DAY = date(2013, 1, 1)
TRAINED_NIGHT = date(2013, 1, 16)
LAST_DAY = date(2013, 1, 24)

Publish = Callable[..., pa.Table]


@pytest.fixture(scope="session")
def small_usecase() -> UseCase:
    """Five features instead of dozens, and three short windows, so that training takes a moment."""
    whole = load_usecase("flight_delays")
    return whole.model_copy(
        update={
            "features": whole.features.model_copy(
                update={"categorical": ("carrier", "origin"), "numeric": ("hour", "delay", "load")}
            ),
            # Those of flight delays name features that are not here.
            "evaluation": EvaluationRules(resamples=200),
            "explanation": Explanations(),
            "labelling": Labelling(),
            "stress": (),
            "training": whole.training.model_copy(
                update={
                    "validation_days": 3,
                    "holdout_days": 3,
                    "trainers": {"xgboost": Trainer(kind="xgboost", params={"rounds": 40, "max_depth": 3})},
                    "baseline": None,
                    "search": None,
                }
            ),
        }
    )


@pytest.fixture(scope="session")
def day_of_features() -> Publish:
    """Make a day of features, the same for the same arguments, with the truth of each row in ``late``."""
    return _day_of_features


def _day_of_features(day: date, rows: int = 300, shift: float = 0.0) -> pa.Table:
    """``shift`` moves every feature by so many standard deviations and turns one carrier's flights over."""
    random = np.random.default_rng(day.toordinal())
    carrier = random.choice(["AA", "DL", "UA"], size=rows, p=[0.5, 0.3, 0.2])
    numbers = {name: random.normal(size=rows) for name in ("hour", "delay", "load")}
    chance = 1 / (1 + np.exp(-(1.5 * numbers["delay"] + 0.5 * numbers["load"] - 0.8 + (carrier == "UA"))))
    late = random.random(rows) < chance
    if shift:
        carrier = np.where(carrier == "AA", "ZZ", carrier)
    return pa.table(
        {
            "flight_id": [f"{day}-{number:05d}" for number in range(rows)],
            "scheduled_departure_at": pa.array(
                [datetime.combine(day, time(12), tzinfo=UTC)] * rows, pa.timestamp("us", tz="UTC")
            ),
            "carrier": carrier,
            "origin": random.choice(["EWR", "JFK"], size=rows),
            **{name: values + shift for name, values in numbers.items()},
            "late": late,
        }
    )


@pytest.fixture(scope="session")
def publish_truth(small_usecase: UseCase) -> Publish:
    """Publish labels of a day; rows from ``unknown`` on have none, as of cancelled flights."""

    def publish(day: date, truth: pa.Table, unknown: int | None = None) -> pa.Table:
        table = _labels(day, truth, unknown)
        tables.replace_partition(small_usecase, "labels", day, table, ["flight_id"])
        return table

    return publish


def _labels(day: date, truth: pa.Table, unknown: int | None = None) -> pa.Table:
    known = truth.num_rows if unknown is None else unknown
    label = np.ma.array(truth["late"].to_numpy().astype(np.int64), mask=np.arange(truth.num_rows) >= known)
    return pa.table(
        {
            "flight_id": truth["flight_id"],
            "arrived_late": pa.array(label.data, mask=np.ma.getmaskarray(label)),
            "label_available_on": pa.repeat(pa.scalar(day + timedelta(days=1)), truth.num_rows),
        }
    )


@pytest.fixture(scope="session")
def trained_state(small_usecase: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder after bootstrap: features to LAST_DAY, labels to the day before training, a champion."""
    state = tmp_path_factory.mktemp("trained")
    with environment(state):
        whole = {day: _day_of_features(day) for day in days(FIRST_DAY, LAST_DAY)}
        features = {day: table.drop_columns("late") for day, table in whole.items()}
        tables.replace_partitions(small_usecase, "features", features, ["flight_id"])
        known = {day: _labels(day, table) for day, table in whole.items() if day < TRAINED_NIGHT}
        tables.replace_partitions(small_usecase, "labels", known, ["flight_id"])
        candidate = train(small_usecase, snapshot(small_usecase, TRAINED_NIGHT), "xgboost")
        promote(
            small_usecase,
            Decision(
                promote=True, candidate=candidate, metrics=candidate.metrics, reasons=["first champion"]
            ),
            effective_from=TRAINED_NIGHT + timedelta(days=1),
        )
    return state


@pytest.fixture
def usecase(home: Path, trained_state: Path, small_usecase: UseCase) -> UseCase:
    """The small use case, its champion and its lake in a state folder of the test's own."""
    shutil.copytree(trained_state, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lake"))
    put_lake(trained_state / "lake")
    return small_usecase


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of an empty database of the test's own."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists nightshift_test")
        connection.execute("create database nightshift_test")
    return psycopg.conninfo.make_conninfo(postgres, dbname="nightshift_test")
