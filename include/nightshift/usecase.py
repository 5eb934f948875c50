"""What a team brings: one use case and its catalogue of sources, read from YAML and checked strictly.

``include/usecases/<name>/usecase.yml`` says what is predicted and by which rules;
``include/usecases/<name>/sources.yml`` says where the data come from; ``stress.yml`` beside them, where there
is one, holds the edge cases that every candidate is put to. Unknown keys are errors, so a misspelt option can
never be silently ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from nightshift.errors import DataError
from nightshift.settings import settings

# The same safe loader in C: ten times faster, and every parse of every DAG file reads this YAML.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Metric = Literal[
    "base_rate", "mean_score", "brier", "log_loss", "ece", "cost", "precision", "recall", "roc_auc", "pr_auc"
]
"""What ``metrics.forecast_metrics`` computes."""

Scenario = Literal["noise", "missing", "unseen", "extreme", "swapped", "shifted"]
"""What ``evaluation.robustness`` does to rows before they are scored again."""

AlertKind = Literal[
    "run_failed",
    "deadline_missed",
    "night_late",
    "night_stuck",
    "drift",
    "data",
    "quality",
    "cost",
    "retrain",
]
"""What ``monitoring.alerting`` knows the severity and the cure of; each has a page in ``docs/runbooks``."""

Severity = Literal["info", "warning", "critical"]

# A counterfactual tries every combination of up to three features.
_MOST_STEPS = 200

Protection = Literal["none", "pseudonymise", "mask_domain", "mask_last4", "mask_year", "remove"]
"""What becomes of a personal column's values before anything of them is kept; see ``lake.protection``."""

