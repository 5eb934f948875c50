"""What is asked about a new use case, and what an answer may be."""

from __future__ import annotations

import keyword
from datetime import date
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightshift.errors import DataError

_NAME = r"^[a-z][a-z0-9_]{0,30}[a-z0-9]$"
# Columns that the models of the scaffold have anyway.
TAKEN = ("partition", "label_available_on", "known_at", "score", "decision", "reasons", "run_id")


# What PostgreSQL reserves beyond DuckDB; what YAML reads as a truth value. Names are written without quotes.
_RESERVED = {"user", "grant", "authorization", "localtime", "localtimestamp", "current_role", "current_user"}
_RESERVED |= {"current_date", "current_time", "current_timestamp", "current_catalog", "current_schema"}
_RESERVED |= {
    "session_user",
    "system_user",
    "binary",
    "freeze",
    "verbose",
    "isnull",
    "notnull",
    "tablesample",
}
_RESERVED |= {"no", "yes", "on", "off", "true", "false", "null", *keyword.kwlist}


def _not_reserved(name: str) -> str:
    import duckdb  # a quarter of a second that whoever asks nothing need not pay

    with duckdb.connect() as connection:
        connection.execute("select keyword_name, keyword_category from duckdb_keywords()")
        words = connection.fetchall()
    if name in _RESERVED | {word for word, category in words if category in ("reserved", "type_function")}:
        raise ValueError(
            f"{name!r} means something in SQL, Python or YAML: choose another, such as {name}_code"
        )
    return name


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone of the IANA database, such as Europe/Berlin")
    return name


Name = Annotated[str, Field(pattern=_NAME), AfterValidator(_not_reserved)]


class Answers(BaseModel):
    """The answers about one use case.

    Attributes:
        name: Its identifier, ``snake_case``: of its folders, its schema and its DAGs.
        title: What people call it.
        owner: Who answers for it.
        timezone: The IANA zone in which its days begin and its nights run.
        history_start: The first day with data.
        entity: The column that identifies what is predicted about, such as ``order_id``.
        event_time: The column that says when its event takes place, such as ``ordered_at``.
        label: The column of the outcome, 0 or 1, such as ``returned``.
        label_days: How many days after its day an outcome is known.
        numeric: Columns of numbers that are known before the event.
        categorical: Columns of categories that are known before the event.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    title: str = Field(min_length=1, max_length=80, pattern=r"^[^\"\\\n{}\[\]]+$")
    owner: str = Field("data-platform", pattern=r"^[A-Za-z0-9@._-]+$")
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    history_start: date = date(2024, 1, 1)
    entity: Name
    event_time: Name
    label: Name
    label_days: int = Field(1, ge=1, le=7)
    numeric: tuple[Name, ...] = Field(min_length=1)
    categorical: tuple[Name, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _columns_are_told_apart(self) -> Answers:
        own = (self.entity, self.event_time, self.label, self.rate, *self.numeric, *self.categorical)
        columns = (*TAKEN, *own)
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"columns need names of their own: {', '.join(twice)}")
        return self

    @property
    def rate(self) -> str:
        """Return the name of the feature that looks back: the share of positive outcomes of a week."""
        return f"{self.label}_rate_7d"


def parse(answers: dict[str, Any]) -> Answers:
    """Return checked answers.

    Raises:
        DataError: An answer cannot be taken; the message says which, and why.
    """
    try:
        return Answers.model_validate(answers)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc'])) or 'columns'}: {one['msg']}" for one in error.errors()]
        raise DataError(
            "; ".join(told),
            rule="names are snake_case, 2 to 32 characters, no reserved word, and each of one meaning",
            where="the answers about the new use case",
            cure="answer again",
        ) from error
