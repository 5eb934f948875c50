"""Six classes of defects, planted in real days at every stage: each is caught there by its rule.

docs/validation.md names these tests. Undamaged, the same days pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift import stages
from nightshift.errors import DataError
from nightshift.inference.score import schema as prediction_schema
from nightshift.ingestion.land import Judged, judge
from nightshift.lake import tables
from nightshift.lake.staging import Staged, stage
from nightshift.quality.quarantine import read_quarantine
from nightshift.quality.reference import remember
from nightshift.quality.snapshot import validate_snapshot
from nightshift.quality.staged import validate_staged
from nightshift.sources.base import Extract
from nightshift.sources.registry import open_connector
from nightshift.training.snapshot import snapshot
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.engine import engine

DAY, LAST = date(2013, 1, 8), date(2013, 1, 10)
SUMMER, SPRING, AUTUMN = date(2013, 7, 2), date(2013, 3, 10), date(2013, 11, 3)
Damage = Callable[[pa.Table], pa.Table]


def put(column: str, values: Any, rows: int = 3) -> Damage:
    """Return a damage that gives the first ``rows`` rows with a value another one."""

    def damage(table: pa.Table) -> pa.Table:
        kept = table[column].to_pylist()
        chosen = [position for position, value in enumerate(kept) if value is not None][:rows]
        for position in chosen:
            kept[position] = values(kept[position]) if callable(values) else values
        return replaced(table, column, pa.array(kept, table.schema.field(column).type))

    return damage


def replaced(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def later(hours: float, rows: int = 3, column: str = "scheduled_departure_at") -> Damage:
    return put(column, lambda moment: moment + timedelta(hours=hours), rows)


def again(change: Damage | None = None, rows: int = 2) -> Damage:
    """Return a damage that appends the first rows again, changed or not."""

    def damage(table: pa.Table) -> pa.Table:
        copies = table.slice(0, rows)
        return pa.concat_tables([table, change(copies) if change else copies])

    return damage


EVERY = 10**9


# Raw ------------------------------------------------------------------------------------------------


def judged(uc: UseCase, table: str, day: date, damage: Damage) -> Judged:
    ((source, _, _),) = [item for item in uc.tables() if item[1] == table]
    extract = open_connector(uc, source).read(table, day, uc.as_of(day + timedelta(days=2)))
    return judge(uc, source, table, {day: Extract(damage(extract.table), extract.query)})[day]


@pytest.mark.parametrize("day", [SUMMER, SPRING, AUTUMN], ids=str)
@pytest.mark.parametrize("table", ["schedules", "flights", "weather", "planes", "airports", "airlines"])
def test_real_raw_days_pass(home: Path, flight_delays: UseCase, table: str, day: date) -> None:
    """The days on which clocks change included: an hour that is not there, and one that comes twice."""
    result = judged(flight_delays, table, day, lambda rows: rows)
    assert result.quarantined.num_rows == 0
    assert result.accepted.num_rows > 0


@pytest.mark.parametrize(
    ("table", "day", "damage", "rule", "rows"),
    [
        pytest.param("schedules", SUMMER, put("distance_miles", -5), "distance_in_range", 3, id="range"),
        pytest.param("schedules", SUMMER, again(), "row_not_repeated", 2, id="duplicates-repeated"),
        pytest.param(
            "schedules",
            SUMMER,
            again(put("flight_id", lambda name: name + "-again")),
            "flight_planned_once",
            4,
            id="duplicates-two-keys",
        ),
        pytest.param("schedules", SUMMER, later(-4), "clock_agrees", 3, id="temporal-zone"),
        pytest.param("schedules", SPRING, later(-1), "clock_agrees", 3, id="temporal-spring"),
        pytest.param("schedules", AUTUMN, later(-1), "clock_agrees", 3, id="temporal-autumn"),
        pytest.param("schedules", SUMMER, later(24 * 365 * 30), "on_its_day", 3, id="temporal-thirty-years"),
        pytest.param(
            "flights",
            SUMMER,
            later(24 * 365, column="available_at"),
            "known_near_schedule",
            3,
            id="temporal-future",
        ),
        pytest.param(
            "flights",
            SUMMER,
            later(-5, column="available_at"),
            "known_after_arrival",
            3,
            id="temporal-travel",
        ),
        pytest.param(
            "flights",
            SUMMER,
            later(4, column="departed_at"),
            "departure_delay_agrees",
            3,
            id="temporal-actual",
        ),
        pytest.param(
            "flights", SUMMER, put("cancelled", True), "cancelled_never_departed", 3, id="consistency"
        ),
        pytest.param(
            "flights",
            SUMMER,
            put("air_time_minutes", 1100),
            "airborne_while_under_way",
            3,
            id="consistency-times",
        ),
    ],
)
def test_bad_raw_rows_are_quarantined(
    home: Path, flight_delays: UseCase, table: str, day: date, damage: Damage, rule: str, rows: int
) -> None:
    result = judged(flight_delays, table, day, damage)
    assert [row["rule"] for row in result.quarantined.to_pylist()] == [rule] * rows
    assert result.rows_in == result.accepted.num_rows + rows


@pytest.mark.parametrize(
    ("table", "damage", "named"),
    [
        pytest.param("flights", lambda t: t.drop_columns("carrier"), "carrier", id="schema-missing"),
        pytest.param("flights", lambda t: t.append_column("gate", t["origin"]), "gate", id="schema-extra"),
        pytest.param(
            "flights", lambda t: replaced(t, "cancelled", t["origin"]), "cancelled", id="schema-type"
        ),
        pytest.param("schedules", put("distance_miles", None, EVERY), "quarantine_at_most", id="range-nulls"),
        pytest.param("flights", lambda t: t.slice(0, 90), "volume", id="distribution-volume"),
        pytest.param("schedules", later(-4, EVERY), "quarantine_at_most", id="temporal-zone"),
        pytest.param(
            "weather", later(-4, EVERY, "observed_at"), "quarantine_at_most", id="temporal-zone-weather"
        ),
    ],
)
def test_bad_raw_batches_stop(
    home: Path, flight_delays: UseCase, table: str, damage: Damage, named: str
) -> None:
    with pytest.raises(DataError, match=named):
        judged(flight_delays, table, SUMMER, damage)


def test_unusual_raw_batches_are_warned_of(
    home: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    damage = put("tail_number", "UNASSIGNED", 500)
    assert judged(flight_delays, "schedules", SUMMER, damage).quarantined.num_rows == 0
    assert any("few_unassigned" in message for message in caplog.messages)


# dbt models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(
            "alter table raw_flight_delays.planes alter seats type varchar", "contract", id="schema"
        ),
        pytest.param(
            "update raw_flight_delays.schedules set scheduled_departure_minute = 1500", "between", id="range"
        ),
        pytest.param(
            "insert into raw_flight_delays.flights select * from raw_flight_delays.flights limit 5",
            "unique_together",
            id="duplicates",
        ),
        pytest.param(
            "delete from raw_flight_delays.airlines", "mostly_in_stg_schedules_carrier", id="airlines"
        ),
        pytest.param(
            "delete from raw_flight_delays.airports where faa = 'JFK'",
            "mostly_in_stg_schedules_origin",
            id="origins",
        ),
        pytest.param(
            "delete from raw_flight_delays.airports where altitude_feet < 300",
            "mostly_in_stg_schedules_dest",
            id="destinations",
        ),
        pytest.param(
            "delete from raw_flight_delays.planes where seats > 100",
            "mostly_in_stg_schedules_tail",
            id="planes",
        ),
        pytest.param(
            "delete from raw_flight_delays.schedules where carrier in ('UA', 'B6')",
            "mostly_not_null_fct_flights",
            id="schedules",
        ),
    ],
)
def test_what_tables_say_of_each_other_is_checked_by_dbt(real: UseCase, damage: str, named: str) -> None:
    with engine().connect() as connection:
        connection.execute(damage)
    with pytest.raises(DataError, match=named):
        dbt.build(real, LAST, LAST)


def test_real_tables_pass_dbt(real: UseCase) -> None:
    tests = [name for name in dbt.build(real, LAST, LAST) if name.startswith("mostly_")]
    assert len(tests) == 5


# Features, labels, predictions ----------------------------------------------------------------------


def published(uc: UseCase, layer: str, day: date = DAY) -> pa.Table:
    return tables.read_partitions(uc, layer, day, day)


def predicted(uc: UseCase) -> pa.Table:
    """Return made-up scores of the day's real flights, in the columns of real predictions."""
    features = published(uc, "features")
    rows = features.num_rows
    columns = {
        **{name: features[name] for name in (uc.entity, "partition", uc.event_time)},
        "score": pa.array(np.linspace(0.05, 0.6, rows)),
        "decision": pa.array(np.linspace(0.05, 0.6, rows) > 0.25),
        **{
            name: pa.repeat(name, rows)
            for name in ("model_version", "model_hash", "feature_version", "run_id")
        },
        "reasons": pa.repeat("[]", rows),
    }
    return pa.table(columns).cast(prediction_schema(uc))