ColumnType = Literal["string", "int64", "float64", "boolean", "date", "timestamp"]

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:00)?")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
"""What becomes part of paths, of keys in the lake, and of names of tables and schemas.

Short enough that what is put before and after it stays within the 63 bytes that PostgreSQL keeps of a name.
"""

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]
"""What becomes an identifier in SQL: what every engine takes, within the length that PostgreSQL keeps."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Strict):
    """One column of a source table. ``timestamp`` is UTC with microseconds."""

    type: ColumnType
    description: str
    nullable: bool = True
    pii: Literal["none", "indirect", "direct"] = Field(
        "none",
        description="direct: tells a person by itself; indirect: together with other things; none: neither.",
    )
    purpose: str | None = Field(
        None, min_length=1, description="What a personal column is held for; every one of them says."
    )
    encrypt: bool = Field(
        False, description="Whether raw objects hold it encrypted, with a key of NIGHTSHIFT_LAKE_KEY."
    )
    protect: Protection | None = Field(
        None,
        description="What the lake gets instead of a personal value. pseudonymise: a hash with "
        "NIGHTSHIFT_PII_KEY, the same for the same text. mask_domain: of an e-mail address, what follows the "
        "@. mask_last4: the last four characters. mask_year: the first day of the year. remove: null. none: "
        "the value itself. A column with `pii: direct` has to say.",
    )
    domain: Name | None = Field(
        None,
        description="With pseudonymise: columns of one domain have the same pseudonym for the same text, and "
        "so can be joined; by default each column is alone.",
    )

    @property
    def protected(self) -> bool:
        """Whether the lake gets something else than the value."""
        return self.protect not in (None, "none")

    @property
    def hidden(self) -> bool:
        """Whether no report, log or error shows a value."""
        return self.pii != "none" or self.encrypt

    @model_validator(mode="after")
    def _is_for_something(self) -> Column:
        if self.pii != "none" and self.purpose is None:
            raise ValueError(f"a column with `pii: {self.pii}` says under `purpose` what it is held for")
        return self

    @model_validator(mode="after")
    def _can_be_protected(self) -> Column:
        if self.protected and self.pii == "none":
            raise ValueError("what is protected is personal: say how, with `pii: direct` or `pii: indirect`")
        if self.domain and self.protect != "pseudonymise":
            raise ValueError("a domain is of pseudonyms: it stands beside `protect: pseudonymise` alone")
        wanted: dict[Protection | None, tuple[ColumnType, ...]] = {
            "pseudonymise": ("string",),
            "mask_domain": ("string",),
            "mask_last4": ("string",),
            "mask_year": ("date", "timestamp"),
        }
        if self.type not in wanted.get(self.protect, (self.type,)):
            raise ValueError(
                f"`protect: {self.protect}` is of columns of type {' or '.join(wanted[self.protect])}, and "
                f"this one is {self.type}; `remove` is of every type"
            )
        if self.protect == "remove" and not self.nullable:
            raise ValueError("`protect: remove` makes every value null, so the column is nullable")
        return self


class Table(_Strict):
    """One table of a source, extracted in partitions of one day."""

    description: str
    key: tuple[ColumnName, ...] = Field(
        min_length=1, description="Columns that identify a row within a partition."
    )
    refresh: Literal["daily", "slow"] = Field(
        description="daily: a partition a day; slow: a snapshot, landed only when it changed."
    )
    lag_days: int = Field(0, ge=0, description="The night of day D extracts partition D - lag_days.")
    correction_days: int = Field(
        0, ge=0, description="How many earlier partitions each night extracts again, for what arrived late."
    )
    available_at: ColumnName | None = Field(
        None, description="Column that says when a row became known (UTC)."
    )
    deadline: time | None = Field(
        None,
        description='When the partitions of a night are there at the latest, "HH:MM" in the use case\'s time '
        "zone, on the day of the night; by default when the night begins.",
    )
    raw_days: int | None = Field(
        None, gt=0, description="Days that raw objects of it are kept, instead of retention.raw_days."
    )
    allow_empty: bool = False
    columns: dict[ColumnName, Column]

    @field_validator("deadline", mode="before")
    @classmethod
    def _is_a_clock_time(cls, value: Any) -> Any:
        # To YAML, 13:30 without quotes is the number 810.
        if not (value is None or isinstance(value, time) or _CLOCK.fullmatch(str(value))):
            raise ValueError('a time of day in quotes, such as "03:30"')
        return value

    @model_validator(mode="after")
    def _columns_differ(self) -> Table:
        # To DuckDB, quoted or not, these are one column.
        folded = [name.lower() for name in self.columns]
        if repeated := sorted({name for name in folded if folded.count(name) > 1}):
            raise ValueError(f"columns differ only in upper and lower case: {', '.join(repeated)}")
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> Table:
        for name in (*self.key, *([self.available_at] if self.available_at else [])):
            if name not in self.columns:
                raise ValueError(f"column {name!r} is not declared under columns")
        return self

    @model_validator(mode="after")
    def _rows_stay_apart(self) -> Table:
        for name in self.key:
            if self.columns[name].protect not in (None, "none", "pseudonymise"):
                raise ValueError(
                    f"key column {name!r} is protected by {self.columns[name].protect}, so that rows could "
                    "not be told apart: use `pseudonymise`, or `none`"
                )
        if self.available_at and self.columns[self.available_at].protected:
            raise ValueError(f"available_at {self.available_at!r} is protected, and has to be known exactly")
        return self

    @property
    def protected(self) -> tuple[str, ...]:
        """Columns of whose values the lake gets something else."""
        return tuple(name for name, column in self.columns.items() if column.protected)

    @property
    def hidden(self) -> frozenset[str]:
        """Columns whose values no report, log or error shows."""
        return frozenset(name for name, column in self.columns.items() if column.hidden)

    def partitions_of_night(self, night: date, history_start: date) -> tuple[date, ...]:
        """Return the partitions that the night of ``night`` extracts, oldest first."""
        newest = night - timedelta(days=self.lag_days)
        wanted = (newest - timedelta(days=back) for back in range(self.correction_days, -1, -1))
        return tuple(day for day in wanted if day >= history_start)


class Source(_Strict):
    """One upstream system."""

    kind: Literal["documents", "events", "feedback", "http_api", "object_store", "postgres"] | None = Field(
        None, description="A connector that Nightshift brings."
    )
    connector: str | None = Field(
        None, description="Instead of a kind: dotted path of a connector class of your own, module:Class."
    )
    description: str
    owner: str
    access: str = Field(description="How the data are reached: files in a package, API, database.")
    sla: str = Field(description="By when a day's data are there, in words, for the person on call.")
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the connector.")
    tables: dict[Name, Table] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_one_connector(self) -> Source:
        if (self.kind is None) == (self.connector is None):
            raise ValueError("a source has either a kind or a connector")
        return self

    @model_validator(mode="after")
    def _direct_is_decided(self) -> Source:
        undecided = [
            f"{table}.{name}"
            for table, declared in self.tables.items()
            for name, column in declared.columns.items()
            if column.pii == "direct" and column.protect is None
        ]
        if undecided:
            raise ValueError(
                f"{', '.join(undecided)} with `pii: direct` have to say how they are protected: "
                f"`protect:` is one of {', '.join(get_args(Protection))}"
            )
        return self


class Feedback(_Strict):
    """The catalogue's entry of the labels that people give: no night lands them, a person imports them.

    Its columns may be described one by one, as those of every source; where they are not, the defaults hold.
    """

    description: str = "Labels that people gave to entities for which the pipeline has none."
    owner: str | None = Field(None, description="None: who owns the use case.")
    access: str = "CSV files: nightshift label export, then nightshift label import"
    sla: str = "a label counts from the first night after its import on"
    columns: dict[str, Column] | None = Field(None, description="Every column of the table, or none.")


class Schedule(_Strict):
    """When the nightly run starts, in the use case's time zone."""

    hour: int = Field(ge=0, le=23)
    sla_minutes: int = Field(60, gt=0, description="The chain must have finished this long after the start.")


class Label(_Strict):
    """What is predicted, and when the truth is known."""

    column: ColumnName
    relation: ColumnName = Field(description="dbt relation: entity, label, label_available_on.")
    lag_days: int = Field(1, ge=1)


