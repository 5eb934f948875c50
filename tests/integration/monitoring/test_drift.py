"""The nightly check: quiet on days like the training days, loud on a planted shift."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest
from tests.forked import preload, run

from nightshift.errors import DataError, TransientError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.monitoring import drift, reports
from nightshift.usecase import UseCase

Day = Callable[..., pa.Table]

DAY = date(2013, 1, 17)

preload("evidently", "evidently.legacy.calculations.stattests", "nightshift.monitoring.drift")


def _night(usecase: UseCase, day: date, features: pa.Table | None = None) -> None:
    if features is not None:
        tables.replace_partition(usecase, "features", day, features, ["flight_id"])
    publish_predictions(usecase, score(usecase, day))


def test_a_day_like_the_training_days_is_quiet(usecase: UseCase) -> None:
    _night(usecase, DAY)
    result = drift.check(usecase, DAY)
    assert (result.verdict, result.columns, result.rows) == ("quiet", (), 300)
    assert set(result.distances) == {"hour", "delay", "load", "carrier", "origin", "score"}
    assert reports.drift_report(usecase, DAY).exists()
    assert drift.results(usecase, DAY, DAY) == {DAY: result}


def test_a_planted_shift_is_drift_and_names_its_columns(usecase: UseCase, day_of_features: Day) -> None:
    _night(usecase, DAY, day_of_features(DAY, shift=2.0).drop_columns("late"))
    result = drift.check(usecase, DAY)
    assert result.verdict == "drift"
    assert set(result.columns) == {"hour", "delay", "load", "carrier", "score"}
    assert result.distances["hour"] == pytest.approx(2.0, abs=0.25)
    assert result.share == pytest.approx(4 / 5)


def test_one_moved_feature_of_five_is_no_drift_yet(usecase: UseCase, day_of_features: Day) -> None:
    features = day_of_features(DAY).drop_columns("late")
    place = features.column_names.index("hour")
    moved = pa.array(features["hour"].to_numpy() + 3)
    _night(usecase, DAY, features.set_column(place, "hour", moved))
    result = drift.check(usecase, DAY)
    assert result.columns == ("hour",)
    assert result.verdict == "quiet"


def test_a_feature_without_any_value_is_watched(usecase: UseCase, day_of_features: Day) -> None:
    features = day_of_features(DAY).drop_columns("late")
    place = features.column_names.index("hour")
    _night(usecase, DAY, features.set_column(place, "hour", pa.nulls(features.num_rows, pa.float64())))
    result = drift.check(usecase, DAY)
    assert (result.verdict, result.absent) == ("watch", ("hour",))
    assert result.columns[0] == "hour"


def test_checked_again_nothing_changes(usecase: UseCase) -> None:
    _night(usecase, DAY)
    first = drift.check(usecase, DAY)
    version = tables.partition_version(usecase, drift.LAYER, DAY)
    page = reports.drift_report(usecase, DAY)
    written = page.stat().st_mtime_ns
    assert drift.check(usecase, DAY) == first
    assert page.stat().st_mtime_ns == written
    page.unlink()
    assert drift.check(usecase, DAY) == first
    assert page.exists()
    assert tables.partition_version(usecase, drift.LAYER, DAY) == version


def test_another_threshold_is_another_verdict(usecase: UseCase, day_of_features: Day) -> None:
    _night(usecase, DAY, day_of_features(DAY, shift=2.0).drop_columns("late"))
    assert drift.check(usecase, DAY).verdict == "drift"
    lenient = usecase.drift.model_copy(update={"numeric_threshold": 9.0, "categorical_threshold": 0.9})
    assert drift.check(usecase.model_copy(update={"drift": lenient}), DAY).verdict == "quiet"


def test_a_day_no_further_than_some_training_day_is_quiet_however_strict(usecase: UseCase) -> None:
    _night(usecase, DAY)
    strict = usecase.drift.model_copy(update={"numeric_threshold": 1e-6})
    result = drift.check(usecase.model_copy(update={"drift": strict}), DAY)
    assert min(result.distances.values()) > 1e-6
    assert result.verdict == "quiet"


_KILLED = """
import os, signal, sys
from datetime import date
from nightshift.monitoring import drift
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.read())
# The moment before the finished page takes its place, the JSON beside it being there already.
def die(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("drift.html"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
drift.check(uc, date(2013, 1, 17))
"""


def test_killed_while_reporting_and_run_again(usecase: UseCase) -> None:
    _night(usecase, DAY)
    assert run(_KILLED, usecase.model_dump_json()) == -signal.SIGKILL
    assert not reports.drift_report(usecase, DAY).exists()
    drift.check(usecase, DAY)
    again = tables.partition_version(usecase, drift.LAYER, DAY)
    tables.delete_partition(usecase, drift.LAYER, DAY)
    drift.check(usecase, DAY)
    undisturbed = tables.partition_version(usecase, drift.LAYER, DAY)
    assert again is not None
    assert undisturbed is not None
    assert again.content_hash == undisturbed.content_hash


def test_what_is_missing_is_waited_for_or_explained(usecase: UseCase) -> None:
    with pytest.raises(TransientError, match="predictions of flight_delays 2013-01-17"):
        drift.check(usecase, DAY)
    with pytest.raises(DataError, match="no champion"):
        drift.check(usecase, date(2013, 1, 2))
