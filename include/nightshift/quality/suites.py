"""Reading suites: ``expectations/<use case>/<suite>.json`` in Great Expectations' own format.

What Great Expectations has no words for stands in ``meta``, checked strictly. Of each expectation:

* ``rule``: a name, unique in its suite, that errors and quarantined rows carry;
* ``severity``: ``quarantine`` (the row goes to quarantine), ``stop`` (the run fails) or ``warn``;
* ``reason``: why the rule exists, in words a person on call understands.

Of the suite: ``quarantine_at_most`` (a partition with a larger share of bad rows is no longer a few bad
rows but a bad batch, and stops), ``derived``, columns that exist only while the suite runs, and ``columns``,
where no catalogue declares them: other columns, or other types, stop the batch before any rule is judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightshift.errors import DataError
from nightshift.quality.schema import Kind
from nightshift.settings import settings
from nightshift.usecase import UseCase, require_name

Severity = Literal["quarantine", "stop", "warn"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleMeta(_Strict):
    """What this project adds to an expectation."""

    rule: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    severity: Severity
    reason: str = Field(min_length=10)


class Rule(_Strict):
    """One expectation, as Great Expectations writes it."""

    type: str = Field(pattern=r"^expect_")
    kwargs: dict[str, Any] = Field(default_factory=dict)
    meta: RuleMeta
    notes: str | None = None

    @model_validator(mode="after")
    def _mostly_judges_one_column(self) -> Rule:
        if "mostly" not in self.kwargs:
            return self
        if self.meta.severity == "quarantine":
            raise ValueError(
                f"{self.meta.rule}: a row is quarantined or not; `mostly` judges a whole partition"
            )
        if "column" not in self.kwargs or "row_condition" in self.kwargs:
            raise ValueError(f"{self.meta.rule}: `mostly` goes with one column and no row_condition")
        return self

    @property
    def name(self) -> str:
        """The name that errors, reports and quarantined rows carry."""
        return self.meta.rule


class Derived(_Strict):
    """One column that exists only while the suite runs; exactly one key is given.

    ``local_day``: the day (``YYYY-MM-DD``, in the use case's time zone) of a timestamp column.
    ``local_minute``: minutes on the clock after midnight, in the use case's time zone, of a timestamp column.
    ``days_after``: days from the partition to a date, or to the local day of a timestamp.
    ``minutes``: minutes from the first timestamp column to the second; null if either is null.
    ``repeats``: 1 for a row that repeats an earlier row of its partition in every column, else 0.
    ``nulls``: in how many of these columns the row is null.
    ``infinite``: in how many columns the row is infinite.
    """

    local_day: str | None = None
    local_minute: str | None = None
    days_after: str | None = None
    minutes: tuple[str, str] | None = None
    repeats: Literal[True] | None = None
    nulls: tuple[str, ...] | None = None
    infinite: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Derived:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a derived column has exactly one of {', '.join(type(self).model_fields)}")
        return self


class SuiteMeta(_Strict):
    """What this project adds to a suite."""

    quarantine_at_most: float = Field(ge=0, le=1)
    derived: dict[str, Derived] = Field(default_factory=dict)
    columns: dict[str, Kind] | None = None
    great_expectations_version: str | None = None


class Suite(_Strict):
    """A named list of rules, in the order in which a broken row is told its first reason."""

    name: str
    expectations: tuple[Rule, ...] = Field(min_length=1)
    meta: SuiteMeta
    notes: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Suite:
        names = [rule.name for rule in self.expectations]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rule names are used twice: {', '.join(repeated)}")
        return self


def suite_names(uc: UseCase) -> list[str]:
    """Return the names of the use case's suites, sorted."""
    return sorted(file.stem for file in (settings().expectations / uc.name).glob("*.json"))


def suite_file(uc: UseCase, name: str) -> Path:
    """Return where the suite ``name`` of the use case is kept."""
    return settings().expectations / uc.name / f"{require_name(name, 'suite')}.json"


def load_suite(uc: UseCase, name: str) -> Suite:
    """Read and check one suite.

    Raises:
        DataError: The file is missing or breaks the format; the message names every offending key.
    """
    file = suite_file(uc, name)
    try:
        suite = Suite.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(
            f"there is no suite {name!r}: {error.strerror or error}",
            rule="everything that is validated has a suite",
            where=str(file),
            cure="write the suite; expectations/README.md says how",
        ) from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors()
        )
        raise DataError(
            f"suite {name!r} is not valid: {problems}",
            rule="a suite follows nightshift.quality.suites.Suite",
            where=str(file),
            cure="mend the keys named above; expectations/README.md explains each",
        ) from error
    if suite.name != name:
        raise DataError(
            f"the suite in {file.name} calls itself {suite.name!r}",
            rule="a suite is named as its file",
            where=str(file),
            cure="make `name` and the file agree",
        )
    return suite