class Features(_Strict):
    """The relation that training and scoring both read, and how its columns are used."""

    relation: ColumnName
    lookback_days: int = Field(
        ge=1,
        description="Days before a night that its features read; at least `label.lag_days` plus the most "
        "`correction_days` of a table, for a night reads the labels of those days, too.",
    )
    categorical: tuple[ColumnName, ...]
    numeric: tuple[ColumnName, ...]
    personal: dict[ColumnName, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Personal columns of the catalogue that features and labels are made from: the purpose. "
        "Others never reach them.",
    )

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

    kind: Literal["xgboost", "torch", "logistic"]
    pool: str = "default_pool"
    queue: str = "default"
    params: dict[str, Any] = Field(default_factory=dict)


class Space(_Strict):
    """The values that a search may give to one parameter: a range or a list.

    A range of whole numbers has only whole numbers in it.
    """

    low: int | float | None = Field(None, description="Smallest value of a range.")
    high: int | float | None = Field(None, description="Largest value of a range.")
    log: bool = Field(False, description="Whether each factor of ten is as likely as another.")
    step: int | float | None = Field(None, gt=0, description="Only every so much, from low on.")
    choices: tuple[JsonValue, ...] | None = Field(None, min_length=2, description="One of these.")

    @model_validator(mode="after")
    def _is_a_range_or_a_list(self) -> Space:
        if self.choices is not None:
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("choices stand alone, without low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: low is above zero, and there is no step")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"steps of {self.step} from {self.low} do not reach {self.high}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are in it."""
        return all(isinstance(edge, int) for edge in (self.low, self.high, self.step or 0))

    def __contains__(self, value: object) -> bool:
        """Tell whether a search may give this value, steps aside."""
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))


class SearchRules(_Strict):
    """How better parameters are looked for, one search a trainer; a person takes over what is found."""

    trials: int = Field(
        12, ge=2, le=1000, description="Trainings in a search; the first is with the parameters in force."
    )
    minutes: float = Field(60, gt=0, description="So long after a search began, no further trial begins.")
    spaces: dict[str, Annotated[dict[str, Space], Field(min_length=1)]] = Field(
        min_length=1, description="trainer: parameter: the values it may have."
    )


class Training(_Strict):
    """How a snapshot is cut and split by time: train, then validation, then holdout at the end."""

    window_days: int = Field(gt=0, description="Longest training window.")
    validation_days: int = Field(gt=0)
    holdout_days: int = Field(gt=0)
    seed: int
    class_weight: Literal["none", "balanced"] | Annotated[float, Field(gt=0)] = Field(
        "none",
        description="How much a positive row counts in training beside a negative one: none, as much; "
        "balanced, so that both classes count alike; a number, so many times as much.",
    )
    checkpoint_seconds: float = Field(
        60, gt=0, description="An interrupted training loses about so much of its work at most."
    )
    trainers: dict[Name, Trainer] = Field(min_length=1)
    baseline: str | None = Field(None, description="Trainer that every other one has to beat.")
    search: SearchRules | None = Field(None, description="None: nothing is searched for.")

    @model_validator(mode="after")
    def _baseline_is_a_trainer(self) -> Training:
        if self.baseline is not None and self.baseline not in self.trainers:
            raise ValueError(f"baseline {self.baseline!r} is not declared under trainers")
        return self

    @model_validator(mode="after")
    def _searched_are_trainers(self) -> Training:
        if self.search and (unknown := self.search.spaces.keys() - self.trainers.keys()):
            raise ValueError(f"search.spaces: {', '.join(sorted(unknown))} are not declared under trainers")
        return self

    @model_validator(mode="after")
    def _days_are_left(self) -> Training:
        if self.validation_days + self.holdout_days >= self.window_days:
            raise ValueError("window_days leaves no day to train on beside validation_days and holdout_days")
        return self


class SliceLimits(_Strict):
    """When a slice counts against a challenger: it does worse there than the champion, beyond noise."""

    min_rows: int = Field(500, gt=0, description="Smaller slices are reported and never stop a challenger.")
    max_loss: float = Field(0.03, ge=0, description="Of the primary metric, against the champion.")


class FairnessLimits(_Strict):
    """Largest acceptable difference between two groups of one column; none is no limit."""

    selection_rate: float | None = Field(None, ge=0, le=1)
    false_positive_rate: float | None = Field(None, ge=0, le=1)
    false_negative_rate: float | None = Field(None, ge=0, le=1)
    calibration: float | None = Field(
        None, ge=0, le=1, description="Difference of (mean score - observed rate) between two groups."
    )


class RobustnessLimits(_Strict):
    """How much each disturbance may cost; a disturbance without a limit is only reported.

    Whatever the limits: a score that is no probability, or an exception, stops a challenger.
    """

    max_auc_loss: dict[Scenario, float] = Field(default_factory=dict, description="Fall of ROC AUC.")
    max_flipped: dict[Scenario, float] = Field(
        default_factory=dict, description="Share of rows whose decision changes."
    )


class LatencyLimits(_Strict):
    """What scoring may cost, on the machine that evaluates. Generous: they catch another order of size."""

    p95_ms: float = Field(1000, gt=0, description="Of scoring a single row.")
    min_rows_per_second: float = Field(200, gt=0, description="Of scoring batches.")
    size_mb: float = Field(1000, gt=0, description="Of the stored model.")


