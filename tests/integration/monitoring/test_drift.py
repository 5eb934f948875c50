"""The nightly check: quiet on days like the training days, loud on a planted shift."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from tests.forked import preload, run

from nightshift import stages
from nightshift.errors import DataError, TransientError
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import tables
from nightshift.lake.store import open_store
from nightshift.monitoring import baseline, drift, reports
from nightshift.monitoring.alerting import read_alerts, silence
from nightshift.partition import days
from nightshift.usecase import Confirm, UseCase

Day = Callable[..., pa.Table]

DAY = date(2013, 1, 17)
NEXT = DAY + timedelta(days=1)
LAST = DAY + timedelta(days=2)

preload("evidently", "nightshift.monitoring.reports")


def _night(usecase: UseCase, day: date, features: pa.Table | None = None) -> None:
    if features is not None:
        tables.replace_partition(usecase, "features", day, features, ["flight_id"])
    publish_predictions(usecase, score(usecase, day))


def _shifted(day_of_features: Day, day: date) -> pa.Table:
    return day_of_features(day, shift=2.0).drop_columns("late")


def _with(features: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return features.set_column(features.column_names.index(name), name, values)


def test_a_day_like_the_training_days_is_quiet(usecase: UseCase) -> None:
    _night(usecase, DAY)
    result = drift.check(usecase, DAY)
    assert (result.verdict, result.columns, result.findings, result.rows) == ("quiet", (), (), 300)
    (window,) = result.windows
    assert set(window.distances) == {"hour", "delay", "load", "carrier", "origin", "score"}
    assert all(window.distances[name] < window.limits[name] for name in window.distances)
    assert drift.results(usecase, DAY, DAY) == {DAY: result}


def test_a_shift_is_watched_on_the_first_day_and_drift_on_the_second(
    usecase: UseCase, day_of_features: Day
) -> None:
    found = []
    for day in (DAY, NEXT):
        _night(usecase, day, _shifted(day_of_features, day))
        found.append(drift.check(usecase, day))
    assert [result.verdict for result in found] == ["watch", "drift"]
    assert {"hour", "delay", "load"} <= set(found[1].columns)
    assert [(one.kind, one.column) for one in found[1].findings] == [("new_category", "carrier")]
    effects = {signal.column: signal.effect for signal in found[1].windows[0].signals}
    assert effects["hour"] == pytest.approx(2.0, abs=0.25)
    assert "hour" in found[1].reason


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_nights_in_any_order_end_with_the_same_verdicts(
    usecase: UseCase, day_of_features: Day, order: tuple[int, ...]
) -> None:
    for place in order:
        day = DAY + timedelta(days=place)
        _night(usecase, day, _shifted(day_of_features, day) if place != 1 else None)
        drift.check(usecase, day)
    found = drift.results(usecase, DAY, DAY + timedelta(days=2))
    assert [found[day].verdict for day in sorted(found)] == ["watch", "quiet", "drift"]


def test_how_many_days_confirm_is_the_use_cases_choice(usecase: UseCase, day_of_features: Day) -> None:
    _night(usecase, DAY, _shifted(day_of_features, DAY))
    at_once = usecase.drift.model_copy(update={"confirm": Confirm(signals=1, of=1)})
    assert drift.check(usecase, DAY).verdict == "watch"
    assert drift.check(usecase.model_copy(update={"drift": at_once}), DAY).verdict == "drift"


def test_a_feature_without_any_value_is_a_finding_and_no_drift(
    usecase: UseCase, day_of_features: Day
) -> None:
    for day in (DAY, NEXT):
        features = day_of_features(day).drop_columns("late")
        _night(usecase, day, _with(features, "hour", pa.nulls(features.num_rows, pa.float64())))
        result = drift.check(usecase, day)
        assert (result.verdict, result.signal) == ("watch", False)
        assert [(one.kind, one.column) for one in result.findings] == [("outage", "hour")]
        assert "hour has no value" in result.reason


def test_a_new_category_is_a_finding(usecase: UseCase, day_of_features: Day) -> None:
    features = day_of_features(DAY).drop_columns("late")
    carriers = [
        "QQ" if place % 20 == 0 else name for place, name in enumerate(features["carrier"].to_pylist())
    ]
    _night(usecase, DAY, _with(features, "carrier", pa.array(carriers)))
    result = drift.check(usecase, DAY)
    assert [(one.kind, one.column) for one in result.findings] == [("new_category", "carrier")]
    assert result.verdict == "watch"


def test_half_of_the_rows_are_a_finding(usecase: UseCase, day_of_features: Day) -> None:
    _night(usecase, DAY, day_of_features(DAY).drop_columns("late").slice(0, 150))
    assert [one.kind for one in drift.check(usecase, DAY).findings] == ["volume"]


def test_checked_again_nothing_changes(usecase: UseCase) -> None:
    _night(usecase, DAY)
    first = drift.check(usecase, DAY)
    page = reports.draw(usecase, first)
    assert page is not None
    version = tables.partition_version(usecase, drift.LAYER, DAY)
    written = page.stat().st_mtime_ns
    assert drift.check(usecase, DAY) == first
    assert reports.draw(usecase, first) == page
    assert page.stat().st_mtime_ns == written
    page.unlink()
    assert reports.draw(usecase, first) == page
    assert page.exists()
    assert tables.partition_version(usecase, drift.LAYER, DAY) == version


def test_the_baseline_is_made_once_and_made_again_when_it_is_damaged(usecase: UseCase) -> None:
    _night(usecase, DAY)
    first = drift.check(usecase, DAY)
    store = open_store()
    (key,) = store.list(f"baselines/{usecase.name}/")
    whole = store.get(key)
    store.put(key, whole[: len(whole) // 2])
    tables.delete_partition(usecase, drift.LAYER, DAY)
    assert drift.check(usecase, DAY) == first
    assert len(store.get(key)) > len(whole) // 2


def test_baselines_that_nobody_needs_are_swept(usecase: UseCase) -> None:
    _night(usecase, DAY)
    drift.check(usecase, DAY)
    store = open_store()
    (kept,) = store.list(f"baselines/{usecase.name}/")
    store.put(f"baselines/{usecase.name}/{'0' * 64}.npz", b"of a candidate, or of a policy of before")
    assert baseline.sweep(usecase, older_than_days=7) == 0, "young ones may be of a training that goes on"
    assert baseline.sweep(usecase, older_than_days=-1) == 1
    assert store.list(f"baselines/{usecase.name}/") == [kept]
    assert baseline.sweep(usecase, older_than_days=-1) == 0


def test_a_corrected_day_has_the_days_after_it_judged_again(usecase: UseCase, day_of_features: Day) -> None:
    for day in (DAY, NEXT):
        _night(usecase, day, _shifted(day_of_features, day))
        drift.check(usecase, day)
    _night(usecase, DAY, day_of_features(DAY).drop_columns("late"))
    assert drift.check(usecase, DAY).verdict == "quiet"
    assert drift.results(usecase, NEXT, NEXT)[NEXT].verdict == "watch"


def test_an_outage_is_not_drift_of_the_weeks_that_hold_it(usecase: UseCase, day_of_features: Day) -> None:
    weeks = usecase.model_copy(
        update={"drift": usecase.drift.model_copy(update={"windows": (1, 3), "min_effect": 0.0})}
    )
    features = day_of_features(DAY).drop_columns("late")
    _night(weeks, DAY, _with(features, "hour", pa.nulls(features.num_rows, pa.float64())))
    for day in days(NEXT, NEXT + timedelta(days=1)):
        _night(weeks, day)
        result = drift.check(weeks, day)
        assert (result.verdict, result.findings) == ("quiet", ())
        long = result.windows[-1]
        assert ("hour" in long.distances) == (long.length == 1)


def test_a_result_made_before_a_policy_changed_is_stale(usecase: UseCase) -> None:
    _night(usecase, DAY)
    kept = {DAY: drift.check(usecase, DAY)}
    assert drift.outdated(usecase, kept) == {}
    stricter = usecase.drift.model_copy(update={"false_alarms": 0.2})
    assert set(drift.outdated(usecase.model_copy(update={"drift": stricter}), kept)) == {DAY}


def test_a_later_day_whose_features_are_gone_does_not_stop_an_earlier_one(usecase: UseCase) -> None:
    for day in (DAY, NEXT):
        _night(usecase, day)
        drift.check(usecase, day)
    tables.delete_partition(usecase, "features", NEXT)
    assert drift.check(usecase, DAY).verdict == "quiet"


_KILLED = """
import os, signal, sys
from datetime import date
from nightshift.monitoring import baseline, drift, reports
from nightshift.monitoring.alerting import read_alerts
from nightshift.partition import days
from nightshift.usecase import UseCase

