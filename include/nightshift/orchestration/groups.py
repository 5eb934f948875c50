"""Chains of tasks that more than one DAG wires: nothing is published unchecked or promoted ungated."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, task_group

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import placed
from nightshift.usecase import SearchRules, UseCase


@task_group(group_id="features")
def make_features(usecase: UseCase, outlets: list[Asset]) -> None:
    """Build, validate and publish the features of the run's days."""
    staged: Any = tasks.build_features(usecase.name)
    accepted: Any = tasks.validate_features(usecase.name, staged)
    tasks.publish_features.override(outlets=outlets)(usecase.name, accepted)


@task_group(group_id="predictions")
def make_predictions(usecase: UseCase, outlets: list[Asset]) -> None:
    """Score, validate and publish the predictions of the run's days."""
    staged: Any = tasks.score(usecase.name)
    accepted: Any = tasks.validate_predictions(usecase.name, staged)
    tasks.publish_predictions.override(outlets=outlets)(usecase.name, accepted)


@task_group(group_id="features")
def make_features_of_range(usecase: UseCase) -> None:
    """Build the features of the run's range at once, and validate and publish them chunk by chunk.

    One build: its models look back over days that other chunks would be replacing at the same time.
    """
    built: Any = tasks.build_chunks.override(task_id="build_features")(usecase.name)
    _publish_features.partial(usecase=usecase.name).expand(staged=built)


# Depth first: a chunk that is validated is published, whatever becomes of the others. Arguments have names,
# for the grid shows a chunk by them.
@task_group(group_id="chunk")
def _publish_features(usecase: str, staged: Any) -> None:
    validate = tasks.validate_features.override(map_index_template=tasks.STAGED)
    publish = tasks.publish_features.override(map_index_template=tasks.STAGED)
    validated: Any = validate(usecase=usecase, staged=staged)
    publish(usecase=usecase, staged=validated)


@task_group(group_id="predictions")
def make_predictions_of_range(usecase: UseCase) -> None:
    """Score, validate and publish the predictions of the run's range, chunk by chunk."""
    chunks: Any = tasks.plan_chunks()
    _publish_predictions.partial(usecase=usecase.name).expand_kwargs(chunks)


@task_group(group_id="chunk")
def _publish_predictions(usecase: str, start: str, end: str) -> None:
    score = tasks.score_chunk.override(task_id="score")
    validate = tasks.validate_predictions.override(map_index_template=tasks.STAGED)
    publish = tasks.publish_predictions.override(map_index_template=tasks.STAGED)
    staged: Any = score(usecase=usecase, start=start, end=end)
    validated: Any = validate(usecase=usecase, staged=staged)
    publish(usecase=usecase, staged=validated)


@task_group(group_id="monitoring")
def monitor_range(usecase: UseCase) -> None:
    """Compare and judge the days of the run's range chunk by chunk, windows once all days are judged."""
    chunks: Any = tasks.plan_chunks()
    compare = tasks.check_drift_of_chunk.override(task_id="check_drift")
    compared = compare.partial(usecase=usecase.name).expand_kwargs(chunks)
    judged = tasks.judge_days.partial(usecase=usecase.name).expand_kwargs(chunks)
    windows = tasks.judge_windows.partial(usecase=usecase.name).expand_kwargs(chunks)
    alerted = tasks.alert_of_range(usecase.name)
    judged >> windows
    [compared, windows] >> alerted
    # Not after the alerts alone, which are raised although a chunk failed: the run would end well.
    [compared, windows, alerted] >> tasks.write_report(usecase.name)


def search_parameters(usecase: UseCase, rules: SearchRules) -> None:
    """Search for better parameters of each trainer that has a space, all on one snapshot.

    Trials of a trainer that has a pool of its own run there, beside trainings that need the same device.
    """
    snapshot: Any = tasks.freeze_rows(usecase.name)
    for name in rules.spaces:
        trainer = usecase.training.trainers[name]
        pool = "search" if trainer.pool == "default_pool" else trainer.pool
        opened: Any = tasks.open_search.override(task_id=f"open_{name}")(usecase.name, snapshot, name)
        run = tasks.run_trial.override(task_id=f"run_trial_{name}", pool=pool, **placed(trainer.queue))
        trials = run.partial(usecase=usecase.name).expand_kwargs(opened)
        trials >> tasks.conclude_search.override(task_id=f"conclude_{name}")(usecase.name, opened)


@task_group(group_id="model")
def make_model(usecase: UseCase, outlets: list[Asset]) -> None:
    """Train the candidates on one snapshot, judge them, and promote the one that passes the gate.

    A person decides about it first where the use case's policy, or the run's form, says so.
    """
    # Imported here: every DAG file that wires a group would pay for the operator, and few use it.
    from nightshift.orchestration.approval import ApproveChallenger, comment_param

    snapshot: Any = tasks.take_snapshot(usecase.name)
    candidates: list[Any] = [
        tasks.train_candidate.override(task_id=f"train_{name}", pool=trainer.pool, **placed(trainer.queue))(
            usecase.name, snapshot, name
        )
        for name, trainer in usecase.training.trainers.items()
    ]
    evaluation: Any = tasks.evaluate(usecase.name, snapshot, candidates)
    decision: Any = tasks.gate(usecase.name, evaluation)
    approve = ApproveChallenger(task_id="approve", usecase=usecase, decision=decision, params=comment_param())
    approve >> tasks.promote.override(outlets=outlets)(usecase.name, decision)


@task_group(group_id="folds")
def evaluate_folds(usecase: UseCase, plan: Any) -> Any:
    """Train and test every trainer at every cut-off of a backtest, each trainer where it trains."""
    return [
        tasks.evaluate_fold.override(task_id=f"evaluate_{name}", pool=trainer.pool, **placed(trainer.queue))
        .partial(usecase=usecase.name, trainer=name)
        .expand_kwargs(plan)
        for name, trainer in usecase.training.trainers.items()
    ]