class ApprovalPolicy(_Strict):
    """Who puts a challenger in production: the gate alone (automatic) or a person, in Airflow (manual).

    ``approval: manual`` alone is short for a mapping whose ``policy`` is manual.
    """

    policy: Literal["automatic", "manual"] = "automatic"
    approvers: tuple[str, ...] = Field(
        (), description="Airflow users who may decide; none named: everyone who may change the run."
    )
    timeout_hours: float = Field(
        120,
        gt=0,
        description="Undecided for so long, a challenger is rejected; five days show three judged nights.",
    )


class Gate(_Strict):
    """What a challenger must reach to become champion."""

    primary: Literal["roc_auc", "pr_auc"]
    min_improvement: float = Field(
        0.0,
        description="The interval of (challenger - champion) must lie above this; negative: not worse by it.",
    )
    confidence: float = Field(
        0.9, gt=0.5, lt=1, description="Of every interval, two-sided: 0.9 leaves 5% on either side."
    )
    slices: SliceLimits = Field(default_factory=SliceLimits)
    fairness: FairnessLimits = Field(default_factory=FairnessLimits)
    robustness: RobustnessLimits = Field(default_factory=RobustnessLimits)
    latency: LatencyLimits = Field(default_factory=LatencyLimits)
    floors: dict[Metric, float] = Field(default_factory=dict, description="metric: lowest acceptable value.")
    ceilings: dict[Metric, float] = Field(
        default_factory=dict, description="metric: highest acceptable value."
    )
    approval: ApprovalPolicy = ApprovalPolicy()

    @field_validator("approval", mode="before")
    @classmethod
    def _in_a_word(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value


class Engine(_Strict):
    """What computes scores and models: this process, or the workers of a Ray cluster (``docs/scale-out.md``).

    ``engine: ray`` alone is short for a mapping whose ``name`` is ray.
    """

    name: Literal["local", "ray"] = "local"
    workers: int = Field(2, gt=0, description="ray: processes that share a job; models differ by it.")
    cpus: int = Field(1, gt=0, description="ray: cores that each worker reserves.")
    gpus: int = Field(
        0, ge=0, le=1, description="ray: GPUs that each worker of a training reserves; scores come from CPUs."
    )


class FairnessGroups(_Strict):
    """Whose rates and calibration are compared."""

    groups: tuple[str, ...] = Field((), description="Feature columns whose values are the groups.")
    min_rows: int = Field(500, gt=0, description="Smaller groups take no part in differences.")


class Disturbances(_Strict):
    """How strongly the rows of the robustness check are disturbed."""

    noise: float = Field(0.25, gt=0, description="Added to numbers, in training standard deviations.")
    share: float = Field(0.2, gt=0, le=1, description="Of values made missing, extreme, swapped or unseen.")
    extreme: float = Field(10, gt=0, description="Training standard deviations away from the mean.")
    rows: int = Field(4000, gt=0, description="At most so many rows are disturbed.")


class LeakAlarm(_Strict):
    """What no honest feature or model reaches."""

    max_feature_auc: float = Field(0.9, gt=0.5, le=1, description="ROC AUC of one feature alone.")
    max_validation_auc: float = Field(0.98, gt=0.5, le=1, description="ROC AUC of a model on validation.")
    backtest_deviations: float = Field(
        3,
        gt=0,
        description="A model's ROC AUC lies at most so many standard deviations above the mean of its "
        "trainer's newest backtest.",
    )
    backtest_min_deviation: float = Field(
        0.04, gt=0, description="A smaller standard deviation of a backtest counts as this one."
    )


class BacktestRules(_Strict):
    """How trainers are compared on several cut-offs."""

    folds: int = Field(4, ge=2, description="Cut-offs, training.holdout_days apart.")


class EvaluationRules(_Strict):
    """How candidates are examined; what they must reach stands under ``gate``.

    Beside the use case's ``slices``, numeric features may be cut into ``bands`` and days into ``months``.
    """

    bands: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="numeric feature: edges; a band holds its lower one."
    )
    months: bool = Field(False, description="Whether every calendar month is a slice.")

    resamples: int = Field(1000, ge=100, description="Bootstrap resamples of whole days.")
    fairness: FairnessGroups = Field(default_factory=FairnessGroups)
    robustness: Disturbances = Field(default_factory=Disturbances)
    leaks: LeakAlarm = Field(default_factory=LeakAlarm)
    backtest: BacktestRules = Field(default_factory=BacktestRules)


class Change(_Strict):
    """What a stress case does to one feature; exactly one of the three."""

    set: str | float | None = None
    add: float | None = None
    multiply: float | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Change:
        if sum(value is not None for value in (self.set, self.add, self.multiply)) != 1:
            raise ValueError("a change is one of set, add and multiply, with a value")
        return self


class _StressCase(_Strict):
    name: Name
    why: str = Field(description="Why a sound model behaves so, for the person who reads the failure.")
    change: dict[str, Change] = Field(min_length=1, description="feature: what is done to it.")
    only: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="categorical feature: values of the rows that take part."
    )
    tolerance: float = Field(0.0, ge=0, lt=1, description="Change of the score that is let pass.")
    min_share: float = Field(1.0, gt=0, le=1, description="Share of rows that must behave.")
    severity: Literal["warn", "stop"] = "warn"