def staged(uc: UseCase, layer: str, damage: Damage = lambda rows: rows) -> Staged:
    rows = predicted(uc) if layer == "predictions" else published(uc, layer)
    # Stages between models allow nulls where the real columns forbid them, so that rules can say so.
    loose = pa.schema([pa.field(field.name, field.type) for field in rows.schema])
    return stage(uc, layer, DAY, damage(rows.cast(loose)), [uc.entity])


@pytest.mark.parametrize("layer", ["features", "labels", "predictions"])
def test_real_days_pass_between_stages(real: UseCase, layer: str, caplog: pytest.LogCaptureFixture) -> None:
    item = staged(real, layer)
    remember(real, "all", tables.read_partitions(real, "features", date(2013, 1, 1), LAST))
    caplog.clear()
    assert validate_staged(real, [item], snapshot_of=lambda day: "all") == [item]
    assert [message for message in caplog.messages if "2013-01-08" in message] == []


@pytest.mark.parametrize(
    ("layer", "damage", "named"),
    [
        pytest.param(
            "features", lambda t: t.drop_columns("plane_seats"), "plane_seats", id="features-schema"
        ),
        pytest.param(
            "features",
            lambda t: replaced(t, "plane_seats", pc.cast(t["plane_seats"], pa.string())),
            "plane_seats",
            id="features-schema-type",
        ),
        pytest.param("features", put("carrier", None), "categories_not_null", id="features-range-nulls"),
        pytest.param("features", put("scheduled_hour", 24), "scheduled_hour_in_day", id="features-range"),
        pytest.param("features", again(), "flight_id_unique", id="features-duplicates"),
        pytest.param("features", later(24), "departure_on_its_day", id="features-temporal-day"),
        pytest.param("features", later(1, EVERY), "clock_agrees", id="features-temporal-zone"),
        pytest.param(
            "features",
            put("departures_carrier_hour", 500),
            "airline_within_airport",
            id="features-consistency",
        ),
        pytest.param("features", put("rotation_position", 9), "rotation_within_day", id="features-rotation"),
        pytest.param("labels", lambda t: t.drop_columns("arrived_late"), "arrived_late", id="labels-schema"),
        pytest.param(
            "labels", lambda t: t.append_column("x", t["flight_id"]), "'x'", id="labels-schema-extra"
        ),
        pytest.param(
            "labels",
            lambda t: put("arrival_delay_minutes", 5, EVERY)(put("arrived_late", 0, EVERY)(t)),
            "both_outcomes",
            id="labels-one-sided",
        ),
        pytest.param("labels", again(), "flight_id_unique", id="labels-duplicates"),
        pytest.param(
            "labels", put("label_available_on", DAY), "known_after_its_day", id="labels-temporal-travel"
        ),
        pytest.param(
            "labels",
            put("label_available_on", date(2031, 1, 1)),
            "known_after_its_day",
            id="labels-temporal-future",
        ),
        pytest.param("predictions", lambda t: t.drop_columns("score"), "score", id="predictions-schema"),
        pytest.param("predictions", put("score", 1.2), "score_is_probability", id="predictions-range"),
        pytest.param("predictions", put("score", None), "score_not_null", id="predictions-nulls"),
        pytest.param("predictions", again(), "flight_id_unique", id="predictions-duplicates"),
        pytest.param("predictions", later(24), "departure_on_its_day", id="predictions-temporal"),
        pytest.param("predictions", put("model_hash", "x"), "one_model_a_day", id="predictions-consistency"),
        pytest.param(
            "predictions",
            lambda t: t.slice(1),
            "every_entity_scored: 1 missing",
            id="predictions-referential",
        ),
        pytest.param(
            "predictions", put("score", 0.3, EVERY), "scores_not_constant", id="predictions-distribution"
        ),
    ],
)
def test_bad_batches_stop_between_stages(real: UseCase, layer: str, damage: Damage, named: str) -> None:
    item = staged(real, layer, damage)
    with pytest.raises(DataError, match=named):
        validate_staged(real, [item])
    assert read_quarantine(real, layer, DAY, DAY).num_rows == 0


