"""The only code that talks to Great Expectations.

Great Expectations 1.24 logs an expectation it does not know and then leaves it out, returns results in
another order than the suite's, and turns an exception inside an expectation into a failure. All three
would make a suite look stricter or laxer than it is, so they are checked for here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nightshift.errors import DataError

_NAME = "nightshift"
# Expectations that judge a row without looking at any other: a part of the rows gives their answer for it.
# Keys, order and z-scores are not among them.
_ROW_BY_ROW = frozenset(
    f"expect_{kind}"
    for kind in (
        "column_pair_values_a_to_be_greater_than_b",
        "column_pair_values_to_be_equal",
        "column_pair_values_to_be_in_set",
        "column_value_lengths_to_be_between",
        "column_value_lengths_to_equal",
        "column_values_to_be_between",
        "column_values_to_be_in_set",
        "column_values_to_be_null",
        "column_values_to_match_regex",
        "column_values_to_not_be_in_set",
        "column_values_to_not_be_null",
        "column_values_to_not_match_regex",
        "multicolumn_sum_to_equal",
        "select_column_values_to_be_unique_within_record",
    )
)
# Where a result holds values of its columns.
_EXAMPLES = ("unexpected_list", "partial_unexpected_list", "partial_unexpected_counts")
_VALUES = frozenset((*_EXAMPLES, "observed_value", "details"))


@dataclass(frozen=True)
class Check:
    """One expectation, ready to run: nothing in ``kwargs`` is left to fill in."""

    rule: str
    type: str
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What one expectation found.

    Attributes:
        rule: Name of the rule.
        success: Whether the expectation holds for the whole frame.
        broken: For each row of the frame whether it breaks it; all false for one that judges a whole batch.
        observed: The number or values seen, for one that judges a whole batch.
        result: Great Expectations' own result, for its Data Docs; without the list of all broken rows.
    """

    rule: str
    success: bool
    broken: npt.NDArray[np.bool_]
    observed: Any
    result: Any


def judges_rows(kind: str, where: str) -> bool:
    """Return whether expectation ``kind`` tells which rows break it.

    Raises:
        DataError: Great Expectations knows no such expectation.
    """
    great_expectations()
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        found = get_expectation_impl(kind)
    except ExpectationNotFoundError as error:
        raise DataError(
            f"Great Expectations knows no {kind!r}",
            rule="every rule of a suite can be judged",
            where=where,
            cure="correct the type of the expectation",
        ) from error
    return issubclass(found, ColumnMapExpectation | ColumnPairMapExpectation | MulticolumnMapExpectation)


def run(
    checks: Sequence[Check], frame: pd.DataFrame, where: str, *, at_once: int | None = None
) -> list[Finding]:
    """Judge ``frame``, whose index tells its rows apart, by every check; findings come in their order.

    Args:
        checks: The expectations.
        frame: The rows.
        where: Names the place in errors.
        at_once: Of more rows than these, expectations that look at one row at a time judge so many at once,
            so that what Great Expectations holds beside the frame does not grow with it. None: any number.

    Raises:
        DataError: A check cannot be judged: its arguments are wrong, or it names a column that is not there.
    """
    if at_once is None or len(frame) <= at_once:
        return _run(checks, frame, where)
    single = [check for check in checks if check.type in _ROW_BY_ROW]
    found = {
        finding.rule: finding
        for finding in _run([check for check in checks if check.type not in _ROW_BY_ROW], frame, where)
    }
    parts = [
        _run(single, frame.iloc[start : start + at_once], where) for start in range(0, len(frame), at_once)
    ]
    for findings in zip(*parts, strict=True):
        found[findings[0].rule] = _together(findings)
    return [found[check.rule] for check in checks]


def columns_of(arguments: Mapping[str, Any]) -> set[str]:
    """Return the columns that the arguments of an expectation name."""
    named: set[str] = set()
    for argument, value in arguments.items():
        if argument.startswith("column") and isinstance(value, str | list | tuple):
            named |= {value} if isinstance(value, str) else set(value)
    return named


def data_docs(suite: str, title: str, findings: Sequence[Finding], hidden: frozenset[str]) -> str:
    """Return Great Expectations' own HTML page of the findings, without values of the ``hidden`` columns."""
    great_expectations()
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView
    from great_expectations.validator.validation_statistics import calc_validation_statistics

    results = [finding.result for finding in findings]
    for result in results:
        if not hidden.isdisjoint(columns_of(result.expectation_config.kwargs)):
            result.result = {name: value for name, value in result.result.items() if name not in _VALUES}
    statistics = calc_validation_statistics(results)
    whole = ExpectationSuiteValidationResult(
        results=results,
        success=statistics.success,
        suite_name=suite,
        statistics=statistics._asdict(),
        meta={"great_expectations_version": great_expectations().__version__, "batch_spec": {"batch": title}},
    )
    view: Any = DefaultJinjaPageView()
    return str(view.render(ValidationResultsPageRenderer().render(whole)))