class MonotonicCase(_StressCase):
    """The change must not move the score the other way."""

    kind: Literal["monotonic"]
    score: Literal["up", "down"] = Field(description="Where the change may move the score.")


class InvariantCase(_StressCase):
    """The change must not move the score at all."""

    kind: Literal["invariant"]


StressCase = Annotated[MonotonicCase | InvariantCase, Field(discriminator="kind")]


class Steps(_Strict):
    """Values of a number that a counterfactual may try: low, low + step, ..., up to high."""

    low: float
    high: float
    step: float = Field(gt=0)
    relative: bool = Field(False, description="Whether these are changes of the row's value, not values.")
    moves: tuple[str, ...] = Field(
        (), description="Numeric features that follow from this one: they change by as much as it does."
    )

    @model_validator(mode="after")
    def _is_a_short_grid(self) -> Steps:
        if not 0 <= (self.high - self.low) / self.step < _MOST_STEPS:
            raise ValueError(f"from low to high there are one to {_MOST_STEPS} steps")
        return self

    @property
    def grid(self) -> tuple[float, ...]:
        """The values, or changes, ascending."""
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + self.step * number for number in range(count))


def _kind_of_choice(value: Any) -> str:
    return "steps" if isinstance(value, dict | Steps) else "categories"


_Choice = Annotated[
    Annotated[Steps, Tag("steps")] | Annotated[tuple[str, ...], Tag("categories")],
    Discriminator(_kind_of_choice),
]


class Explanations(_Strict):
    """What is told about single predictions."""

    top_reasons: int = Field(
        3, ge=0, description="So many reasons are stored with each prediction; 0 saves their computation."
    )
    allowed: dict[str, _Choice] = Field(
        default_factory=dict,
        description="feature: what a counterfactual may make of it; steps of a number, or categories.",
    )


class Confirm(_Strict):
    """How many days have to signal before it is called drift; the newest is always one of them."""

    signals: int = Field(2, gt=0, description="So many of the last days signal, the newest among them.")
    of: int = Field(3, gt=0, description="How many days are looked at, the newest included.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> Confirm:
        if self.signals > self.of:
            raise ValueError(f"{self.signals} signals are never found in {self.of} days")
        return self


class Drift(_Strict):
    """How the nightly check of features and scores tells what has moved from what always moves."""

    false_alarms: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Share of quiet days that may signal, all columns and windows together.",
    )
    windows: tuple[Annotated[int, Field(gt=0, le=366)], ...] = Field(
        (1, 7, 28), min_length=1, description="Lengths in days of the windows that end with the day."
    )

    @field_validator("windows")
    @classmethod
    def _are_different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each length stands once")
        return value

    min_effect: float = Field(
        0.03,
        ge=0,
        description="Smaller effects never signal: standard deviations of a number, Jensen-Shannon distance "
        "of a category, change of a correlation.",
    )
    confirm: Confirm = Field(default_factory=Confirm)
    seasonality: Literal["none", "weekday", "year"] = Field(
        "none",
        description="What a day is compared with: all days of training; days of its weekday; days of its "
        "season, in any year, where there are enough.",
    )
    reference_rows: int = Field(
        20_000, gt=0, description="Rows of the sample stored with each model, for explanations and pictures."
    )


RetrainTrigger = Literal["drift", "quality", "labels", "schedule"]
"""What may ask for a new model by itself."""


class RetrainBudget(_Strict):
    """How many new models may be asked for in any stretch of days; people may ask beyond it."""

    requests: int = Field(6, gt=0)
    days: int = Field(28, gt=0)


class Retrain(_Strict):
    """When monitoring asks for a new model. ``enabled: false`` leaves it to people alone."""

    enabled: bool = True
    triggers: tuple[RetrainTrigger, ...] = Field(
        get_args(RetrainTrigger), description="What may ask; one that is not named is off."
    )
    every_days: int = Field(
        7, gt=0, description="schedule: asks when champion's cut-off and last request are that old."
    )
    drifted_nights: int = Field(3, gt=0, description="drift: so many drifted nights, the newest among them,")
    drift_window: int = Field(4, gt=0, description="of so many last ones ask.")
    max_quality_loss: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="quality: a share of the baseline; observed quality that is worse by more than it, even "
        "at the favourable end of its interval, asks.",
    )
    new_labels: float = Field(
        0.15, gt=0, description="labels: rows labelled since, as a share of those trained on, that ask."
    )
    cooldown_days: int = Field(3, ge=0, description="So many days after a request there is no other one.")
    budget: RetrainBudget = Field(default_factory=RetrainBudget)

    @model_validator(mode="after")
    def _nights_fit_the_window(self) -> Retrain:
        if self.drifted_nights > self.drift_window:
            raise ValueError("drifted_nights: at most drift_window, the nights that are looked at")
        return self