@pytest.mark.parametrize(
    ("layer", "damage", "rule"),
    [
        pytest.param(
            "features", put("overall_late_rate_1d", float("inf")), "no_infinite_values", id="features-range"
        ),
        pytest.param("features", put("plane_age_years", -3), "plane_age_in_range", id="features-age"),
        pytest.param(
            "labels", put("arrival_delay_minutes", 4000), "arrival_delay_in_range", id="labels-range"
        ),
        pytest.param(
            "labels", put("arrival_delay_minutes", None), "no_label_without_arrival", id="labels-consistency"
        ),
    ],
)
def test_bad_rows_are_quarantined_between_stages(
    real: UseCase, layer: str, damage: Damage, rule: str
) -> None:
    item = staged(real, layer, damage)
    (accepted,) = validate_staged(real, [item])
    assert accepted.rows == item.rows - 3
    assert {row["rule"] for row in read_quarantine(real, layer, DAY, DAY).to_pylist()} == {rule}


@pytest.mark.parametrize(
    ("layer", "damage", "rule"),
    [
        pytest.param("features", put("distance_miles", 10**6, EVERY), "mean_not_above_training", id="shift"),
        pytest.param("features", put("distance_miles", 9000, 400), "outliers_as_in_training", id="cluster"),
        pytest.param("features", put("plane_seats", None, 600), "filled_as_in_training", id="nulls"),
        pytest.param("labels", put("arrived_late", None, 400), "mostly_labelled", id="labels"),
        pytest.param(
            "predictions",
            lambda t: replaced(t, "score", pa.array([0.3 + row % 5 / 10 for row in range(t.num_rows)])),
            "scores_differ",
            id="scores",
        ),
        pytest.param(
            "predictions",
            lambda t: replaced(t, "score", pa.array([0.98 + row % 2 / 100 for row in range(t.num_rows)])),
            "mean_score_usual",
            id="mean-score",
        ),
    ],
)
def test_unusual_distributions_are_warned_of(
    real: UseCase, layer: str, damage: Damage, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    remember(real, "all", tables.read_partitions(real, "features", date(2013, 1, 1), LAST))
    item = staged(real, layer, damage)
    caplog.clear()
    validate_staged(real, [item], snapshot_of=lambda day: "all")
    assert any(rule in message for message in caplog.messages), caplog.messages


# The snapshot of a training -------------------------------------------------------------------------


Parts = dict[str, pa.Table]


def parts_of(uc: UseCase) -> Parts:
    parts: Parts = {}
    snapshot(uc, LAST, check=parts.update)
    return parts


def in_part(part: str, damage: Damage) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {part: damage(parts[part])}


def leaked(rows: int, change: Damage) -> Callable[[Parts], Parts]:
    """Return a damage that puts training rows into the holdout, on a day of the holdout."""

    def damage(parts: Parts) -> Parts:
        holdout = parts["holdout"]
        copies = change(parts["train"].slice(0, rows))
        for name in ("partition", "scheduled_departure_at"):
            copies = replaced(copies, name, holdout[name].slice(0, rows))
        return parts | {"holdout": pa.concat_tables([holdout, copies])}

    return damage


new_key = put("flight_id", lambda name: f"{name}-again", EVERY)


def test_a_real_snapshot_passes(real: UseCase) -> None:
    warned = {line.split(": ")[1] for line in validate_snapshot(real, LAST, parts_of(real))}
    # Three quiet days after the holidays, compared with the holidays: 13% were late, and means moved.
    assert warned == {"holdout_balanced", "mean_not_above_training", "mean_not_below_training"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(in_part("holdout", lambda t: t.drop_columns("plane_seats")), "plane_seats", id="schema"),
        pytest.param(
            in_part("train", lambda t: replaced(t, "distance_miles", t["carrier"])),
            "distance",
            id="schema-type",
        ),
        pytest.param(
            in_part("holdout", put("plane_seats", None, EVERY)), "feature_has_values", id="range-nulls"
        ),
        pytest.param(
            in_part("holdout", put("arrived_late", 0, EVERY)), "holdout_has_both_outcomes", id="distribution"
        ),
        pytest.param(leaked(20, lambda rows: rows), "entity_in_one_part", id="duplicates-entity"),
        pytest.param(leaked(400, new_key), "inputs_mostly_in_one_part", id="duplicates-two-keys"),
        pytest.param(
            in_part("holdout", put("partition", LAST + timedelta(days=3))), "before_the_night", id="temporal"
        ),
        pytest.param(in_part("train", later(72)), "event_on_its_day", id="temporal-event"),
        pytest.param(in_part("train", put("arrived_late", 7)), "label_is_binary", id="consistency"),
    ],
)
def test_a_bad_snapshot_stops_the_training_with_its_report(
    real: UseCase, damage: Callable[[Parts], Parts], named: str
) -> None:
    parts = damage(parts_of(real))
    with pytest.raises(DataError, match=named) as error:
        validate_snapshot(real, LAST, parts)
    assert "columns" in error.value.rule or f"/{LAST}.html" in error.value.cure


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        pytest.param(
            in_part(
                "train",
                lambda t: t.filter(pc.or_(pc.equal(t["arrived_late"], 0), pc.equal(t["carrier"], "UA"))),
            ),
            "train_balanced",
            id="distribution-balance",
        ),
        pytest.param(leaked(5, new_key), "inputs_in_one_part", id="duplicates-few"),
        pytest.param(
            in_part("holdout", put("distance_miles", 10**6, EVERY)), "mean_not_above_training", id="shift"
        ),
        pytest.param(
            in_part("holdout", put("distance_miles", 9000, 1200)), "outliers_as_in_training", id="cluster"
        ),
    ],
)
def test_an_unusual_snapshot_is_warned_of(real: UseCase, damage: Callable[[Parts], Parts], rule: str) -> None:
    parts = parts_of(real)
    undamaged = validate_snapshot(real, LAST, parts)
    warnings = [line for line in validate_snapshot(real, LAST, damage(parts)) if line not in undamaged]
    assert any(rule in line for line in warnings), warnings


