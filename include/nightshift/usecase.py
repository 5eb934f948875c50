"""What a team brings: one use case and its catalogue of sources, read from YAML and checked strictly.

``include/usecases/<name>/usecase.yml`` says what is predicted and by which rules;
``include/usecases/<name>/sources.yml`` says where the data come from. Unknown keys are errors, so a
misspelt option can never be silently ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nightshift.errors import DataError
from nightshift.settings import settings

# The same safe loader in C: ten times faster, and every parse of every DAG file reads this YAML.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Metric = Literal[
    "base_rate", "mean_score", "brier", "log_loss", "ece", "cost", "precision", "recall", "roc_auc", "pr_auc"
]
"""What ``metrics.forecast_metrics`` computes."""

ColumnType = Literal["string", "int64", "float64", "boolean", "date", "timestamp"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Strict):
    """One column of a source table. ``timestamp`` is UTC with microseconds."""

    type: ColumnType
    description: str
    nullable: bool = True
    pii: Literal["none", "indirect", "direct"] = "none"


class Table(_Strict):
    """One table of a source, extracted in partitions of one day."""

    description: str
    key: tuple[str, ...] = Field(min_length=1, description="Columns that identify a row within a partition.")
    refresh: Literal["daily", "slow"] = Field(
        description="daily: a partition a day; slow: a snapshot, landed only when it changed."
    )
    lag_days: int = Field(0, ge=0, description="The night of day D extracts partition D - lag_days.")
    correction_days: int = Field(
        0, ge=0, description="How many earlier partitions each night extracts again, for what arrived late."
    )
    available_at: str | None = Field(None, description="Column that says when a row became known (UTC).")
    allow_empty: bool = False
    columns: dict[str, Column]

    @model_validator(mode="after")
    def _columns_exist(self) -> Table:
        for name in (*self.key, *([self.available_at] if self.available_at else [])):
            if name not in self.columns:
                raise ValueError(f"column {name!r} is not declared under columns")
        return self

    def partitions_of_night(self, night: date, history_start: date) -> tuple[date, ...]:
        """Return the partitions that the night of ``night`` extracts, oldest first."""
        newest = night - timedelta(days=self.lag_days)
        wanted = (newest - timedelta(days=back) for back in range(self.correction_days, -1, -1))
        return tuple(day for day in wanted if day >= history_start)


class Source(_Strict):
    """One upstream system."""

    connector: str = Field(description="Dotted path of the connector class, module:Class.")
    description: str
    owner: str
    access: str = Field(description="How the data are reached: files in a package, API, database.")
    sla: str = Field(description="By when a day's data are there, in words, for the person on call.")
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the connector.")
    tables: dict[str, Table] = Field(min_length=1)


class Schedule(_Strict):
    """When the nightly run starts, in the use case's time zone."""

    hour: int = Field(ge=0, le=23)
    sla_minutes: int = Field(60, gt=0, description="The chain must have finished this long after the start.")


class Label(_Strict):
    """What is predicted, and when the truth is known."""

    column: str
    relation: str = Field(description="dbt relation: entity, label, label_available_on.")
    lag_days: int = Field(1, ge=1)


