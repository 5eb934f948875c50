"""From a suite to rules that can be judged: columns known, parameters looked up, scope decided."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Literal

from nightshift.errors import DataError
from nightshift.quality import engine
from nightshift.quality.suites import Rule, Severity, Suite

Scope = Literal["rows", "share", "volume", "partition"]
"""What a rule judges: each row; the share of good rows of a partition (``mostly``); the number of rows of a
partition; a partition as a whole (a mean, a set of values)."""

_VOLUME = "expect_table_row_count_to_be_between"


@dataclass(frozen=True)
class BoundRule:
    """One rule, and what it judges."""

    rule: Rule
    scope: Scope

    @property
    def name(self) -> str:
        """What the suite calls it."""
        return self.rule.name

    @property
    def kwargs(self) -> dict[str, Any]:
        """What the suite says; parameters are not looked up yet."""
        return self.rule.kwargs

    @property
    def severity(self) -> Severity:
        """What happens when the rule is broken."""
        return self.rule.meta.severity

    @cached_property
    def in_words(self) -> str:
        """What it expects, for people."""
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.kwargs.items())
        return f"{self.rule.type.removeprefix('expect_').replace('_', ' ')} ({arguments})"

    def arguments(self, context: Mapping[str, Any], day: date | None, place: str) -> dict[str, Any] | None:
        """Return the arguments with every ``{"$PARAMETER": name}`` looked up in ``context``.

        None: a parameter is not given and the rule only warns, so it is left unjudged.

        Raises:
            DataError: A parameter is not given and the rule does more than warn.
        """
        filled: dict[str, Any] = {}
        for key, value in self.kwargs.items():
            if not (isinstance(value, dict) and set(value) == {"$PARAMETER"}):
                filled[key] = value
                continue
            path = value["$PARAMETER"].split(".")
            found = _look_up(context, path, day)
            if found is None:
                if self.severity == "warn":
                    return None
                raise DataError(
                    f"rule {self.name!r} needs {'.'.join(path)!r}, which was not given",
                    rule="every parameter of a rule that does more than warn is given",
                    where=place,
                    cure="pass it in the context of validate(), or make the rule a warning",
                )
            filled[key] = found
        return filled


def bind(suite: Suite, columns: Iterable[str], place: str) -> list[BoundRule]:
    """Return the suite's rules in order.

    Raises:
        DataError: A rule names a column that is not there, an unknown expectation, or quarantines without
            telling rows apart.
    """
    known = set(columns)
    for rule in suite.expectations:
        if missing := [column for column in columns_of(rule.kwargs) if column not in known]:
            raise unknown_columns(f"rule {rule.name!r}", missing, known, place)
    return [BoundRule(rule, _scope(rule, place)) for rule in suite.expectations]


def columns_of(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the columns that an expectation with these arguments reads, its ``row_condition`` included."""
    single = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    return [*single, *kwargs.get("column_list", []), *_conditioned(kwargs.get("row_condition", {}))]


def _conditioned(condition: Mapping[str, Any]) -> list[str]:
    named = [condition["column"]["name"]] if "column" in condition else []
    return named + [name for part in condition.get("conditions", []) for name in _conditioned(part)]


def unknown_columns(who: str, missing: Sequence[str], known: Iterable[str], place: str) -> DataError:
    """Return the error for a suite that names columns its data do not have."""
    return DataError(
        f"{who} names columns that are not there: {', '.join(missing)}; there are {', '.join(sorted(known))}",
        rule="a suite names only columns of its data",
        where=place,
        cure="correct the suite, or bring the column back",
    )


def _scope(rule: Rule, place: str) -> Scope:
    if rule.type == _VOLUME:
        scope: Scope = "volume"
    elif engine.judges_rows(rule.type, place):
        scope = "share" if "mostly" in rule.kwargs else "rows"
    else:
        scope = "partition"
    if rule.meta.severity == "quarantine" and scope != "rows":
        raise DataError(
            f"rule {rule.name!r} quarantines, but {rule.type} does not say which rows break it",
            rule="a quarantine rule judges rows",
            where=place,
            cure="give it the severity stop or warn",
        )
    return scope


def _look_up(context: Mapping[str, Any], path: Sequence[str], day: date | None) -> Any:
    found: Any = context
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get(day)
    return found
