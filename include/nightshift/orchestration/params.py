"""Typed run parameters, and the days a run is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from airflow.sdk import Param, get_current_context

from nightshift.errors import DataError
from nightshift.partition import parse_partition, parse_range
from nightshift.usecase import SearchRules

STAGES = ("raw", "features", "predictions", "monitoring")


def partition_param() -> dict[str, Param]:
    """Return the parameter of a DAG that works on one day."""
    return {
        "partition": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Partition",
            description="The day to run for. Scheduled runs leave it empty and use their partition key.",
        )
    }


def training_params() -> dict[str, Param]:
    """Return the parameters of a DAG that trains and judges models."""
    return {
        # Not "": the form takes an empty text for a missing one, and does not let the run begin.
        "holdout_override": Param(
            None,
            type=["null", "string"],
            title="Why the holdout may be opened again",
            description="A model is judged on a holdout once. A reason given here lets candidates be judged "
            "on it again, and stays on their pages. Usually empty.",
        )
    }


def search_params(rules: SearchRules) -> dict[str, Param]:
    """Return the parameters of a DAG that searches for better training parameters."""
    return {
        "trainer": Param(
            None,
            type=["null", "string"],
            enum=[None, *rules.spaces],
            title="Trainer",
            description="Whose parameters are searched for. Empty: of every trainer that has a space.",
        ),
        "trials": Param(
            rules.trials,
            type="integer",
            minimum=2,
            maximum=1000,
            title="Trials",
            description="Trainings for each trainer; the first is with the parameters in force.",
        ),
        "minutes": Param(
            rules.minutes,
            type="number",
            exclusiveMinimum=0,
            title="Minutes",
            description="So long after the search began, no further trial begins.",
        ),
    }


def backtest_params() -> dict[str, Param]:
    """Return the parameters of ``backtest``."""
    return {
        "partition": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Partition",
            description="The night whose knowledge is tested on; empty: the newest one with labels.",
        ),
        "folds": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Folds",
            description="How many cut-offs; empty: as many as the use case says.",
        ),
    }


def range_params() -> dict[str, Param]:
    """Return the parameters of a DAG that works on a range of days, both ends included."""
    return {
        "start": Param(
            type="string", format="date", title="Start", description="First partition, YYYY-MM-DD."
        ),
        "end": Param(type="string", format="date", title="End", description="Last partition, YYYY-MM-DD."),
    }


def stages_param() -> dict[str, Param]:
    """Return the parameter that selects what ``rebuild`` does."""
    return {
        "stages": Param(
            ["features", "predictions", "monitoring"],
            type="array",
            items={"type": "string", "enum": list(STAGES)},
            minItems=1,
            examples=list(STAGES),
            title="Stages",
            description="What to run again, in this order: raw, features, predictions, monitoring.",
        )
    }


def fixes_params() -> dict[str, Param]:
    """Return the parameters by which a person mends rows in quarantine before they are judged again."""
    return {
        "fixes": Param(
            None,
            type=["null", "object"],
            title="Fixes",
            description="What rows should say: new values by suite, partition, row id and column. The page "
            "Data fills this in. Empty: the rows are judged as they are.",
        ),
        "reason": Param(
            None,
            type=["null", "string"],
            title="Why the rows are to be fixed",
            description="Kept with each fix. Needed where there are any.",
        ),
    }


def only_stale_param() -> dict[str, Param]:
    """Return the parameter that confines ``rebuild`` to what rests on older versions."""
    return {
        "only_stale": Param(
            False,
            type="boolean",
            title="Only what is stale",
            description="Of the range, build only what `nightshift stale` lists. Leave the stage raw out.",
        )
    }


def approval_param() -> dict[str, Param]:
    """Return the parameter by which one run of ``train`` asks a person, whatever the policy."""
    return {
        "approval": Param(
            None,
            type=["null", "string"],
            enum=[None, "manual"],
            title="Approval",
            description="Empty: as the use case's gate says. manual: a person decides about what passes the "
            "gate, even where its policy is automatic. A manual policy cannot be switched off here.",
        )
    }


def rollback_params() -> dict[str, Param]:
    """Return the parameters of ``rollback``."""
    return {
        "version": Param(
            None,
            type=["null", "string"],
            title="Version",
            description="Earlier champion to put in force again; empty: the one that the last promotion "
            "replaced. After a rollback it must be named.",
        ),
        "effective_from": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Effective from",
            description="First partition it scores; empty: the first that is not scored yet.",
        ),
        "reason": Param(
            type="string", minLength=3, title="Reason", description="Kept in the deployment log."
        ),
    }


def watch_params() -> dict[str, Param]:
    """Return the parameters of ``watch``."""
    return {
        "grace_minutes": Param(
            90,
            type="integer",
            minimum=0,
            title="Grace",
            description="Minutes after which a night that has not gone on counts as stopped.",
        )
    }


def refuse_unknown_params(context: Mapping[str, Any]) -> None:
    """Refuse a run that was given what its DAG does not know: Airflow takes any key, and goes on without it.

    Args:
        context: That of a task, which this is called before.

    Raises:
        DataError: The run's configuration has a key that is no parameter of the DAG.
    """
    run, known = context["dag_run"], list(context["dag"].params)
    unknown = sorted(set(run.conf or {}) - set(known))
    if unknown:
        raise DataError(
            f"{run.dag_id} has no parameter {', '.join(map(repr, unknown))}",
            rule="a run is given parameters of its DAG alone",
            where=f"{run.dag_id}, run {run.run_id}: its configuration",
            cure=f"trigger again; it has {', '.join(known)}"
            if known
            else "trigger again with none: it has none",
        )


def night() -> date:
    """Return the day of the running task's run: its ``partition`` param, else its key.

    Raises:
        DataError: The run has neither, or what it has is not a day.
    """
    return _night_of(get_current_context())


def window() -> tuple[date, date]:
    """Return the first and the last day the running task's run is about; one day in a nightly run.

    Raises:
        DataError: The end is before the start, or a day is malformed.
    """
    return window_of(get_current_context())


def window_of(context: Mapping[str, Any]) -> tuple[date, date]:
    """Return what ``window`` does, of the task that ``context`` is about."""
    params = context["params"]
    if "start" not in params:
        day = _night_of(context)
        return day, day
    return parse_range(params["start"], params["end"])


def _night_of(context: Mapping[str, Any]) -> date:
    run = context["dag_run"]
    key = context["params"].get("partition") or run.partition_key
    if not key:
        raise DataError(
            "this run names no day",
            rule="the day is the `partition` param, else the run's partition key",
            where=f"{run.dag_id}, run {run.run_id}",
            cure="trigger again with a partition such as 2013-07-01",
        )
    return parse_partition(key)


def only_stale() -> bool:
    """Return whether the running task's run is confined to what rests on older versions."""
    return bool(get_current_context()["params"].get("only_stale"))
