"""Scoring a day: what the predictions say, and what happens when something is not there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.forked import PROCESSES, preload, run, take_over

from nightshift.errors import DataError, TransientError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.lake.staging import read_staged
from nightshift.lake.store import open_store
from nightshift.registry.deployments import champion_at, rollback
from nightshift.registry.models import load_model
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

DAY = date(2013, 1, 17)

preload(
    "nightshift.inference.publish",
    "nightshift.inference.score",
    "xgboost",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)


def test_every_row_is_scored_once_and_names_its_versions(usecase: UseCase) -> None:
    rows = read_staged(score(usecase, DAY, run_id="run-1"))
    features = tables.partition_version(usecase, "features", DAY)
    champion = champion_at(usecase, DAY)
    assert features is not None
    assert champion is not None
    assert rows.num_rows == features.rows == pc.count_distinct(rows["flight_id"]).as_py()
    assert set(rows["partition"].to_pylist()) == {DAY}
    assert set(rows["model_version"].to_pylist()) == {champion.version}
    assert set(rows["model_hash"].to_pylist()) == {champion.model_hash}
    assert set(rows["feature_version"].to_pylist()) == {features.content_hash}
    assert set(rows["run_id"].to_pylist()) == {"run-1"}


def test_scores_are_those_of_the_model_and_decisions_follow_its_threshold(usecase: UseCase) -> None:
    rows = read_staged(score(usecase, DAY)).sort_by("flight_id")
    model = load_model(usecase, "1")
    features = tables.read_partitions(usecase, "features", DAY, DAY).sort_by("flight_id")
    np.testing.assert_array_equal(rows["score"].to_numpy(), model.predict_proba(features))
    decided = rows["decision"].to_numpy()
    np.testing.assert_array_equal(decided, rows["score"].to_numpy() >= model.threshold)
    assert decided.any()
    assert not decided.all()


def test_another_run_and_another_registry_number_give_the_same_hash(usecase: UseCase) -> None:
    staged = score(usecase, DAY, run_id="run-1")
    assert score(usecase, DAY, run_id="run-2").content_hash == staged.content_hash
    rows = read_staged(staged)
    place = rows.column_names.index("model_version")
    elsewhere = rows.set_column(place, "model_version", pa.repeat("17", rows.num_rows))
    published = publish_predictions(usecase, staged)
    again = tables.replace_partition(usecase, "predictions", DAY, elsewhere, ["flight_id"])
    assert again.content_hash == published.content_hash
    assert again.table_version == published.table_version


def test_a_day_before_the_first_champion_says_what_to_run(usecase: UseCase) -> None:
    with pytest.raises(DataError, match="no champion") as raised:
        score(usecase, date(2013, 1, 16))
    assert "bootstrap" in raised.value.cure


def test_missing_features_are_waited_for(usecase: UseCase) -> None:
    with pytest.raises(TransientError, match="features of flight_delays 2013-02-20"):
        score(usecase, date(2013, 2, 20))


def test_features_without_a_column_the_model_reads_are_bad_data(usecase: UseCase) -> None:
    features = tables.read_partitions(usecase, "features", DAY, DAY).drop_columns(["delay"])
    store = open_store()
    for key in store.list(f"tables/{usecase.name}/features/"):
        store.delete(key)
    tables.replace_partition(usecase, "features", DAY, features, ["flight_id"])
    with pytest.raises(DataError, match=r"do not fit model version 1.*delay"):
        score(usecase, DAY)


def test_each_day_is_scored_by_the_champion_in_force_on_it(usecase: UseCase) -> None:
    before = score(usecase, DAY)
    # The same version again from a later day on: earlier days keep their champion.
    rollback(usecase, "1", effective_from=date(2013, 1, 20), reason="drill")
    assert score(usecase, DAY) == before


def test_a_run_that_was_overtaken_replaces_nothing(usecase: UseCase, day_of_features: Day) -> None:
    slow = score(usecase, DAY)
    mended = day_of_features(DAY, 50).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, mended, ["flight_id"])
    fast = publish_predictions(usecase, score(usecase, DAY))
    assert publish_predictions(usecase, slow) == fast
    assert read_staged(slow).num_rows != fast.rows


def test_where_neither_is_of_now_the_later_one_counts(usecase: UseCase, day_of_features: Day) -> None:
    staged = [score(usecase, DAY)]
    for rows in (50, 60):
        features = day_of_features(DAY, rows).drop_columns("late")
        tables.replace_partition(usecase, "features", DAY, features, ["flight_id"])
        staged += [score(usecase, DAY)]
    for one in staged[:2]:
        assert publish_predictions(usecase, one).content_hash == one.content_hash


def test_a_day_whose_file_is_lost_is_published_again(usecase: UseCase, day_of_features: Day) -> None:
    publish_predictions(usecase, score(usecase, DAY))
    store = open_store()
    for key in store.list(f"tables/{usecase.name}/predictions/partition={DAY}/"):
        store.delete(key)
    mended = day_of_features(DAY, 50).drop_columns("late")
    tables.replace_partition(usecase, "features", DAY, mended, ["flight_id"])
    publish_predictions(usecase, score(usecase, DAY))
    assert tables.read_partitions(usecase, "predictions", DAY, DAY).num_rows == 50


def test_a_row_scores_the_same_in_whatever_batch_it_comes(usecase: UseCase, day_of_features: Day) -> None:
    day, rows = date(2013, 3, 1), 70_000  # More than one batch of a scan.
    table = day_of_features(day, rows).drop_columns("late")
    tables.replace_partition(usecase, "features", day, table, ["flight_id"])
    assert len(list(tables.scan(usecase, "features", day))) > 1
    scored = read_staged(score(usecase, day)).sort_by("flight_id")
    model = load_model(usecase, "1")
    np.testing.assert_array_equal(scored["score"].to_numpy(), model.predict_proba(table.sort_by("flight_id")))


_KILLED_WHILE_STAGING = """
import os, signal, sys
from datetime import date
from nightshift.usecase import UseCase
from nightshift.inference.score import score

