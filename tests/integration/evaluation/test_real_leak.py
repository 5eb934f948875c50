"""The real departure delay, which nobody knows at the time of a prediction, is stopped by name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift.errors import DataError
from nightshift.evaluation.evaluate import evaluate
from nightshift.evaluation.leakage import refuse_leaks
from nightshift.lake import append_log, tables
from nightshift.partition import days
from nightshift.sources.registry import open_connector
from nightshift.training.snapshot import load, snapshot
from nightshift.training.train import train
from nightshift.usecase import Trainer, UseCase, load_usecase

FIRST, NIGHT = date(2013, 1, 1), date(2013, 2, 20)
HONEST = ("distance_miles", "scheduled_departure_minute")
LATE_MINUTES = 15


@pytest.fixture
def uc(home: Path) -> UseCase:
    """Real flights of seven weeks with a few honest features, and the limits of flight delays."""
    whole = load_usecase("flight_delays")
    (source,) = whole.sources
    known = datetime.combine(NIGHT, datetime.min.time(), UTC) + timedelta(days=3)
    connector = open_connector(whole, source)
    planned, flown = (
        connector.read_range(table, FIRST, NIGHT, lambda _: known) for table in ("schedules", "flights")
    )
    features, labels = {}, {}
    for day in days(FIRST, NIGHT):
        delays = flown[day].table.select(["flight_id", "departure_delay_minutes", "arrival_delay_minutes"])
        flights = planned[day].table.join(delays, "flight_id", join_type="inner").sort_by("flight_id")
        partition = pa.repeat(pa.scalar(day), flights.num_rows)
        features[day] = flights.select(
            ["flight_id", "scheduled_departure_at", "carrier", "origin", *HONEST, "departure_delay_minutes"]
        ).append_column("partition", partition)
        late = pc.greater_equal(flights["arrival_delay_minutes"], LATE_MINUTES)
        labels[day] = pa.table(
            {
                "flight_id": flights["flight_id"],
                "partition": partition,
                whole.label.column: pc.cast(late, pa.int64()),
                "label_available_on": pa.repeat(pa.scalar(day + timedelta(days=1)), flights.num_rows),
            }
        )
    for layer, contents in (("features", features), ("labels", labels)):
        tables.replace_partitions(whole, layer, contents, [whole.entity])
    training = whole.training.model_copy(
        update={
            "validation_days": 7,
            "holdout_days": 7,
            "trainers": {"trees": Trainer(kind="xgboost", params={"rounds": 30})},
            "baseline": None,
        }
    )
    return _with_features(whole.model_copy(update={"training": training}), *HONEST)


def _with_features(uc: UseCase, *numeric: str) -> UseCase:
    features = uc.features.model_copy(update={"categorical": ("carrier", "origin"), "numeric": numeric})
    return uc.model_copy(update={"features": features})


def test_the_departure_delay_is_stopped_and_honest_features_are_not(uc: UseCase) -> None:
    refuse_leaks(uc, NIGHT, load(snapshot(uc, NIGHT), "train"))
    leaking = _with_features(uc, *HONEST, "departure_delay_minutes")
    with pytest.raises(DataError, match=r"alone, departure_delay_minutes \(0\.\d+\) reaches"):
        refuse_leaks(leaking, NIGHT, load(snapshot(leaking, NIGHT), "train"))


def test_whoever_trains_with_it_all_the_same_is_stopped_before_the_holdout_is_opened(uc: UseCase) -> None:
    leaking = _with_features(uc, *HONEST, "departure_delay_minutes")
    taken = snapshot(leaking, NIGHT)
    said = r"on validation; most is said by departure_delay_minutes \(0\.\d+ alone\)"
    with pytest.raises(DataError, match=said):
        evaluate(leaking, taken, [train(leaking, taken, "trees")])
    assert append_log.names(f"holdouts/{uc.name}") == set()
