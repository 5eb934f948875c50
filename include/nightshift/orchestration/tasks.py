"""The tasks that DAG files wire: thin adapters between Airflow and ``nightshift.stages``.

A task knows its use case by name and its days from the run (``params.window``); what it returns is
small and JSON-able. A task that is given an outlet announces the run's key once its work is done.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.orchestration.alerts import report_failed, send_at_once
from nightshift.orchestration.assets import announce
from nightshift.orchestration.defaults import waiting
from nightshift.orchestration.metering import task
from nightshift.orchestration.params import night, only_stale, window
from nightshift.partition import parse_partition
from nightshift.usecase import load_usecase

log = logging.getLogger(__name__)

# One slot on DuckDB, whose file only one process may open.
WAREHOUSE = "warehouse"

# What the grid shows of a chunk of a range, instead of a number.
_CHUNK = "{{ task.op_kwargs.start }} to {{ task.op_kwargs.end }}"
# The same, of a chunk that has been staged.
STAGED = (
    "{{ task.op_kwargs.staged | map(attribute='partition') | min }} to "
    "{{ task.op_kwargs.staged | map(attribute='partition') | max }}"
)


# A mapped task takes no arguments of its operator from default_args.
@task(map_index_template="{{ task.op_kwargs.source }}", show_return_value_in_logs=False)
def capture(usecase: str, source: str) -> dict[str, int]:
    """Keep what one source has said since the last time."""
    from nightshift import stages

    return stages.capture(load_usecase(usecase), source)


@task(map_index_template="{{ task.op_kwargs.source }}", show_return_value_in_logs=False)
def land(usecase: str, source: str) -> dict[str, Any]:
    """Extract, validate, quarantine and land one source."""
    from nightshift import stages

    return stages.land(load_usecase(usecase), source, *window())


@task
def plan_months(usecase: str) -> list[dict[str, str]]:
    """Split the run's range: for each source its slow tables once, and its daily tables month by month."""
    from nightshift import nights

    return nights.plan_months(load_usecase(usecase), *window())


@task(
    map_index_template="{{ task.op_kwargs.source }} {{ task.op_kwargs.refresh }} {{ task.op_kwargs.start }}",
    show_return_value_in_logs=False,
)
def land_month(usecase: str, source: str, start: str, end: str, refresh: str) -> dict[str, Any]:
    """Extract, validate, quarantine and land the daily tables of a source for a month, or its slow ones."""
    from nightshift import stages

    return stages.land(load_usecase(usecase), source, parse_partition(start), parse_partition(end), [refresh])


@task
def plan_chunks() -> list[dict[str, str]]:
    """Cut the run's range into what workers may share."""
    from nightshift import nights

    return nights.plan_chunks(*window())


# Before features that wait for it: they try again and again in the same one slot.
@task(pool=WAREHOUSE, priority_weight=100)
def load(usecase: str) -> dict[str, int]:
    """Load what was landed into the warehouse."""
    from nightshift import stages

    loaded = stages.load(load_usecase(usecase), *window())
    _announce_night()
    return loaded


@task(pool=WAREHOUSE, **waiting())
def build_features(usecase: str) -> list[dict[str, Any]]:
    """Run dbt for the run's days and stage features and labels; waits for the raw data of the look-back."""
    from nightshift import stages

    return stages.build_features(load_usecase(usecase), *window(), only_stale=only_stale())


@task(pool=WAREHOUSE, **waiting())
def build_chunks(usecase: str) -> list[list[dict[str, Any]]]:
    """Run dbt once for all of the run's range, stage features and labels, and cut them into chunks."""
    from nightshift import nights, stages

    uc = load_usecase(usecase)
    return nights.cut(uc, stages.build_features(uc, *window(), only_stale=only_stale()), *window())