uc = UseCase.model_validate_json(sys.stdin.read())
# The moment before the finished object takes its place under staging/, in a folder or in a bucket.
def die(event, arguments):
    target = str(arguments[1])[:200] if event in ("os.rename", "http.client.send") else ""
    if "/staging/" in target and (event == "os.rename" or target.startswith("b'PUT ")):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
score(uc, date(2013, 1, 17))
"""

_KILLED_WHILE_PUBLISHING = """
import os, signal, sys
import pyarrow as pa
from nightshift.inference.publish import publish_predictions
from nightshift.lake import tables
from nightshift.lake.staging import Staged
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.readline())
staged = Staged.model_validate_json(sys.stdin.readline())
real = tables.write_deltalake
# Half the rows reach the writer, then the process is gone.
def write(delta, rows, **options):
    def batches():
        for number, batch in enumerate(rows.to_batches(max_chunksize=rows.num_rows // 2)):
            if number:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch
    real(delta, pa.RecordBatchReader.from_batches(rows.schema, batches()), **options)
tables.write_deltalake = write
publish_predictions(uc, staged)
"""


def test_killed_while_staging_and_run_again(usecase: UseCase) -> None:
    undisturbed = score(usecase, date(2013, 1, 18))
    assert run(_KILLED_WHILE_STAGING, usecase.model_dump_json()) == -signal.SIGKILL
    staged = score(usecase, DAY)
    assert read_staged(staged).num_rows == undisturbed.rows
    assert score(usecase, DAY) == staged


def test_killed_while_publishing_and_run_again(usecase: UseCase) -> None:
    publish_predictions(usecase, score(usecase, date(2013, 1, 18)))
    staged = score(usecase, DAY)
    given = f"{usecase.model_dump_json()}\n{staged.model_dump_json()}\n"
    assert run(_KILLED_WHILE_PUBLISHING, given) == -signal.SIGKILL
    assert tables.partition_version(usecase, "predictions", DAY) is None
    published = publish_predictions(usecase, staged)
    assert (published.rows, published.content_hash) == (staged.rows, staged.content_hash)
    rows = tables.read_partitions(usecase, "predictions", DAY, DAY)
    assert rows.num_rows == pc.count_distinct(rows["flight_id"]).as_py() == staged.rows


def _score_and_publish(usecase: UseCase, run_id: str) -> str:
    return publish_predictions(usecase, score(usecase, DAY, run_id=run_id)).content_hash


def test_the_same_day_scored_twice_at_once_has_no_duplicates(usecase: UseCase) -> None:
    with ProcessPoolExecutor(
        2, mp_context=PROCESSES, initializer=take_over, initargs=(dict(os.environ),)
    ) as pool:
        runs = [pool.submit(_score_and_publish, usecase, f"run-{number}") for number in range(2)]
        hashes = {run.result() for run in runs}
    rows = tables.read_partitions(usecase, "predictions", DAY, DAY)
    assert rows.num_rows == pc.count_distinct(rows["flight_id"]).as_py() == 300
    version = tables.partition_version(usecase, "predictions", DAY)
    assert version is not None
    assert hashes == {version.content_hash}


def test_publishing_something_else_as_predictions_is_refused(usecase: UseCase) -> None:
    staged = score(usecase, DAY).model_copy(update={"layer": "features"})
    with pytest.raises(DataError, match="holds features"):
        publish_predictions(usecase, staged)
