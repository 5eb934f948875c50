"""A snapshot holds what was known at its night, in three parts that follow each other, for good."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests import synthetic
from tests.lakes import environment, on_both_storages, put_lake, sealed_rows

from nightshift.errors import DataError, TransientError
from nightshift.lake import tables
from nightshift.training.snapshot import Snapshot, load, load_parts, snapshot
from nightshift.usecase import UseCase

NIGHT = date(2020, 1, 26)
TRAINING = {
    "window_days": 60,
    "validation_days": 4,
    "holdout_days": 5,
    "seed": 1,
    "trainers": {"trees": {"kind": "xgboost"}},
}


storage = on_both_storages


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with all that was published before the night."""
    home = tmp_path_factory.mktemp("published")
    with environment(home):
        usecase = synthetic.use_case(training=TRAINING)
        synthetic.publish(usecase, synthetic.START, NIGHT - timedelta(days=1), rows=40)
    return home / "lake"


@pytest.fixture
def uc(home: Path, published: Path) -> UseCase:
    put_lake(published)
    return synthetic.use_case(training=TRAINING)


def _days(table: pa.Table) -> tuple[date, date]:
    return pc.min(table["partition"]).as_py(), pc.max(table["partition"]).as_py()


def test_parts_follow_each_other_and_the_holdout_is_newest(uc: UseCase) -> None:
    taken = snapshot(uc, NIGHT)
    assert _days(load(taken, "train")) == (date(2020, 1, 1), date(2020, 1, 16))
    assert _days(load(taken, "validation")) == (date(2020, 1, 17), date(2020, 1, 20))
    assert _days(sealed_rows(taken.sealed)) == (date(2020, 1, 21), date(2020, 1, 25))
    parts = [*load_parts(taken, "train", "validation"), sealed_rows(taken.sealed)]
    assert [part.num_rows for part in parts] == [
        taken.train.rows,
        taken.validation.rows,
        taken.holdout.rows,
    ]
    entities = pa.concat_tables(parts)[uc.entity].to_pylist()
    assert len(entities) == len(set(entities))


def test_rows_keep_their_own_features_and_label(uc: UseCase) -> None:
    found = load(snapshot(uc, NIGHT), "train")
    expected = pa.concat_tables(
        table.append_column("returned", synthetic.labels_of(day, 40)["returned"])
        for day in (date(2020, 1, 1) + timedelta(days=i) for i in range(16))
        for table in [synthetic.features_of(day, 40)]
    )
    expected = expected.filter(pc.is_valid(expected["returned"]))
    columns = [uc.entity, *uc.features.columns, "returned"]
    assert found.select(columns).to_pylist() == expected.select(columns).to_pylist()


def test_a_label_that_comes_a_night_later_is_not_in_it(uc: UseCase) -> None:
    newest = sealed_rows(snapshot(uc, NIGHT).sealed).filter(pc.field("partition") == date(2020, 1, 25))
    # Of 40 rows four are known a night later and one never is.
    assert newest.num_rows == 40 - 4 - 1
    day_before = sealed_rows(snapshot(uc, NIGHT).sealed).filter(pc.field("partition") == date(2020, 1, 24))
    assert day_before.num_rows == 40 - 1


def test_later_nights_do_not_change_it(uc: UseCase) -> None:
    before = snapshot(uc, NIGHT)
    synthetic.publish(uc, NIGHT, NIGHT + timedelta(days=3), rows=40)
    # Read from a later version of the tables, which holds the same days.
    again = snapshot(uc, NIGHT)
    assert again.feature_table > before.feature_table
    tables_read = {"feature_table": before.feature_table, "label_table": before.label_table}
    assert again.model_copy(update=tables_read) == before
    assert snapshot(uc, NIGHT + timedelta(days=1)).content_hash != before.content_hash


def test_it_stays_as_it_was_when_the_past_is_corrected(uc: UseCase) -> None:
    before = snapshot(uc, NIGHT)
    rows = load(before, "train")
    day = date(2020, 1, 3)
    changed = synthetic.features_of(day, 40)
    changed = changed.set_column(
        changed.schema.get_field_index("demand"), "demand", pa.array([0.5] * changed.num_rows)
    )
    tables.replace_partition(uc, "features", day, changed, [uc.entity])
    after = snapshot(uc, NIGHT)
    assert after.content_hash != before.content_hash
    assert after.feature_version != before.feature_version
    assert after.label_version == before.label_version
    assert load(before, "train").equals(rows)


def test_it_travels_as_json(uc: UseCase) -> None:
    taken = snapshot(uc, NIGHT)
    assert Snapshot.model_validate(taken.model_dump(mode="json")) == taken


def test_the_window_is_as_long_as_the_use_case_says(uc: UseCase) -> None:
    short = synthetic.use_case(training={**TRAINING, "window_days": 15})
    assert snapshot(short, NIGHT).train.start == NIGHT - timedelta(days=15)


@pytest.mark.parametrize("layer", ["features", "labels"])
def test_a_gap_waits_and_names_the_day(uc: UseCase, layer: str) -> None:
    tables.delete_partition(uc, layer, date(2020, 1, 9))
    with pytest.raises(TransientError, match=rf"no published {layer}: 2020-01-09"):
        snapshot(uc, NIGHT)


def test_nothing_published_waits(home: Path) -> None:
    with pytest.raises(TransientError, match="no published features"):
        snapshot(synthetic.use_case(), NIGHT)


def test_too_few_days_is_an_error_that_says_how_many_are_needed(uc: UseCase) -> None:
    with pytest.raises(DataError, match="at least 10 days"):
        snapshot(uc, synthetic.START + timedelta(days=9))
    assert snapshot(uc, synthetic.START + timedelta(days=10)).train.rows > 0


def test_an_entity_on_two_days_is_refused(uc: UseCase) -> None:
    day = date(2020, 1, 9)
    twice = synthetic.features_of(date(2020, 1, 8), 40)
    twice = twice.set_column(1, "partition", pa.array([day] * 40, pa.date32()))
    tables.replace_partition(uc, "features", day, twice, [uc.entity])
    with pytest.raises(DataError, match="40 rows of features repeat"):
        snapshot(uc, NIGHT)