class Notifier(_Strict):
    """One way to reach people. Addresses and passwords of servers are in Airflow connections."""

    kind: Literal["log", "email", "slack", "webhook"]
    connection: str = Field("", description="Id of the Airflow connection; the log needs none.")
    to: tuple[str, ...] = Field((), description="Addresses that an e-mail goes to.")

    @model_validator(mode="after")
    def _is_complete(self) -> Notifier:
        if (self.kind != "log") != bool(self.connection):
            raise ValueError("every notifier but the log has the id of an Airflow connection")
        if (self.kind == "email") != bool(self.to):
            raise ValueError("`to` holds the addresses of an e-mail, at least one")
        return self


class AlertRoute(_Strict):
    """Which alerts go to which notifiers. An alert goes to those of every route that it fits."""

    severity: Severity = Field("info", description="This severe, or worse.")
    kinds: tuple[AlertKind, ...] = Field((), description="Only these; none named: every kind.")
    owners: tuple[str, ...] = Field((), description="Only alerts of these owners; none named: anyone's.")
    to: tuple[str, ...] = Field(min_length=1, description="Names under notifiers, or `log`.")


class AlertRules(_Strict):
    """Who is told what."""

    window_hours: float = Field(
        24, gt=0, description="The same alert again within this long only counts up on the first."
    )
    severities: dict[AlertKind, Severity] = Field(
        default_factory=dict, description="Where they are to differ from those in docs/runbooks/README.md."
    )
    owners: dict[AlertKind, str] = Field(
        default_factory=dict, description="Who looks after a kind, where it is not the use case's owner."
    )
    notifiers: dict[Name, Notifier] = Field(default_factory=dict, description="`log` is always there.")
    routes: tuple[AlertRoute, ...] = (AlertRoute(to=("log",)),)

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> AlertRules:
        named = {name for route in self.routes for name in route.to}
        if unknown := sorted(named - self.notifiers.keys() - {"log"}):
            raise ValueError(f"routes: {', '.join(unknown)} are not declared under notifiers")
        return self


class Budget(_Strict):
    """What a night may cost before somebody is told, in the unit of ``NIGHTSHIFT_PRICES``."""

    night: float | None = Field(
        None,
        gt=0,
        description="Of a night and what else was done for it, such as a training; none: no limit.",
    )
    per_thousand: float | None = Field(
        None, gt=0, description="Of 1,000 predictions, by what the nightly chain cost; none: no limit."
    )
    ratio: float = Field(
        3.0, gt=1, description="The nightly chain may cost so many times the median of the nights before."
    )
    window_nights: int = Field(28, ge=1, description="So many nights before are compared with.")
    min_nights: int = Field(7, ge=1, description="With fewer of them known, nothing is compared.")
    floor: float = Field(
        0.1,
        ge=0,
        description="A night that costs less is never expensive by comparison: noise of small sums.",
    )


class Labelling(_Strict):
    """Which predictions people are asked about, so that the next model learns most from their answers."""

    budget: int = Field(50, ge=0, description="Predictions queued a night; 0 asks for none.")
    horizon_days: int = Field(28, gt=0, description="So many nights a queued prediction waits for its label.")
    show: tuple[str, ...] = Field(
        (), description="Feature columns that a person sees beside the score; none named: the slices."
    )
    null_label: Literal["undefined", "unknown"] = Field(
        "undefined",
        description="What a label row without a value says: that there is no outcome, so nobody is asked; "
        "or that nobody has told yet, so people may.",
    )


class Retention(_Strict):
    """Days kept by ``maintain``."""

    raw_days: int = Field(gt=0)
    table_days: int = Field(gt=0)
    version_days: int = Field(gt=0, description="How far back replaced versions of tables can still be read.")
    staging_days: int = Field(gt=0)