@lru_cache(maxsize=1)
def great_expectations() -> Any:
    """Import Great Expectations (seconds, once a process) with telemetry and progress bars off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    return gx


@lru_cache(maxsize=1)
def _batch_definition() -> Any:
    gx = great_expectations()
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    asset = context.data_sources.add_pandas(_NAME).add_dataframe_asset(_NAME)
    return asset.add_batch_definition_whole_dataframe(_NAME)


def _run(checks: Sequence[Check], frame: pd.DataFrame, where: str) -> list[Finding]:
    if not checks:
        return []
    suite = great_expectations().ExpectationSuite(
        # Given as objects: configurations it cannot build would be left out, and configurations added later
        # to the same column would replace one another.
        name=_NAME,
        expectations=[_expectation(check, where) for check in checks],
    )
    batch = _batch_definition().get_batch({"dataframe": frame})
    # Without columns that name rows, rows are numbers of the frame's index: those of half a million rows take
    # milliseconds, where one dictionary a row took minutes and most of the memory.
    results = batch.validate(
        suite, result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False}
    )
    found = {result.expectation_config.meta["rule"]: result for result in results.results}
    return [_finding(check, found.get(check.rule), frame.index, where) for check in checks]


def _together(parts: Sequence[Finding]) -> Finding:
    """Return one finding for all rows, of which each part judged some; examples are those of one part."""
    shown = next((part for part in parts if not part.success), parts[0])
    totals = shown.result.result
    for count in ("element_count", "missing_count", "unexpected_count"):
        if count in totals:
            totals[count] = sum(part.result.result[count] for part in parts)
    rows, missing = totals["element_count"], totals.get("missing_count", 0)
    for share, number, whole in (
        ("unexpected_percent", "unexpected_count", rows - missing),
        ("unexpected_percent_nonmissing", "unexpected_count", rows - missing),
        ("unexpected_percent_total", "unexpected_count", rows),
        ("missing_percent", "missing_count", rows),
    ):
        if share in totals:
            totals[share] = 100 * totals[number] / whole if whole else None
    return Finding(
        rule=shown.rule,
        success=shown.success,
        broken=np.concatenate([part.broken for part in parts]),
        observed=shown.observed,
        result=shown.result,
    )


def _expectation(check: Check, where: str) -> Any:
    great_expectations()
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(
            type=check.type, kwargs=check.kwargs, meta={"rule": check.rule}
        ).to_domain_obj()
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise _not_judged(check, error, where) from error


def _finding(check: Check, result: Any, index: pd.Index, where: str) -> Finding:
    if trouble := _trouble(result):
        raise _not_judged(check, trouble, where)
    # Taken out of the result: Data Docs would print every one of them.
    rows = result.result.pop("unexpected_index_list", None) or []
    broken = np.zeros(len(index), dtype=bool)
    if rows:
        broken[index.get_indexer(pd.Index(rows))] = True
    for examples in _EXAMPLES:
        if examples in result.result:
            result.result[examples] = _printable(result.result[examples])
    observed = result.result.get("observed_value")
    if isinstance(observed, np.generic):
        # Its Data Docs cannot print numpy's numbers.
        observed = result.result["observed_value"] = observed.item()
    return Finding(
        rule=check.rule,
        success=bool(result.success),
        broken=broken,
        observed=observed,
        result=result,
    )


def _not_judged(check: Check, trouble: object, where: str) -> DataError:
    return DataError(
        f"rule {check.rule!r} cannot be judged: {trouble}",
        rule="every rule of a suite can be judged",
        where=where,
        cure=f"correct the arguments of {check.type} in the suite, or the columns of the data",
    )


def _printable(value: Any) -> Any:
    """Return values that Data Docs can print: pandas cannot, of times outside the years 1 to 9999."""
    if isinstance(value, pd.Timestamp):
        return str(value.to_datetime64())
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_printable(item) for item in value)
    return value


def _trouble(result: Any) -> str | None:
    """Return the exception's message, which sits one level deeper where a metric raised it."""
    if result is None:
        return "no result came back"
    info = result.exception_info or {}
    nested = [value for value in info.values() if isinstance(value, dict)]
    for entry in nested or [info]:
        if entry.get("raised_exception"):
            return str(entry.get("exception_message"))
    return None