uc = UseCase.model_validate_json(sys.stdin.read())
# The moment before the finished page takes its place.
def die(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("drift.html"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
reports.draw(uc, drift.check(uc, date(2013, 1, 17)))
"""


def test_killed_while_reporting_and_run_again(usecase: UseCase) -> None:
    _night(usecase, DAY)
    assert run(_KILLED, usecase.model_dump_json()) == -signal.SIGKILL
    assert not reports.drift_report(usecase, DAY).exists()
    reports.draw(usecase, drift.check(usecase, DAY))
    assert reports.drift_report(usecase, DAY).exists()
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


def test_people_are_told_of_confirmed_drift_and_of_wrong_data_once(
    usecase: UseCase, day_of_features: Day
) -> None:
    features = _shifted(day_of_features, DAY)
    _night(usecase, DAY, _with(features, "load", pa.nulls(features.num_rows, pa.float64())))
    for day in (NEXT, LAST):
        _night(usecase, day, _shifted(day_of_features, day))
    for _ in range(2):
        verdicts = stages.check_drift(usecase, DAY, LAST)
    assert list(verdicts.values()) == ["watch", "drift", "drift"]
    told = {(alert.kind, alert.subject): alert for alert in read_alerts(usecase.name)}
    # Drift, and what the shift does to carriers, go on: that is no news.
    assert set(told) == {
        ("data", f"outage load {DAY}"),
        ("data", f"new_category carrier {DAY}"),
        ("drift", str(NEXT)),
    }
    assert "load has no value" in told["data", f"outage load {DAY}"].message
    assert "hour" in told["drift", str(NEXT)].message
    assert told["drift", str(NEXT)].link.endswith(f"/{usecase.name}/nightly/{NEXT}.html")
    assert {alert.count for alert in told.values()} == {1}


def test_what_comes_back_and_what_lasts_beyond_a_silence_is_told_again(
    usecase: UseCase, day_of_features: Day
) -> None:
    def outage(day: date) -> pa.Table:
        features = day_of_features(day).drop_columns("late")
        return _with(features, "load", pa.nulls(features.num_rows, pa.float64()))

    now = datetime.now(UTC)
    for place, broken in enumerate((True, True, False, True)):
        day = DAY + timedelta(days=place)
        _night(usecase, day, outage(day) if broken else None)
        if place == 0:
            silence(usecase.name, "data", now + timedelta(days=1), reason="it is known", by="ann")
        if place == 1:
            silence(usecase.name, "data", now, reason="it should be mended", by="ann")
        stages.check_drift(usecase, day, day)
    told = [one for one in read_alerts(usecase.name) if one.kind == "data"]
    assert [(one.subject, bool(one.silenced)) for one in told] == [
        (f"outage load {DAY + timedelta(days=3)}", False),
        (f"outage load {NEXT}", False),
        (f"outage load {DAY}", True),
    ]


def test_an_alert_needs_no_picture(usecase: UseCase, day_of_features: Day) -> None:
    _night(usecase, DAY, day_of_features(DAY).drop_columns("late").slice(0, 150))
    # Where the folder of the pictures should be.
    folder = reports.drift_report(usecase, DAY).parent.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    assert stages.check_drift(usecase, DAY, DAY) == {str(DAY): "watch"}
    assert [alert.subject for alert in read_alerts(usecase.name)] == [f"volume {DAY}"]
    folder.unlink()
    stages.check_drift(usecase, DAY, DAY)
    assert reports.drift_report(usecase, DAY).exists(), "checked again, it is drawn again"