class UseCase(_Strict):
    """One prediction problem, from its sources to its retrain policy."""

    name: Name
    title: str
    description: str
    owner: str
    owner_link: str | None = Field(
        None,
        pattern=r"^(https?://|mailto:)\S+$",
        description="Where its owners are reached: Airflow's UI shows it.",
    )
    timezone: str
    history_start: date = Field(description="First partition that exists upstream.")
    entity: ColumnName
    event_time: ColumnName
    label: Label
    schedule: Schedule
    features: Features
    slices: tuple[str, ...]
    costs: Costs
    training: Training
    evaluation: EvaluationRules = Field(default_factory=EvaluationRules)
    gate: Gate
    stress: tuple[StressCase, ...] = Field((), description="The file stress.yml, where there is one.")
    explanation: Explanations = Field(default_factory=Explanations)
    drift: Drift = Field(default_factory=Drift)
    retrain: Retrain = Field(default_factory=Retrain)
    engine: Engine = Engine()
    alerts: AlertRules = Field(default_factory=AlertRules)
    budget: Budget = Field(default_factory=Budget)
    labelling: Labelling = Field(default_factory=Labelling)
    retention: Retention
    feedback: Feedback = Field(default_factory=Feedback)
    sources: dict[Name, Source] = Field(min_length=1)

    @field_validator("engine", mode="before")
    @classmethod
    def _in_a_word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

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

    @model_validator(mode="after")
    def _personal_has_a_purpose(self) -> UseCase:
        read = {self.entity, self.event_time, self.label.column, *self.features.columns}
        if unnamed := sorted((read & self.personal_columns) - self.features.personal.keys()):
            raise ValueError(
                f"features.personal: {', '.join(unnamed)} are personal columns of the catalogue, and no "
                "purpose is named"
            )
        return self

    @model_validator(mode="after")
    def _tables_are_there_when_read(self) -> UseCase:
        for source, name, table in self.tables():
            if table.deadline and table.deadline > time(self.schedule.hour):
                raise ValueError(
                    f"sources.{source}.tables.{name}.deadline: {table.deadline:%H:%M} is after "
                    f"{self.schedule.hour:02d}:00, when the night reads it (schedule.hour)"
                )
            needed = self.features.lookback_days + table.lag_days + table.correction_days
            kept = self.raw_days(table)
            # Of a slow table the snapshot in force stays, however old it is.
            if kept < needed and (table.refresh == "daily" or table.raw_days is not None):
                place = f"sources.{source}.tables.{name}"
                said = f"{place}.raw_days" if table.raw_days is not None else "retention.raw_days"
                raise ValueError(
                    f"{said}: {kept} is less than {needed}, the days that a night reads of {place} "
                    "(features.lookback_days, lag_days and correction_days)"
                )
        return self

    @model_validator(mode="after")
    def _labels_are_built(self) -> UseCase:
        corrections = max(table.correction_days for _, _, table in self.tables())
        needed = self.label.lag_days + corrections
        if self.features.lookback_days < needed:
            # A night reads the labels of so many days, and builds those that it looks back on.
            raise ValueError(
                f"features.lookback_days: {self.features.lookback_days} is less than {needed}: "
                f"label.lag_days ({self.label.lag_days}) and the most correction_days ({corrections})"
            )
        return self

    @model_validator(mode="after")
    def _shown_are_features(self) -> UseCase:
        if unknown := [name for name in self.labelling.show if name not in self.features.columns]:
            raise ValueError(f"labelling.show: {', '.join(unknown)} are no columns under features")
        return self

    @model_validator(mode="after")
    def _feedback_has_its_columns(self) -> UseCase:
        needed = {name: column.type for name, column in self._feedback_columns.items()}
        if guarded := [name for name, column in (self.feedback.columns or {}).items() if column.protected]:
            raise ValueError(
                f"feedback.columns: {', '.join(guarded)} cannot be protected: only columns of sources can"
            )
        declared = {name: column.type for name, column in (self.feedback.columns or {}).items()}
        if hidden := [name for name, column in (self.feedback.columns or {}).items() if column.encrypt]:
            raise ValueError(
                f"feedback.columns: {', '.join(hidden)} cannot be encrypted: only raw objects of sources can"
            )
        if declared and declared != needed:
            listed = ", ".join(f"{name} ({kind})" for name, kind in needed.items())
            raise ValueError(f"feedback.columns: they are exactly {listed}")
        return self

    @model_validator(mode="after")
    def _bands_are_numbers(self) -> UseCase:
        for name, edges in self.evaluation.bands.items():
            if name not in self.features.numeric or not edges or list(edges) != sorted(set(edges)):
                raise ValueError(
                    f"evaluation.bands: {name}: a column under features.numeric, and edges that ascend"
                )
        return self

    @model_validator(mode="after")
    def _groups_are_features(self) -> UseCase:
        if unknown := [
            name for name in self.evaluation.fairness.groups if name not in self.features.categorical
        ]:
            raise ValueError(
                f"evaluation.fairness.groups: {', '.join(unknown)} are no columns under features.categorical"
            )
        return self

    @model_validator(mode="after")
    def _stress_fits_the_features(self) -> UseCase:
        names = [case.name for case in self.stress]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"stress: two cases are called {', '.join(repeated)}")
        for case in self.stress:
            for name, change in case.change.items():
                if name in self.features.numeric and not isinstance(change.set, str):
                    continue
                if name in self.features.categorical and isinstance(change.set, str):
                    continue
                raise ValueError(
                    f"stress case {case.name}: {name!r} is no feature that can be changed so; "
                    "numbers are set, added to or multiplied, categories are set to a text"
                )
            if unknown := [name for name in case.only if name not in self.features.categorical]:
                raise ValueError(
                    f"stress case {case.name}: only: {', '.join(unknown)} are no columns under "
                    "features.categorical"
                )
        return self

    @model_validator(mode="after")
    def _counterfactuals_fit_the_features(self) -> UseCase:
        movers: dict[str, str] = {}
        for name, choice in self.explanation.allowed.items():
            if name not in (
                self.features.numeric if isinstance(choice, Steps) else self.features.categorical
            ):
                raise ValueError(
                    f"explanation.allowed: {name!r} is no feature that can be changed so; numbers have low, "
                    "high and step, categories a list"
                )
            moves = choice.moves if isinstance(choice, Steps) else ()
            if unknown := [
                moved
                for moved in moves
                if moved not in self.features.numeric or moved in self.explanation.allowed
            ]:
                raise ValueError(
                    f"explanation.allowed: {name} moves {', '.join(unknown)}: what follows from a feature is "
                    "a column under features.numeric, and not allowed itself"
                )
            for moved in moves:
                if movers.setdefault(moved, name) != name:
                    raise ValueError(
                        f"explanation.allowed: {movers[moved]} and {name} both move {moved}: what follows "
                        "from a feature follows from one only"
                    )
        return self

    @cached_property
    def zone(self) -> ZoneInfo:
        """The use case's time zone."""
        return ZoneInfo(self.timezone)

    def as_of(self, night: date) -> datetime:
        """Return the moment (UTC) at which the night of ``night`` runs: nothing later may be read."""
        local = datetime.combine(night, time(self.schedule.hour), tzinfo=self.zone)
        return local.astimezone(UTC)

    def due(self, table: Table, partition: date) -> datetime:
        """Return the moment (UTC) at which a partition of a table is there at the latest, by its deadline."""
        day = partition + timedelta(days=table.lag_days)
        clock = table.deadline or time(self.schedule.hour)
        return datetime.combine(day, clock, tzinfo=self.zone).astimezone(UTC)

    def raw_days(self, table: Table) -> int:
        """Return for how many days raw objects of a table are kept."""
        return table.raw_days or self.retention.raw_days

    @property
    def cron(self) -> str:
        """Cron expression of the nightly run, in ``timezone``."""
        return f"0 {self.schedule.hour} * * *"

    @property
    def captured_sources(self) -> list[str]:
        """Sources whose upstream forgets: what it says is kept in a journal first."""
        return [name for name, source in self.sources.items() if source.kind]

    @cached_property
    def feedback_table(self) -> Table:
        """The catalogue's table of the labels that people give; a correction is another version of a row."""
        return Table(
            description=self.feedback.description,
            key=(self.entity, "version"),
            refresh="daily",
            available_at="imported_at",
            allow_empty=True,
            columns=self.feedback.columns or self._feedback_columns,
        )

    @cached_property
    def _feedback_columns(self) -> dict[str, Column]:
        return {
            self.entity: Column(type="string", description="What was labelled.", nullable=False),
            "version": Column(type="int64", description="1, and one more a correction.", nullable=False),
            self.label.column: Column(type="int64", description="0 or 1.", nullable=False),
            "label_available_on": Column(
                type="date", description="First night that knows the label.", nullable=False
            ),
            "labelled_by": Column(
                type="string",
                description="Who said so.",
                nullable=False,
                pii="direct",
                purpose="To ask back about a label.",
            ),
            "imported_at": Column(type="timestamp", description="When it was imported.", nullable=False),
        }

    @cached_property
    def personal_columns(self) -> frozenset[str]:
        """Names of the columns of sources that the catalogue classes as personal, protected or not."""
        return frozenset(
            name
            for _, _, table in self.tables()
            for name, column in table.columns.items()
            if column.pii != "none"
        )

    @cached_property
    def hidden_columns(self) -> frozenset[str]:
        """Columns whose values no report shows: the catalogue calls them personal, or encrypts them."""
        tables = [table for _, _, table in self.tables()] + [self.feedback_table]
        return frozenset().union(*(table.hidden for table in tables))

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
    require_name(name, "use case")
    folder = settings().usecases / name
    if not folder.is_dir():
        raise DataError(
            f"there is no use case {name!r}",
            rule="a use case is a folder of include/usecases",
            where=str(folder),
            cure="use one of those that are there, or make it with `make new-usecase`",
        )
    files = {key: folder / f"{key}.yml" for key in ("usecase", "sources", "stress")}
    # The catalogue has the labels that people give beside what nights land.
    held = {"sources": {"sources", "feedback"}, "stress": {"stress"}}
    content = _read_yaml(files["usecase"])
    for key, file in list(files.items())[1:]:
        if key == "stress" and not file.exists():
            continue
        part = _read_yaml(file)
        for misplaced in (content.keys() & {key, *part}) | (part.keys() - held[key]):
            raise DataError(
                f"key {misplaced!r} is in the wrong file",
                rule="sources.yml holds `sources`, and `feedback` where it is declared; stress.yml holds "
                "`stress`; usecase.yml holds the rest",
                where=str(folder),
                cure=f"move {misplaced!r} to its file",
            )
        content |= part
    try:
        usecase = UseCase.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors()
        )
        holder = files | {"feedback": files["sources"]}
        broken = {
            str(holder.get(str(e["loc"][0]) if e["loc"] else "", files["usecase"])) for e in error.errors()
        }
        raise DataError(
            f"use case {name!r} is not valid: {problems}",
            rule="usecase.yml, sources.yml and stress.yml follow nightshift.usecase.UseCase",
            where=", ".join(sorted(broken)),
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


def require_name(name: str, what: str) -> str:
    """Return ``name`` if it may stand in a path.

    Raises:
        DataError: It holds anything but lower-case letters, digits and ``_``, or is too long.
    """
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise DataError(
            f"{name!r} cannot be the name of a {what}",
            rule="names are lower-case letters, digits and _, begin with a letter, and have at most 48",
            where=what,
            cure="correct the name",
        ) from error


def usecase_names() -> Sequence[str]:
    """Return the name of every use case folder, sorted, valid or not."""
    return sorted(file.parent.name for file in settings().usecases.glob("*/usecase.yml"))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # nosec B506  # a safe loader
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
