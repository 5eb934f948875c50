"""Between stages: what may be published, what is kept aside, and predictions that must be complete."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.lakes import on_both_storages

from nightshift.errors import DataError
from nightshift.features.publish import publish
from nightshift.lake import raw, tables
from nightshift.lake.lineage import record_build
from nightshift.lake.staging import Staged, read_staged, stage
from nightshift.quality.quarantine import kept, quarantine, read_quarantine
from nightshift.quality.reference import recall, remember
from nightshift.quality.staged import validate_staged
from nightshift.quality.validate import QUARANTINE_SCHEMA
from nightshift.usecase import UseCase

DAYS = [date(2013, 7, 1), date(2013, 7, 2)]
COUNT = 500


def features(uc: UseCase, day: date, **changes: Any) -> pa.Table:
    morning = datetime(day.year, day.month, day.day, 14, tzinfo=UTC)
    columns: dict[str, Any] = dict.fromkeys(uc.features.numeric)
    columns = {name: pa.array([float(row % 20) for row in range(COUNT)]) for name in uc.features.numeric}
    columns |= {name: pa.array(["AA"] * COUNT) for name in uc.features.categorical}
    columns |= {
        "flight_id": pa.array([f"AA-{row}-{day}" for row in range(COUNT)]),
        "scheduled_departure_at": pa.array([morning] * COUNT),
        # Ten in the morning in New York.
        "scheduled_departure_minute": pa.array([600] * COUNT),
        "rotations_day": pa.array([20.0] * COUNT),
        "departures_origin_hour": pa.array([20.0] * COUNT),
    }
    return pa.table(columns | changes)


def predictions(day: date, count: int = COUNT, **changes: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "flight_id": [f"AA-{row}-{day}" for row in range(count)],
        "scheduled_departure_at": [datetime(day.year, day.month, day.day, 14, tzinfo=UTC)] * count,
        "score": [row / count for row in range(count)],
        "decision": [row > 300 for row in range(count)],
        **{name: ["1"] * count for name in ("model_version", "model_hash", "feature_version", "run_id")},
        "reasons": ["[]"] * count,
    }
    return pa.table(columns | changes)


def staged(uc: UseCase, layer: str, day: date, rows: pa.Table) -> Staged:
    return stage(uc, layer, day, rows, [uc.entity])


storage = on_both_storages


def test_good_features_pass_untouched_and_a_bad_row_is_kept_aside(home: Path, flight_delays: UseCase) -> None:
    infinite = pa.array([float("inf"), *[1.0] * (COUNT - 1)])
    items = [
        staged(flight_delays, "features", DAYS[0], features(flight_delays, DAYS[0])),
        staged(flight_delays, "features", DAYS[1], features(flight_delays, DAYS[1], plane_seats=infinite)),
    ]
    accepted = validate_staged(flight_delays, items)
    assert accepted[0] == items[0]
    assert accepted[1].rows == COUNT - 1
    assert f"AA-0-{DAYS[1]}" not in read_staged(accepted[1])["flight_id"].to_pylist()
    bad = read_quarantine(flight_delays, "features", *DAYS).to_pylist()
    assert [(row["partition"], row["rule"]) for row in bad] == [(DAYS[1], "no_infinite_values")]

    assert validate_staged(flight_delays, items) == accepted
    mended = staged(flight_delays, "features", DAYS[1], features(flight_delays, DAYS[1]))
    assert validate_staged(flight_delays, [mended]) == [mended]
    assert kept(flight_delays, "features") == {}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"flight_id": pa.array(["AA-0-2013-07-01"] * COUNT)}, "flight_id_unique"),
        ({"carrier": pa.array([None, *["AA"] * (COUNT - 1)])}, "categories_not_null"),
        ({"scheduled_hour": pa.array([24.0] * COUNT)}, "scheduled_hour_in_day"),
        (
            {"scheduled_departure_at": pa.array([datetime(1983, 7, 1, 14, tzinfo=UTC)] * COUNT)},
            "departure_on_its_day",
        ),
    ],
)
def test_features_that_our_own_sql_got_wrong_stop(
    home: Path, flight_delays: UseCase, changes: dict[str, Any], rule: str
) -> None:
    item = staged(flight_delays, "features", DAYS[0], features(flight_delays, DAYS[0], **changes))
    with pytest.raises(DataError, match=rule):
        validate_staged(flight_delays, [item])


def test_features_unlike_the_training_snapshot_are_warned_of_and_published(
    home: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    remember(flight_delays, "snapshot", features(flight_delays, DAYS[0]))
    remember(flight_delays, "snapshot", features(flight_delays, DAYS[0], plane_seats=[500.0] * COUNT))
    assert recall(flight_delays, "other") is None
    strange = features(
        flight_delays,
        DAYS[1],
        plane_seats=pa.array([1000.0] * COUNT),
        turnaround_minutes=pa.array([None] * COUNT, pa.float64()),
    )
    items = [
        staged(flight_delays, "features", DAYS[0], features(flight_delays, DAYS[0])),
        staged(flight_delays, "features", DAYS[1], strange),
    ]
    with caplog.at_level(logging.WARNING):
        assert validate_staged(flight_delays, items, snapshot_of=lambda day: "snapshot") == items
    warned = [message for message in caplog.messages if "training" in message]
    assert len(warned) == 2
    assert all("2013-07-02" in message for message in warned)
    report = home / "reports" / "flight_delays" / "features_profile" / "2013-07-02.html"
    text = report.read_text(encoding="utf-8")
    assert "plane_seats" in text
    assert "turnaround_minutes" in text


def test_labels_keep_nulls_and_refuse_what_contradicts_the_definition(
    home: Path, flight_delays: UseCase
) -> None:
    delays = [None, 15, 14, 15, 14, *[0] * (COUNT - 5)]
    late = [None, 1, 0, 0, 1, *[0] * (COUNT - 5)]
    rows = pa.table(
        {
            "flight_id": [f"AA-{row}" for row in range(COUNT)],
            "arrived_late": pa.array(late, pa.int64()),
            "arrival_delay_minutes": pa.array(delays, pa.int64()),
            "label_available_on": [DAYS[1]] * COUNT,
        }
    )
    (accepted,) = validate_staged(flight_delays, [staged(flight_delays, "labels", DAYS[0], rows)])
    assert accepted.rows == COUNT - 2
    bad = read_quarantine(flight_delays, "labels", DAYS[0], DAYS[0]).to_pylist()
    assert {row["rule"] for row in bad} == {"late_from_15_minutes", "not_late_before_15_minutes"}


def test_a_slow_older_run_does_not_clear_what_a_newer_one_put_aside(
    home: Path, flight_delays: UseCase
) -> None:
    (source,) = flight_delays.sources

    def labels(hour: int, wrong: int) -> Staged:
        """Stage labels, some of them wrong, as a night built them that saw its raw data at an hour."""
        rows = pa.table(
            {
                "flight_id": [f"AA-{row}" for row in range(COUNT)],
                "arrived_late": [int(row <= wrong) for row in range(COUNT)],
                "arrival_delay_minutes": [20, *[0] * (COUNT - 1)],
                "label_available_on": [DAYS[1]] * COUNT,
            }
        )
        landed = raw.land(
            flight_delays,
            source,
            "flights",
            DAYS[0],
            rows.select(["flight_id", "arrived_late"]),
            rows_in=COUNT,
            rows_quarantined=0,
            as_of=datetime(2013, 7, 2, hour, tzinfo=UTC),
            query="planted by a test",
        )
        build = record_build(flight_delays, {f"{source}.flights": {DAYS[0]: landed}})
        return stage(flight_delays, "labels", DAYS[0], rows, [flight_delays.entity], build)

    older, newer = labels(hour=4, wrong=0), labels(hour=5, wrong=2)
    publish(flight_delays, validate_staged(flight_delays, [newer]))
    before = kept(flight_delays, "labels")
    assert before
    assert validate_staged(flight_delays, [older]) == [], "what stands was built from newer raw data"
    assert kept(flight_delays, "labels") == before


def test_every_flight_with_features_is_scored_exactly_once(home: Path, flight_delays: UseCase) -> None:
    for day in DAYS:
        tables.replace_partition(flight_delays, "features", day, features(flight_delays, day), ["flight_id"])
    good = [staged(flight_delays, "predictions", day, predictions(day)) for day in DAYS]
    assert validate_staged(flight_delays, good) == good

    one_short = staged(flight_delays, "predictions", DAYS[1], predictions(DAYS[1], COUNT - 1))
    with pytest.raises(DataError, match=r"2013-07-02: every_entity_scored: 1 missing: AA-499-2013-07-02"):
        validate_staged(flight_delays, [good[0], one_short])
    twice = pa.concat_tables([predictions(DAYS[0]), predictions(DAYS[0]).slice(0, 1)])
    with pytest.raises(DataError, match="flight_id_unique"):
        validate_staged(flight_delays, [staged(flight_delays, "predictions", DAYS[0], twice)])
    stranger = predictions(DAYS[0], COUNT + 1)
    with pytest.raises(DataError, match="1 unexpected: AA-500"):
        validate_staged(flight_delays, [staged(flight_delays, "predictions", DAYS[0], stranger)])


@pytest.mark.parametrize("score", [1.2, -0.1, None, float("nan")])
def test_a_score_that_is_no_probability_stops(
    home: Path, flight_delays: UseCase, score: float | None
) -> None:
    tables.replace_partition(
        flight_delays, "features", DAYS[0], features(flight_delays, DAYS[0]), ["flight_id"]
    )
    scores = pa.array([score, *[row / COUNT for row in range(COUNT - 1)]])
    item = staged(flight_delays, "predictions", DAYS[0], predictions(DAYS[0], score=scores))
    with pytest.raises(DataError, match="score_"):
        validate_staged(flight_delays, [item])


def test_the_quarantine_is_replaced_as_a_whole_and_does_not_depend_on_order(
    home: Path, flight_delays: UseCase
) -> None:
    def rows(*names: str) -> pa.Table:
        entry = {"partition": "2013-07-01", "suite": "raw_x", "severity": "quarantine", "reason": "r"}
        return pa.Table.from_pylist(
            [entry | {"rule": "r", "row": name} for name in names], schema=QUARANTINE_SCHEMA
        )

    first = quarantine(flight_delays, "raw_x", DAYS[0], rows("a", "b"))
    assert quarantine(flight_delays, "raw_x", DAYS[0], rows("b", "a")) == first
    before = tables.partition_versions(flight_delays, "quarantine_raw_x")
    assert kept(flight_delays, "raw_x") == {DAYS[0]: first}
    assert quarantine(flight_delays, "raw_x", DAYS[1], rows()) is None
    assert tables.partition_versions(flight_delays, "quarantine_raw_x") == before
    assert quarantine(flight_delays, "raw_x", DAYS[0], rows("a")) != first
    assert read_quarantine(flight_delays, "raw_x", *DAYS)["row"].to_pylist() == ["a"]
    assert quarantine(flight_delays, "raw_x", DAYS[0], rows()) is None
    assert kept(flight_delays, "raw_x") == {}