@task
def validate_features(usecase: str, staged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the suites on staged features and labels; quarantine the rows that fail."""
    from nightshift import stages

    return stages.validate_features(load_usecase(usecase), staged)


@task
def publish_features(usecase: str, staged: list[dict[str, Any]]) -> int:
    """Publish validated features and labels: number of partitions."""
    from nightshift import stages

    published = stages.publish_features(load_usecase(usecase), staged)
    _announce_night()
    return len(published)


@task
def score(usecase: str) -> list[dict[str, Any]]:
    """Score the run's days with the champion in force on each; skipped where none was yet, unless by hand."""
    from nightshift import stages

    uc, run = load_usecase(usecase), get_current_context()["dag_run"]
    # What was built again of the history that models are trained on goes down the chain, too.
    first = stages.first_scored(uc)
    if run.run_type == "asset_triggered" and first and window()[1] < first:
        raise AirflowSkipException(f"the first champion scores from {first} on")
    return stages.score(uc, *window(), run.run_id, only_stale=only_stale())


@task(map_index_template=_CHUNK)
def score_chunk(usecase: str, start: str, end: str) -> list[dict[str, Any]]:
    """Score the days of a chunk with the champion in force on each."""
    from nightshift import stages

    run_id = get_current_context()["run_id"]
    chunk = parse_partition(start), parse_partition(end)
    return stages.score(load_usecase(usecase), *chunk, run_id, only_stale=only_stale())


@task
def validate_predictions(usecase: str, staged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that every entity is scored exactly once, within range."""
    from nightshift import stages

    return stages.validate_predictions(load_usecase(usecase), staged)


@task
def publish_predictions(usecase: str, staged: list[dict[str, Any]]) -> int:
    """Publish validated predictions to the lake and to the table applications read: number of partitions."""
    from nightshift import stages

    published = stages.publish_predictions(load_usecase(usecase), staged)
    _announce_night()
    return len(published)


@task
def score_shadow(usecase: str) -> str:
    """Score the night with a challenger that awaits a decision; skipped without one, and where it fails."""
    from nightshift import stages

    version = stages.score_shadow(load_usecase(usecase), night())
    if version is None:
        raise AirflowSkipException("no challenger awaits a decision, or it failed as logged above")
    return version


@task
def check_drift(usecase: str) -> dict[str, str]:
    """Compare the run's days with the champion's training data."""
    from nightshift import stages

    return stages.check_drift(load_usecase(usecase), *window(), only_stale=only_stale())


@task(map_index_template=_CHUNK, show_return_value_in_logs=False)
def check_drift_of_chunk(usecase: str, start: str, end: str) -> dict[str, str]:
    """Compare the days of a chunk with the champion's training data."""
    from nightshift import stages

    chunk = parse_partition(start), parse_partition(end)
    return stages.check_drift_quietly(load_usecase(usecase), *chunk, only_stale=only_stale())


@task
def judge(usecase: str) -> dict[str, Any]:
    """Join earlier predictions, and those of a challenger, with the truth that is known by now."""
    from nightshift import stages

    uc = load_usecase(usecase)
    judged = stages.judge(uc, *window(), only_stale=only_stale())
    stages.judge_shadow(uc, judged)
    return judged


@task(map_index_template=_CHUNK, show_return_value_in_logs=False)
def judge_days(usecase: str, start: str, end: str) -> dict[str, Any]:
    """Join the predictions of a chunk, and those of a challenger, with the truth that is known by now."""
    from nightshift import stages

    uc = load_usecase(usecase)
    judged = stages.judge_days(uc, parse_partition(start), parse_partition(end), only_stale=only_stale())
    stages.judge_shadow(uc, judged)
    return judged


@task(map_index_template=_CHUNK, show_return_value_in_logs=False)
def judge_windows(usecase: str, start: str, end: str) -> list[str]:
    """Judge the weeks and months that end in a chunk, whichever chunk their days are in."""
    from nightshift import stages

    return stages.judge_windows(
        load_usecase(usecase), parse_partition(start), parse_partition(end), whole=window()
    )


# Also of the chunks that were checked where one was not.
@task(trigger_rule="all_done_min_one_success")
def alert_of_range(usecase: str) -> list[str]:
    """Alert of what the chunks of the run's range found: the days with an alarm."""
    from nightshift import stages

    return stages.alert_of_range(load_usecase(usecase), *window())


@task
def queue_labels(usecase: str) -> dict[str, Any]:
    """Queue the predictions of the run's days that people are to label."""
    from nightshift import stages

    return stages.queue_labels(load_usecase(usecase), *window())


# One at a time: two nights that decide at once would not see each other's request.
@task(max_active_tis_per_dag=1)
def request_retrain(usecase: str) -> list[str]:
    """Ask for a new model when the policy says so; skipped when it does not."""
    from nightshift import stages

    reasons = stages.decide_retrain(load_usecase(usecase), night())
    send_at_once(usecase)
    if not reasons:
        raise AirflowSkipException("the policy asks for no new model")
    _announce_night()
    return reasons


# Also when a check failed: what failed cost something, too.
@task(trigger_rule="all_done")
def account(usecase: str) -> dict[str, float]:
    """Put what the tasks of the night used into the lake, and its costs: a night over its budget alerts."""
    from nightshift import stages

    costs = stages.account(load_usecase(usecase), night())
    send_at_once(usecase)
    return costs


@task
def begin_training(usecase: str) -> None:
    """Take up the request for this training; skipped when that is closed and nobody asked by hand."""
    from nightshift import stages

    run = get_current_context()["dag_run"]
    if not stages.begin_training(
        load_usecase(usecase), night(), run.run_id, by_hand=run.run_type == "manual", by=_person()
    ):
        raise AirflowSkipException("the request of this night is closed already")


def training_failed(context: Any) -> None:
    """Close the request that a failed run had taken up (the DAG's ``on_failure_callback``)."""
    from nightshift import stages

    uc = load_usecase(context["dag"].dag_id.split(".")[0])
    stages.training_failed(uc, context["run_id"], f"run {context['run_id']} failed: {context['reason']}")


@task(on_failure_callback=report_failed)
def write_report(usecase: str) -> list[str]:
    """Write the page of each of the run's nights, and the digests of their weeks."""
    from nightshift import stages

    return stages.write_pages(load_usecase(usecase), *window())


@task
def take_snapshot(usecase: str) -> dict[str, Any]:
    """Freeze the training data; skipped when the champion already knows as much."""
    from nightshift import stages

    uc = load_usecase(usecase)
    through = window()[1]
    if stages.superseded(uc, through):
        raise AirflowSkipException(f"superseded: the champion was trained on {through} or later")
    return stages.take_snapshot(uc, through)


@task
def freeze_rows(usecase: str) -> dict[str, Any]:
    """Freeze the training data for a search, whatever the champion already knows."""
    from nightshift import stages

    return stages.take_snapshot(load_usecase(usecase), night())


@task
def open_search(usecase: str, snapshot: dict[str, Any], trainer: str) -> list[dict[str, Any]]:
    """Begin the search for a trainer's parameters, or find it; skipped when the form names another."""
    from nightshift import stages

    params = get_current_context()["params"]
    if params["trainer"] not in (None, trainer):
        raise AirflowSkipException(f"this run searches for {params['trainer']} only")
    uc = load_usecase(usecase)
    return stages.open_search(uc, snapshot, trainer, params["trials"], params["minutes"])


# A mapped task takes no arguments of its operator from default_args.
@task(map_index_template="trial {{ task.op_kwargs.index }}", show_return_value_in_logs=False)
def run_trial(usecase: str, search: dict[str, Any], index: int) -> dict[str, Any]:
    """Run one trial; skipped when the search's budget is spent."""
    from nightshift import stages

    trial = stages.run_trial(load_usecase(usecase), search, index)
    if trial["state"] == "not begun":
        raise AirflowSkipException("the budget of the search is spent")
    return trial


# Trials that do not begin are skipped, and one that was killed takes nothing from the others; with nothing
# opened there is nothing to conclude.
@task(trigger_rule="all_done_min_one_success")
def conclude_search(usecase: str, opened: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the trials and propose lines for the configuration."""
    from nightshift import stages

    return stages.conclude_search(load_usecase(usecase), opened[0]["search"])


@task
def train_candidate(usecase: str, snapshot: dict[str, Any], trainer: str) -> dict[str, Any]:
    """Train one candidate and log it to MLflow."""
    from nightshift import stages

    return stages.train_candidate(load_usecase(usecase), snapshot, trainer)


@task
def plan_backtest(usecase: str) -> list[dict[str, dict[str, Any]]]:
    """Freeze the data of a backtest and cut them into folds."""
    from nightshift import stages

    params = get_current_context()["params"]
    through = parse_partition(params["partition"]) if params["partition"] else None
    return stages.plan_backtest(load_usecase(usecase), through, params["folds"])


@task(map_index_template="{{ task.op_kwargs.fold.cutoff }}", show_return_value_in_logs=False)
def evaluate_fold(
    usecase: str, trainer: str, snapshot: dict[str, Any], fold: dict[str, Any]
) -> dict[str, Any]:
    """Train one trainer at one cut-off, and judge it on the days that follow."""
    from nightshift import stages

    return stages.evaluate_fold(load_usecase(usecase), snapshot, fold, trainer)


@task
def conclude_backtest(
    usecase: str, plan: list[dict[str, dict[str, Any]]], outcomes: Sequence[Sequence[dict[str, Any]]]
) -> str:
    """Put the folds together, record the result and write the page about it: the result's identity."""
    from nightshift import stages

    whole = [outcome for of_trainer in outcomes for outcome in of_trainer]
    return str(stages.conclude_backtest(load_usecase(usecase), plan, whole)["identity"])


@task
def evaluate(usecase: str, snapshot: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Judge candidates and champion on the same holdout rows."""
    from nightshift import stages

    context = get_current_context()
    return stages.evaluate(
        load_usecase(usecase),
        snapshot,
        list(candidates),
        by=context["run_id"],
        override=context["params"].get("holdout_override") or "",
    )


@task.short_circuit(ignore_downstream_trigger_rules=False)
def gate(usecase: str, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Register the best candidate; let it pass only if it is good enough and better than the champion."""
    from nightshift import stages

    uc = load_usecase(usecase)
    decision = stages.propose(uc, stages.gate(uc, evaluation))
    return decision if decision["promote"] else {}


@task
def promote(usecase: str, decision: dict[str, Any]) -> dict[str, Any]:
    """Make the gate's choice champion from the next partition on."""
    from nightshift import stages

    through = window()[1]
    policy = get_current_context()["params"].get("approval")
    deployment = stages.promote(load_usecase(usecase), through, decision, policy=policy)
    announce(through.isoformat())
    return deployment


@task
def roll_back(usecase: str) -> dict[str, Any]:
    """Put an earlier version in force again."""
    from nightshift import stages

    context = get_current_context()
    params = context["params"]
    deployment = stages.roll_back(
        load_usecase(usecase),
        params["version"],
        parse_partition(params["effective_from"]) if params["effective_from"] else None,
        params["reason"],
        by=_person(),
    )
    announce(deployment["effective_from"])
    return deployment


@task
def begin_rebuild(usecase: str) -> None:
    """Record in the audit log who has what built again."""
    from nightshift import stages

    context = get_current_context()
    chosen = context["params"]["stages"]
    stages.begin_rebuild(load_usecase(usecase), *window(), chosen, _person(), context["run_id"])


@task.short_circuit(ignore_downstream_trigger_rules=False, trigger_rule="none_failed")
def wanted(stage: str) -> bool:
    """Let a stage run only when the form selected it."""
    return stage in get_current_context()["params"]["stages"]


@task
def find_gaps(usecase: str) -> dict[str, list[str]]:
    """Find nights that stopped halfway: keys to send again, by asset."""
    from nightshift import stages

    return stages.find_gaps(load_usecase(usecase), get_current_context()["params"]["grace_minutes"])


# What a failed task raised is to be sent too. Beside it stands another last task, for a run ends as its last
# tasks do, and must not end well because this one did.
@task(trigger_rule="all_done")
def send_alerts(usecase: str) -> dict[str, int]:
    """Tell people of the alerts they were not told of yet."""
    from nightshift.monitoring.alerting import deliver
    from nightshift.orchestration.notifiers import send

    return deliver(load_usecase(usecase), send)


@task
def send_again(gaps: dict[str, list[str]], asset: str) -> list[str]:
    """Send the keys of one asset again, so that its consumers run for them."""
    keys = gaps[asset]
    if not keys:
        raise AirflowSkipException(f"no night stopped after {asset}")
    announce(*keys)
    log.info("sent %s again for %s", asset, ", ".join(keys))
    return keys


@task
def serve_again(usecase: str) -> dict[str, str]:
    """Make the table applications read follow the lake: copy again what differs."""
    from nightshift import stages

    return stages.serve_again(load_usecase(usecase))


@task
def fix_rows(usecase: str) -> int:
    """Record what the form says that rows in quarantine should say; usually nothing."""
    from nightshift import stages

    params = get_current_context()["params"]
    return stages.fix_rows(load_usecase(usecase), params["fixes"] or {}, params["reason"] or "", _person())


@task
def replay_quarantine(usecase: str) -> dict[str, Any]:
    """Judge quarantined rows again by today's rules and land those that pass."""
    from nightshift import stages

    return stages.replay_quarantine(load_usecase(usecase), night(), _person())


@task(pool=WAREHOUSE)
def describe_models(usecase: str) -> str:
    """Write dbt's documentation of the models, which the pages and the tasks of features lead to."""
    from nightshift import stages

    return stages.describe_models(load_usecase(usecase))


@task
def sweep_lake(usecase: str) -> dict[str, int]:
    """Delete what retention says: old raw objects, staged leftovers, old table versions."""
    from nightshift import stages

    return stages.sweep_lake(load_usecase(usecase), date.today(), get_current_context()["run_id"])


@task
def clean_airflow_database(keep_days: int) -> None:
    """Delete old runs from Airflow's own database."""
    from nightshift import stages

    stages.clean_airflow_database(keep_days, get_current_context()["run_id"])


def _person() -> str:
    """Return who started the run, as Airflow knows them."""
    return get_current_context()["dag_run"].triggering_user_name or "operator"


def _announce_night() -> None:
    if get_current_context()["task"].outlets:
        announce(night().isoformat())
