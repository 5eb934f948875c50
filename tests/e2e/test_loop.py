"""The loop through a real Airflow, in the order of its story: each test goes on from the one before."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from nightshift import databases
from nightshift import nights as nightly
from nightshift.cli.main import app
from nightshift.evaluation import backtest
from nightshift.lake import lineage, raw, tables
from nightshift.monitoring import requests
from nightshift.monitoring.alerting import read_alerts
from nightshift.monitoring.staleness import find_stale
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.services import checks
from nightshift.services.airflow_api import ApiError
from nightshift.settings import settings
from nightshift.usecase import UseCase
from tests.e2e.conftest import HISTORY
from tests.lakes import environment
from tests.stacks import Stack, contents, damage_flights

runner = CliRunner()

NIGHTS = [HISTORY[1] + timedelta(days=offset) for offset in range(1, 8)]
# These run a second time, in the other direction.
TWICE = NIGHTS[-3:]
HISTORY_DAYS = str((HISTORY[1] - HISTORY[0]).days + 1)
DEMO = ("--history", HISTORY_DAYS, "--nights", str(len(NIGHTS)))
LOST = NIGHTS[-1] + timedelta(days=1)


def invoke(*arguments: str) -> str:
    """Run a command of ``nightshift`` and return what it printed."""
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def served(night: date) -> int:
    """Return how many predictions of a night applications read."""
    with psycopg.connect(databases.url("serving")) as connection:
        found = connection.execute(
            "select count(*) from predictions.flight_delays where partition = %s", [night]
        ).fetchone()
    return int(found[0]) if found else 0


def keep(stack: Stack, folder: Path) -> None:
    """Copy what nights change of the state."""
    for part in ("lake", "warehouse"):
        shutil.copytree(stack.home / part, folder / part)


@pytest.fixture(scope="module")
def nights(bootstrapped: Stack) -> dict[str, Any]:
    """The status after seven nights, whose last three first ran in reverse order from the same start."""
    stack = bootstrapped
    keep(stack, stack.home / "bootstrapped")
    invoke("demo", "--history", HISTORY_DAYS, "--nights", str(len(NIGHTS) - len(TWICE)))
    kept = stack.home / "before"
    keep(stack, kept)
    began = stack.ingest(TWICE, backwards=True)
    for night in TWICE:
        stack.finish(night, began)
    reverse = stack.status()
    for part in ("lake", "warehouse"):
        shutil.rmtree(stack.home / part)
        shutil.copytree(kept / part, stack.home / part)
    with psycopg.connect(databases.url("serving")) as connection:
        for table in ("flight_delays", "_flight_delays_partitions"):
            connection.execute(f"delete from predictions.{table} where partition >= %s", [TWICE[0]])
    assert tables.partition_version(stack.uc, "predictions", TWICE[0]) is None
    # As a user does: the demo finds the bootstrapped history and runs the nights, one after the other.
    summary = invoke("demo", *DEMO)
    return {
        "reverse": reverse,
        "forward": stack.status(),
        "contents": contents(stack.uc),
        "summary": summary,
    }


def test_bootstrap_lands_builds_and_promotes(bootstrapped: Stack) -> None:
    status = bootstrapped.status()
    history = len(list(days(*HISTORY)))
    assert status["raw"]["rows_in"] == status["raw"]["rows_accepted"] + status["raw"]["rows_quarantined"]
    assert status["raw"]["rows_quarantined"] < 0.001 * status["raw"]["rows_in"]
    for source, name, table in bootstrapped.uc.tables():
        if table.refresh == "slow":
            snapshots = raw.current_many(bootstrapped.uc, source, name)
            assert list(snapshots) == [HISTORY[0]], "landed once, although months land side by side"
    assert status["features"]["partitions"] == history
    assert status["predictions"]["partitions"] == 0
    assert status["champion"]["trained_through"] < HISTORY[1].isoformat()
    assert status["champion"]["metrics"]["roc_auc"] > 0.62


def test_nights_end_in_predictions_judged_by_the_truth(nights: dict[str, Any], bootstrapped: Stack) -> None:
    status = nights["forward"]
    assert status["predictions"]["partitions"] == len(NIGHTS)
    features = tables.partition_versions(bootstrapped.uc, "features")
    assert status["predictions"]["rows"] == sum(features[night].rows for night in NIGHTS)
    assert set(status["drift"]) == {night.isoformat() for night in NIGHTS}
    # The truth of a night arrives with the next one.
    assert set(status["predictions"]["observed"]) == {night.isoformat() for night in NIGHTS[:-1]}
    for observed in status["predictions"]["observed"].values():
        assert 0.5 < observed["roc_auc"] < 0.9
        assert observed["rows"] > 500


def test_the_demo_tells_what_came_of_it_and_a_second_one_changes_nothing(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    assert f"{nights['forward']['predictions']['rows']} rows" in nights["summary"]
    assert "Everything stays up until `make down`." in nights["summary"]
    versions = {
        layer: tables.partition_versions(bootstrapped.uc, layer) for layer in tables.layers(bootstrapped.uc)
    }
    assert "nothing was run or changed" in invoke("demo", *DEMO)
    assert {layer: tables.partition_versions(bootstrapped.uc, layer) for layer in versions} == versions


@pytest.mark.parametrize("layer", ["raw", "features", "predictions"])
def test_nights_in_reverse_order_end_the_same(nights: dict[str, Any], layer: str) -> None:
    assert nights["reverse"][layer]["content_hash"] == nights["forward"][layer]["content_hash"]


def test_a_replay_in_one_process_ends_as_the_same_nights_in_airflow(
    nights: dict[str, Any], bootstrapped: Stack, postgres: str
) -> None:
    home = bootstrapped.home / "replayed"
    (bootstrapped.home / "bootstrapped").rename(home)
    # The champion is the one that Airflow trained. Nothing that applications read of Airflow's is touched.
    with environment(home, NIGHTSHIFT_MLFLOW_URL=settings().mlflow_uri, NIGHTSHIFT_POSTGRES_URL=postgres):
        databases.ensure(["serving"])
        for night in NIGHTS:
            assert nightly.run(bootstrapped.uc, night).reasons == ()
        replayed = contents(bootstrapped.uc)
    for layer in ("raw flights", "features", "labels", "predictions", "monitoring", "outcomes"):
        assert len(replayed[layer]) >= len(NIGHTS) - 1
    assert replayed == nights["contents"]


def test_applications_read_the_predictions_from_postgres(nights: dict[str, Any], bootstrapped: Stack) -> None:
    with psycopg.connect(databases.url("serving")) as connection:
        rows = connection.execute(
            "select count(*), count(distinct flight_id) from predictions.flight_delays"
        ).fetchone()
        latest = connection.execute(
            "select distinct partition from predictions.flight_delays_latest"
        ).fetchall()
    assert rows == (nights["forward"]["predictions"]["rows"],) * 2
    assert latest == [(NIGHTS[-1],)]


def test_a_lost_night_is_noticed_and_completed(nights: dict[str, Any], bootstrapped: Stack) -> None:
    stack = bootstrapped
    stack.api.set_paused(stack.dag("features"), True)
    began = stack.ingest([LOST])
    stack.api.set_paused(stack.dag("features"), False)
    stack.run("watch", {"grace_minutes": 90})
    assert stack.api.runs(stack.dag("features"), partition_key=LOST.isoformat()) == [], "within its grace"

    stack.run("watch", {"grace_minutes": 0})

    stack.finish(LOST, began)
    assert tables.partition_version(stack.uc, "predictions", LOST) is not None


def test_rebuilding_what_has_not_changed_makes_no_new_version(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    stack = bootstrapped
    before = {layer: tables.partition_versions(stack.uc, layer) for layer in ("features", "predictions")}
    stack.run(
        "rebuild",
        {
            "start": NIGHTS[0].isoformat(),
            "end": NIGHTS[-1].isoformat(),
            "stages": ["raw", "features", "predictions", "monitoring"],
        },
    )
    assert {layer: tables.partition_versions(stack.uc, layer) for layer in before} == before


def test_a_deleted_prediction_partition_is_rebuilt_alone(nights: dict[str, Any], bootstrapped: Stack) -> None:
    stack = bootstrapped
    before = tables.partition_versions(stack.uc, "predictions")
    assert served(NIGHTS[0]) == before[NIGHTS[0]].rows
    tables.delete_partition(stack.uc, "predictions", NIGHTS[0])
    stack.run("watch", {"grace_minutes": 90})
    assert served(NIGHTS[0]) == 0
    run = stack.run(
        "rebuild", {"start": NIGHTS[0].isoformat(), "end": NIGHTS[0].isoformat(), "stages": ["predictions"]}
    )
    after = tables.partition_versions(stack.uc, "predictions")
    assert {day: version.content_hash for day, version in after.items()} == {
        day: version.content_hash for day, version in before.items()
    }
    assert served(NIGHTS[0]) == before[NIGHTS[0]].rows
    states = {task.task_id: task.state for task in stack.api.tasks(run)}
    assert states["features.build_features"] == "skipped"
    assert states["predictions.chunk.publish_predictions"] == "success"


def test_a_prediction_partition_whose_files_are_gone_is_named_and_rebuilt_by_the_demo(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    stack = bootstrapped
    before = tables.partition_versions(stack.uc, "predictions")
    shutil.rmtree(stack.home / "lake/tables" / stack.uc.name / "predictions" / f"partition={NIGHTS[0]}")
    assert f"predictions {NIGHTS[0]}" in checks.whole_tables().detail
    invoke("demo", *DEMO)
    assert checks.whole_tables().passed
    run = stack.api.runs(stack.dag("rebuild"))[0]
    assert run.conf == {
        "start": NIGHTS[0].isoformat(),
        "end": NIGHTS[0].isoformat(),
        "stages": ["predictions", "monitoring"],
    }
    rows = tables.read_partitions(stack.uc, "predictions", NIGHTS[0], NIGHTS[0])
    assert rows.num_rows == before[NIGHTS[0]].rows


def test_a_corrected_day_makes_stale_what_read_it_and_one_run_mends_exactly_that(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    uc = bootstrapped.uc
    assert find_stale(uc) == []
    corrected = HISTORY[1] - timedelta(days=4)
    (source,) = uc.sources
    standing = raw.current(uc, source, "flights", corrected)
    assert standing is not None
    flights = raw.read(standing)
    place = flights.column_names.index("arrival_delay_minutes")
    longer = flights.set_column(place, "arrival_delay_minutes", pc.add(flights["arrival_delay_minutes"], 60))
    raw.land(
        uc,
        source,
        "flights",
        corrected,
        longer,
        rows_in=standing.rows_in,
        rows_quarantined=standing.rows_quarantined,
        as_of=standing.as_of,
        query="a correction",
    )
    layers = ("features", "labels", "predictions", "monitoring", "monitoring_observed")
    before = {layer: tables.partition_versions(uc, layer) for layer in layers}
    readers = set(days(corrected + timedelta(days=1), LOST))
    scored = {*NIGHTS, LOST}
    stale = find_stale(uc)
    assert {item.partition for item in stale if item.layer == "features"} == readers
    assert {item.partition for item in stale if item.layer == "labels"} == {corrected}
    for layer in ("predictions", "monitoring"):
        assert {item.partition for item in stale if item.layer == layer} == scored
    assert {item.partition for item in stale if item.layer == "monitoring_observed"} == set(NIGHTS)

    listed = {(item.layer, item.partition) for item in stale}
    marks = {layer: lineage.build_ids(uc, layer) for layer in ("features", "labels")}
    runs = len(bootstrapped.api.runs(bootstrapped.dag("rebuild")))

    invoke("stale", "--rebuild")

    assert find_stale(uc) == []
    assert "nothing is stale" in invoke("stale")
    assert len(bootstrapped.api.runs(bootstrapped.dag("rebuild"))) == runs + 1
    built = {
        (layer, day)
        for layer, known in marks.items()
        for (day, content), builds in lineage.build_ids(uc, layer).items()
        if set(builds) - set(known.get((day, content), []))
    }
    assert built == {item for item in listed if item[0] in marks}
    for layer in layers:
        after = tables.partition_versions(uc, layer)
        assert list(after) == list(before[layer])
        changed = {day for day in after if after[day].content_hash != before[layer][day].content_hash}
        assert changed
        assert {(layer, day) for day in changed} <= listed


def _told(uc: UseCase) -> list[tuple[str, str]]:
    """What each alert is about; on a busy machine a run may be late by the minute that these tests allow."""
    return sorted((one.kind, one.subject) for one in read_alerts(uc.name) if one.kind != "deadline_missed")


def test_a_fixed_row_is_replayed_and_all_that_rests_on_it_follows(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    stack, uc = bootstrapped, bootstrapped.uc
    before, told, day = stack.status(), _told(uc), NIGHTS[0]
    ((_, delay),) = damage_flights(uc, day, 1).items()
    invoke("stale", "--rebuild")
    without = stack.status()
    assert without["raw"]["rows_in"] == before["raw"]["rows_in"]
    assert without["raw"]["rows_quarantined"] == before["raw"]["rows_quarantined"] + 1
    observed = [status["predictions"]["observed"][day.isoformat()]["rows"] for status in (before, without)]
    assert observed[1] == observed[0] - 1

    (row,) = map(json.loads, invoke("quarantine", "show", "raw_flights", str(day), "--json").splitlines())
    assert "99999" in invoke("quarantine", "show", "raw_flights", str(day))
    settings = f"arrival_delay_minutes={delay}"
    invoke(
        *("quarantine", "fix", "raw_flights", str(day), "--row", row["row_id"]),
        *("--set", settings, "--reason", "the airline's own record"),
    )
    truth_came = day + timedelta(days=uc.label.lag_days)
    stack.run("replay_quarantine", {"partition": truth_came.isoformat()})
    assert stack.status()["raw"] == before["raw"], "what was fixed is what the source should have said"
    invoke("stale", "--rebuild")

    assert {**stack.status(), "alerts": None} == {**before, "alerts": None}
    assert _told(uc) == told
    assert "nothing is in quarantine" in invoke("quarantine", "list", "--start", str(day), "--end", str(day))
    assert find_stale(uc) == []


def test_training_by_hand_ends_in_a_decision(nights: dict[str, Any], bootstrapped: Stack) -> None:
    stack = bootstrapped
    champions = len(deployments.history(stack.uc))
    run = stack.run("train", {"partition": LOST.isoformat()})
    states = {task.task_id: task.state for task in stack.api.tasks(run)}
    assert states["model.gate"] == "success"
    promoted = states["model.promote"] == "success"
    assert len(deployments.history(stack.uc)) == champions + promoted
    asked = requests.lives(stack.uc)[-1]
    assert (asked.request.by_hand, asked.state) == (True, "promoted" if promoted else "refused")


def test_a_backtest_in_airflow_is_the_one_that_the_command_shows(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    stack, through = bootstrapped, NIGHTS[-1].isoformat()
    run = stack.run("backtest", {"partition": through, "folds": 2})
    evaluated = [task for task in stack.api.tasks(run) if task.task_id.startswith("folds.")]
    assert len(evaluated) == 2 * len(stack.uc.training.trainers)
    (found,) = backtest.recorded(stack.uc)
    assert (found.night, len(found.folds)) == (NIGHTS[-1], 2)
    assert all(outcome.metrics["roc_auc"] > 0.5 for outcome in found.outcomes)
    shown = invoke("backtest", "--through", through, "--folds", "2", "--json")
    assert backtest.Backtest.model_validate_json(shown) == found


def test_a_request_older_than_the_champion_is_superseded(nights: dict[str, Any], bootstrapped: Stack) -> None:
    run = bootstrapped.run("train", {"partition": HISTORY[1].isoformat()})
    states = {task.task_id: task.state for task in bootstrapped.api.tasks(run)}
    assert states.pop("begin_training") == "success"
    assert set(states.values()) == {"skipped"}
    asked = requests.lives(bootstrapped.uc)[-1]
    assert (asked.request.by_hand, asked.state) == (True, "superseded")


def test_a_search_ends_in_lines_for_the_use_case(nights: dict[str, Any], bootstrapped: Stack) -> None:
    stack = bootstrapped
    form = {"partition": LOST.isoformat(), "trainer": "xgboost", "trials": 2, "minutes": 30}
    run = stack.run("search", form)
    states = [(task.task_id, task.state) for task in stack.api.tasks(run)]
    assert states.count(("run_trial_xgboost", "success")) == 2
    assert ("open_tabular_network", "skipped") in states
    assert ("conclude_tabular_network", "skipped") in states
    (concluded,) = (task for task in stack.api.tasks(run) if task.task_id == "conclude_xgboost")
    assert "with those in force" in stack.api.log(concluded, 60) or "Nothing beat" in stack.api.log(
        concluded, 60
    )


def test_rollback_puts_an_earlier_champion_in_force_again(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    stack = bootstrapped
    first = deployments.history(stack.uc)[0]
    # The next night: what is promoted later must not lie before it.
    day = LOST + timedelta(days=1)
    stack.run("rollback", {"version": first.version, "effective_from": day.isoformat(), "reason": "a drill"})
    in_force = deployments.champion_at(stack.uc, day)
    assert in_force is not None
    assert (in_force.version, in_force.action, in_force.reasons) == (first.version, "rollback", ["a drill"])


def test_replaying_a_quarantine_that_still_breaks_its_rule_changes_nothing(
    nights: dict[str, Any], bootstrapped: Stack
) -> None:
    before = bootstrapped.status()["raw"]
    bootstrapped.run("replay_quarantine", {"partition": NIGHTS[0].isoformat()})
    assert bootstrapped.status()["raw"] == before


def test_maintenance_keeps_what_retention_keeps(nights: dict[str, Any], bootstrapped: Stack) -> None:
    before = bootstrapped.status()
    bootstrapped.run("maintain", {})
    assert bootstrapped.status() == before


@pytest.mark.parametrize(
    ("name", "conf", "reason"),
    [
        (
            "rollback",
            {"version": "999", "effective_from": "2013-04-01", "reason": "a drill"},
            "was never champion",
        ),
        ("features", {}, "this run names no day"),
        (
            "rebuild",
            {"start": "2013-03-01", "end": "2013-03-01", "stage": ["raw"]},
            "flight_delays.rebuild has no parameter 'stage'",
        ),
        ("ingest", {"partition": "2012-06-01"}, "nothing to ingest for 2012-06-01"),
        ("replay_quarantine", {"partition": "2013-07-20"}, "nothing was landed for the night of 2013-07-20"),
        ("score", {"partition": "2012-06-01"}, "no champion of flight_delays is in force on 2012-06-01"),
    ],
    ids=[
        "unknown version",
        "no day",
        "misspelt parameter",
        "before history",
        "never landed",
        "before the first champion",
    ],
)
def test_runs_that_must_fail_fail_for_the_stated_reason(
    nights: dict[str, Any], bootstrapped: Stack, name: str, conf: dict[str, Any], reason: str
) -> None:
    run = bootstrapped.run(name, conf, state="failed")
    assert reason in bootstrapped.failures(run)
    tries = {task.try_number for task in bootstrapped.api.tasks(run) if task.state == "failed"}
    assert tries == {1}, "bad data must not be retried"
    assert reason in run.note


@pytest.mark.parametrize(
    ("conf", "reason"),
    [
        ({"start": "2013-03-02", "end": "2013-03-01"}, "ends (2013-03-01) before it starts"),
        ({"start": "2013-03-01", "end": "2013-03-01", "stages": []}, "[] should be non-empty"),
    ],
    ids=["backward range", "no stage"],
)
def test_a_form_that_makes_no_sense_begins_no_run(
    bootstrapped: Stack, conf: dict[str, Any], reason: str
) -> None:
    before = bootstrapped.api.runs(bootstrapped.dag("rebuild"))
    with pytest.raises(ApiError, match=re.escape(reason)):
        bootstrapped.api.trigger(bootstrapped.dag("rebuild"), conf)
    assert bootstrapped.api.runs(bootstrapped.dag("rebuild")) == before


def test_every_dag_has_run(nights: dict[str, Any], bootstrapped: Stack) -> None:
    for dag_id in bootstrapped.api.dags():
        succeeded = [run for run in bootstrapped.api.runs(dag_id) if run.state == "success"]
        assert succeeded, f"{dag_id} never succeeded in these tests"