def test_a_leak_shows_also_when_one_part_has_nulls(real: UseCase) -> None:
    """In pandas a column of whole numbers with a null is one of floats, and these are other values."""
    parts = leaked(5, new_key)(parts_of(real))
    train = parts["train"]
    last = pa.array([row == train.num_rows - 1 for row in range(train.num_rows)])
    parts |= {"train": replaced(train, "distance_miles", pc.if_else(last, None, train["distance_miles"]))}
    assert any("inputs_in_one_part" in line for line in validate_snapshot(real, LAST, parts))


def test_a_bad_snapshot_stops_before_training(real: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage itself judges: labels of one kind, published, end the run that would learn from them."""
    for day in (date(2013, 1, 7), DAY, date(2013, 1, 9)):
        labels = published(real, "labels", day)
        late = pc.if_else(pc.is_valid(labels["arrived_late"]), 0, None).cast(
            labels.schema.field("arrived_late").type
        )
        tables.replace_partition(real, "labels", day, replaced(labels, "arrived_late", late), [real.entity])
    with pytest.raises(DataError, match="holdout_has_both_outcomes"):
        stages.take_snapshot(real, LAST)


def test_a_snapshot_suite_may_not_quarantine(
    real: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift.settings import settings

    parts = parts_of(real)
    source = settings().expectations / real.name
    project = tmp_path / "project" / "expectations" / real.name
    project.mkdir(parents=True)
    for name in ("snapshot", "snapshot_profile"):
        content = json.loads((source / f"{name}.json").read_text())
        content["expectations"][0]["meta"]["severity"] = "quarantine"
        (project / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()
    with pytest.raises(DataError, match="entity_in_one_part"):
        validate_snapshot(real, LAST, parts)