class Features(_Strict):
    """The relation that training and scoring both read, and how its columns are used."""

    relation: str
    lookback_days: int = Field(ge=1)
    categorical: tuple[str, ...]
    numeric: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Model inputs, in the order models see them: categorical, then numeric."""
        return (*self.categorical, *self.numeric)


class Costs(_Strict):
    """Costs of the two mistakes, in the same unit; the decision threshold minimises their sum."""

    false_positive: float = Field(gt=0)
    false_negative: float = Field(gt=0)


class Trainer(_Strict):
    """One candidate."""

    kind: Literal["xgboost", "torch"]
    pool: str = "default_pool"
    queue: str = "default"
    params: dict[str, Any] = Field(default_factory=dict)


class Training(_Strict):
    """How a snapshot is cut and split by time: train, then validation, then holdout at the end."""

    window_days: int = Field(gt=0, description="Longest training window.")
    validation_days: int = Field(gt=0)
    holdout_days: int = Field(gt=0)
    seed: int
    trainers: dict[str, Trainer] = Field(min_length=1)

    @model_validator(mode="after")
    def _days_are_left(self) -> Training:
        if self.validation_days + self.holdout_days >= self.window_days:
            raise ValueError("window_days leaves no day to train on beside validation_days and holdout_days")
        return self


class ApprovalPolicy(_Strict):
    """Who puts a challenger in production: the gate alone (automatic) or a person, in Airflow (manual).

    ``approval: manual`` alone is short for a mapping whose ``policy`` is manual.
    """

    policy: Literal["automatic", "manual"] = "automatic"
    approvers: tuple[str, ...] = Field(
        (), description="Airflow users who may decide; none named: everyone who may change the run."
    )
    timeout_hours: float = Field(24, gt=0, description="Undecided for so long, a challenger is rejected.")


class Gate(_Strict):
    """What a challenger must reach to become champion."""

    primary: Literal["roc_auc", "pr_auc"]
    min_improvement: float = 0.0
    floors: dict[Metric, float] = Field(default_factory=dict, description="metric: lowest acceptable value.")
    ceilings: dict[Metric, float] = Field(
        default_factory=dict, description="metric: highest acceptable value."
    )
    approval: ApprovalPolicy = ApprovalPolicy()

    @field_validator("approval", mode="before")
    @classmethod
    def _in_a_word(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value


class Drift(_Strict):
    """Thresholds of the nightly check of features and scores against the training snapshot."""

    numeric_threshold: float = Field(
        gt=0, description="Wasserstein distance in reference standard deviations."
    )
    categorical_threshold: float = Field(gt=0, description="Jensen-Shannon distance.")
    share_of_columns: float = Field(
        gt=0, le=1, description="Share of drifted columns that makes the day drifted."
    )
    reference_rows: int = Field(gt=0, description="Rows of the reference sample stored with each model.")


class Retrain(_Strict):
    """When monitoring asks for a new model. ``enabled: false`` turns every reason off."""

    enabled: bool
    every_days: int = Field(gt=0, description="Age of the champion's cut-off that asks for a new model.")
    drifted_days: int = Field(gt=0, description="This many drifted days in a row ask for a new model.")
    min_roc_auc: float = Field(
        description="A 7-day mean of observed ROC AUC below this asks for a new model."
    )


class Retention(_Strict):
    """Days kept by ``maintain``."""

    raw_days: int = Field(gt=0)
    table_days: int = Field(gt=0)
    version_days: int = Field(gt=0, description="How far back replaced versions of tables can still be read.")
    staging_days: int = Field(gt=0)


class UseCase(_Strict):
    """One prediction problem, from its sources to its retrain policy."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    description: str
    owner: str
    timezone: str
    history_start: date = Field(description="First partition that exists upstream.")
    entity: str
    event_time: str
    label: Label
    schedule: Schedule
    features: Features
    slices: tuple[str, ...]
    costs: Costs
    training: Training
    gate: Gate
    drift: Drift
    retrain: Retrain
    retention: Retention
    sources: dict[str, Source] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}; one is America/New_York") from error
        return value

    @model_validator(mode="after")
    def _slices_are_features(self) -> UseCase:
        if unknown := [name for name in self.slices if name not in self.features.columns]:
            raise ValueError(f"slices: {', '.join(unknown)} are no columns under features")
        return self

    @cached_property
    def zone(self) -> ZoneInfo:
        """The use case's time zone."""
        return ZoneInfo(self.timezone)

    def as_of(self, night: date) -> datetime:
        """Return the moment (UTC) at which the night of ``night`` runs: nothing later may be read."""
        local = datetime.combine(night, time(self.schedule.hour), tzinfo=self.zone)
        return local.astimezone(UTC)

    @property
    def cron(self) -> str:
        """Cron expression of the nightly run, in ``timezone``."""
        return f"0 {self.schedule.hour} * * *"

    def tables(self) -> list[tuple[str, str, Table]]:
        """Return every (source, table name, table) of the catalogue, in declared order."""
        return [
            (source_name, table_name, table)
            for source_name, source in self.sources.items()
            for table_name, table in source.tables.items()
        ]


def load_usecase(name: str) -> UseCase:
    """Read and check one use case.

    Raises:
        DataError: A file is missing, is not YAML, or breaks the schema; the message names file and key.
    """
    folder = settings().usecases / name
    usecase_file, sources_file = folder / "usecase.yml", folder / "sources.yml"
    content, catalogue = _read_yaml(usecase_file), _read_yaml(sources_file)
    for key in (content.keys() & {"sources"}) | (catalogue.keys() - {"sources"}):
        raise DataError(
            f"key {key!r} is in the wrong file",
            rule="sources.yml holds `sources` and nothing else; usecase.yml holds the rest",
            where=str(folder),
            cure=f"move {key!r} to the other file",
        )
    try:
        usecase = UseCase.model_validate(content | catalogue)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors()
        )
        files = {sources_file if e["loc"][:1] == ("sources",) else usecase_file for e in error.errors()}
        raise DataError(
            f"use case {name!r} is not valid: {problems}",
            rule="usecase.yml and sources.yml follow nightshift.usecase.UseCase",
            where=", ".join(str(file) for file in sorted(files)),
            cure="mend the keys named above; every key and its meaning is in include/nightshift/usecase.py",
        ) from error
    if usecase.name != name:
        raise DataError(
            f"folder {name!r} holds a use case that calls itself {usecase.name!r}",
            rule="a use case is named as its folder",
            where=str(folder / "usecase.yml"),
            cure="make `name` and the folder agree",
        )
    return usecase


def usecase_names() -> Sequence[str]:
    """Return the name of every use case folder, sorted, valid or not."""
    return sorted(file.parent.name for file in settings().usecases.glob("*/usecase.yml"))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"cannot read {file.name}: {error}",
            rule="a use case has a usecase.yml and a sources.yml",
            where=str(file),
            cure=f"create the file or mend its YAML; use cases that have one: {', '.join(usecase_names())}",
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file.name} holds no mapping",
            rule="a use case file is a YAML mapping",
            where=str(file),
            cure="start from the files of a use case that works",
        )
    return content
