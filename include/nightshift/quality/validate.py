"""Judging data by a suite: which rows go on, which are kept aside, and what stops the run.

``validate`` takes one partition or many. Rules about rows are judged once for all of them; rules about
volumes, shares and distributions are judged for each partition by itself, so a day gets the same answer
alone or within a month.

Memory is bounded: only columns that the suite reads are turned into a frame, and of those only some whole
partitions at a time. A larger partition is one frame, since no part of it can say whether its keys are
unique; rules that look at one row at a time judge it part by part.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import compress, pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake.raw import check_conserved
from nightshift.quality import engine
from nightshift.quality.engine import Check, Finding
from nightshift.quality.reports import Outcome, PartitionReport, write_reports
from nightshift.quality.rows import HIDDEN, to_plain, without_hidden
from nightshift.quality.rules import BoundRule, bind, columns_of, unknown_columns
from nightshift.quality.schema import check_schema
from nightshift.quality.suites import Derived, Suite, load_suite, suite_file
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

QUARANTINE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("partition", "suite", "rule", "severity", "reason", "row")]
)
"""Quarantined rows: ``rule`` is the first broken in suite order, ``reason`` names all, ``row`` is JSON."""

_PARTITION = "partition"
_WHOLE = "all"
_ROWS = "rows"
_NULL_RULES = {"expect_column_values_to_not_be_null", "expect_column_values_to_be_null"}
# Enough to recognise what is wrong; the quarantine holds every row.
_SAMPLE = 3
_PAGE_SAMPLE = 20
# Rows that are judged at once: many enough that a night and a month are one call, few enough that the frame
# stays small beside the rows themselves. docs/validation.md has the figures.
_CHUNK_ROWS = 200_000

_Name = TypeVar("_Name")
Numbers = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Validated:
    """What became of the rows.

    Attributes:
        rows_in: Rows handed in.
        accepted: Rows that broke no quarantine rule, in their order, columns as handed in.
        quarantined: The others, one row each, as ``QUARANTINE_SCHEMA``; sorted, free of run ids and times.
        warnings: One line for each broken ``warn`` rule and partition.
        reports: URI of the HTML page of each partition, by its label.
    """

    rows_in: int
    accepted: pa.Table
    quarantined: pa.Table
    warnings: list[str]
    reports: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse to exist with rows lost or doubled."""
        check_conserved(self.rows_in, self.accepted.num_rows, self.quarantined.num_rows, "validation")


def validate(
    uc: UseCase,
    suite_name: str,
    data: pa.Table,
    *,
    partition_column: str | None,
    where: str,
    context: Mapping[str, Any] | None = None,
    partitions: Iterable[date] | None = None,
    allow_empty: bool = False,
) -> Validated:
    """Judge ``data`` by a suite, write a report a partition, and split good rows from bad ones.

    Args:
        uc: The use case.
        suite_name: ``expectations/<use case>/<suite_name>.json``.
        data: The rows. In the suite, the partition's column is always called ``partition``.
        partition_column: Column of the day (date or ``YYYY-MM-DD``); None: all rows are one partition.
        where: Names the place in errors, such as ``raw/<source>/<table>``.
        context: Values of the suite's ``$PARAMETER``s. A dotted name walks into nested mappings, and a
            mapping keyed by ``date`` gives each partition its own value. A ``warn`` rule whose parameter is
            not given is not judged; any other is an error.
        partitions: Days that must be there; a day without rows is judged too. Default: those in ``data``.
        allow_empty: A partition without rows is fine, and warned of.

    Raises:
        DataError: A ``stop`` rule is broken, too large a share of a partition would be quarantined, or the
            suite does not fit the data. The message names rule, partition, offending rows and report.
    """
    suite = load_suite(uc, suite_name)
    place = f"{uc.name}/{where}"
    if suite.meta.columns is not None:
        check_schema(data, suite.meta.columns, rule=f"{suite.name}.columns", place=place, exact=True)
    whole = _whole(data, partition_column, partitions, place)
    rules = bind(suite, [*whole.rows.column_names, _PARTITION, *suite.meta.derived], place)

    bad = np.zeros(data.num_rows, dtype=bool)
    outcomes: dict[str, list[Outcome]] = {}
    quarantined = [QUARANTINE_SCHEMA.empty_table()]
    reports: dict[str, str] = {}
    stops = False
    for batch, numbers in _batches(uc, suite, whole, place):
        judged = _judge(batch, rules, context or {}, allow_empty=allow_empty, place=place)
        broken = bad[numbers]
        for bound in rules:
            if bound.severity == "quarantine" and bound.name in judged.broken:
                broken |= judged.broken[bound.name]
        bad[numbers] = broken
        aside = np.flatnonzero(broken)
        samples = batch.samples(aside, _PAGE_SAMPLE)
        counts = zip(batch.days, batch.counts(aside), batch.sizes, strict=True)
        pages = []
        for (label, count, size), sample in zip(counts, samples, strict=True):
            judged.outcomes[label].append(_share_outcome(suite, count, size))
            pages.append(PartitionReport(label, size, count, tuple(judged.outcomes[label]), tuple(sample)))
        reports |= write_reports(uc, suite_name, pages, judged.findings)
        # Of years of days, all that holds would be more than the rows of a chunk.
        for label, found in judged.outcomes.items():
            outcomes[label] = [outcome for outcome in found if outcome.success is False]
        stops = stops or bool(_stops(judged.outcomes))
        if not stops:
            # Of rows that stop nothing is kept, and the bad ones may be all there are.
            quarantined.append(_quarantined(batch, suite, rules, judged, aside))
    _stop_if_broken(uc, suite, outcomes, reports, place)
    return Validated(
        rows_in=data.num_rows,
        accepted=_without(data, bad),
        quarantined=pa.concat_tables(quarantined),
        warnings=_warnings(outcomes, place),
        reports=reports,
    )


def _without(data: pa.Table, bad: Bools) -> pa.Table:
    """Return the rows that are not bad; chunks without a bad row are not copied."""
    kept, start = [], 0
    for part in data.to_batches():
        of_part = bad[start : start + part.num_rows]
        kept.append(part.filter(pa.array(~of_part)) if of_part.any() else part)
        start += part.num_rows
    return pa.Table.from_batches(kept, schema=data.schema)


def by_size(rows: Mapping[_Name, int]) -> Iterator[list[_Name]]:
    """Yield the names in their order, in groups of as many rows as are judged at once; a larger one alone."""
    group: list[_Name] = []
    size = 0
    for name, count in rows.items():
        if group and size + count > _CHUNK_ROWS:
            yield group
            group, size = [], 0
        group.append(name)
        size += count
    if group:
        yield group


# The batch ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole:
    """All that was handed in: rows without their partition, and for each row the place of its label."""

    rows: pa.Table
    labels: Labels
    days: dict[str, date | None]


@dataclass(frozen=True)
class _Batch:
    """Some whole partitions: their rows, a frame of the columns that the suite reads, and whose is which.

    ``labels`` is for each row the place of its partition among ``days``; ``sizes`` has their rows. Samples
    show no values of ``hidden`` columns.
    """

    rows: pa.Table
    frame: pd.DataFrame
    labels: Labels
    days: dict[str, date | None]
    hidden: frozenset[str]

    @cached_property
    def sizes(self) -> list[int]:
        """Return how many rows each partition has."""
        return [int(count) for count in np.bincount(self.labels, minlength=len(self.days))]

    def counts(self, numbers: Numbers | Bools) -> list[int]:
        """Return how many of the rows are each partition's."""
        return [int(count) for count in np.bincount(self.labels[numbers], minlength=len(self.days))]

    def members(self) -> list[Numbers]:
        """Return the rows of each partition."""
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(self.sizes)[:-1])

    def samples(self, numbers: Numbers, at_most: int) -> list[list[str]]:
        """Return, for each partition, the first few of the rows that are its own, as JSON."""
        labels = self.labels[numbers]
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange(len(self.days) + 1))
        first = [order[start : min(start + at_most, end)] for start, end in pairwise(starts)]
        texts = iter(self.as_json(numbers[np.concatenate(first)], self.hidden))
        return [[next(texts) for _ in part] for part in first]

    def as_json(self, numbers: Numbers, hidden: frozenset[str] = frozenset()) -> list[str]:
        """Return rows as JSON objects; see ``to_plain``."""
        if not len(numbers):
            return []
        chosen = to_plain(self.rows.take(pa.array(numbers, pa.int64())))
        shown = (without_hidden(row, hidden) for row in chosen) if hidden else chosen
        return [json.dumps(row, ensure_ascii=False) for row in shown]


def _whole(
    data: pa.Table, partition_column: str | None, partitions: Iterable[date] | None, place: str
) -> _Whole:
    if partition_column is None:
        return _Whole(data, np.zeros(data.num_rows, dtype=np.int32), {_WHOLE: None})
    column = data[partition_column]
    distinct = column.unique()
    found = pc.cast(distinct, pa.string()).to_pylist()
    days = _days(found, partitions, place)
    place_of = {label: position for position, label in enumerate(days)}
    places = np.array([place_of[label] for label in found], dtype=np.int32)
    labels = places[pc.index_in(column, value_set=distinct).to_numpy()]
    return _Whole(data.drop_columns([partition_column]), labels, days)


def _days(
    found: Sequence[str | None], partitions: Iterable[date] | None, place: str
) -> dict[str, date | None]:
    days: dict[str, date | None] = {}
    try:
        wanted = partitions if partitions is not None else [date.fromisoformat(str(label)) for label in found]
        days = {day.isoformat(): day for day in sorted(wanted)}
    except (TypeError, ValueError):
        pass  # what is no day is named below
    if strange := sorted(str(label) for label in found if label not in days):
        raise DataError(
            f"rows belong to no partition that was asked for: {', '.join(strange[:_SAMPLE])}",
            rule="every row belongs to a partition that was asked for",
            where=place,
            cure="correct what fills the partition column",
        )
    return days


def _batches(
    uc: UseCase, suite: Suite, whole: _Whole, place: str
) -> Iterator[tuple[_Batch, slice | Numbers]]:
    """Yield the partitions in groups, and the place of each row of a group among all rows."""
    in_order = bool(np.all(whole.labels[:-1] <= whole.labels[1:]))
    order = None if in_order else np.argsort(whole.labels, kind="stable")
    starts = np.searchsorted(whole.labels, np.arange(len(whole.days) + 1, dtype=np.int32), sorter=order)
    sizes = {label: int(size) for label, size in zip(whole.days, np.diff(starts), strict=True)}
    first = start = 0
    for group in by_size(sizes):
        end = start + sum(sizes[label] for label in group)
        numbers: slice | Numbers = slice(start, end)
        if order is None:
            # One piece of memory, since single rows are looked up; a larger group stays as it is.
            rows = whole.rows.slice(start, end - start)
            rows = rows.combine_chunks() if rows.num_rows <= _CHUNK_ROWS else rows
        else:
            numbers = np.sort(order[start:end])
            rows = whole.rows.take(pa.array(numbers))
        labels = whole.labels[numbers] - np.int32(first)
        yield _batch(uc, suite, rows, labels, {label: whole.days[label] for label in group}, place), numbers
        first, start = first + len(group), end


def _batch(
    uc: UseCase, suite: Suite, rows: pa.Table, labels: Labels, days: dict[str, date | None], place: str
) -> _Batch:
    derived = suite.meta.derived
    read = {column for rule in suite.expectations for column in columns_of(rule.kwargs)}
    frame = rows.select([name for name in rows.column_names if name in read]).to_pandas(
        types_mapper={pa.bool_(): pd.BooleanDtype()}.get
    )
    frame[_PARTITION] = pa.array(list(days), pa.string()).take(pa.array(labels)).to_pandas()
    for name in derived:
        frame[name] = _derive(uc, derived[name], rows, frame[_PARTITION], place)
    return _Batch(rows, frame, labels, days, uc.hidden_columns)


def _derive(uc: UseCase, derived: Derived, rows: pa.Table, labels: pd.Series[Any], place: str) -> Any:
    """Return the values of one derived column; ``labels`` are the partitions of the rows."""
    if derived.repeats:
        return _repeats(rows, labels)
    if derived.infinite:
        floats = [column for column in rows.columns if pa.types.is_floating(column.type)]
        count = np.zeros(rows.num_rows, dtype=np.int64)
        for column in floats:
            count += pc.fill_null(pc.is_inf(column), False).to_numpy()
        return count
    needed = list(
        derived.nulls
        or derived.minutes
        or [str(derived.local_day or derived.local_minute or derived.days_after)]
    )
    if missing := [name for name in needed if name not in rows.column_names]:
        raise unknown_columns("a derived column", missing, rows.column_names, place)
    if derived.nulls:
        return sum(pc.is_null(rows[name], nan_is_null=True).to_numpy().astype("int64") for name in needed)
    if derived.minutes:
        start, end = (pc.cast(pc.cast(rows[name], pa.int64()), pa.float64(), safe=False) for name in needed)
        return pc.divide(pc.subtract(end, start), 60e6).to_pandas()
    moment = rows[needed[0]]
    if pa.types.is_timestamp(moment.type):
        moment = pc.local_timestamp(pc.cast(moment, pa.timestamp("us", tz=uc.timezone)))
    if derived.local_minute:
        return pc.add(pc.multiply(pc.hour(moment), 60), pc.minute(moment)).to_pandas()
    if derived.days_after:
        day = pc.cast(pc.cast(pc.floor_temporal(moment, unit="day"), pa.date32()), pa.int32())
        of_partition = pc.cast(pc.cast(pa.array(labels, pa.string()), pa.date32()), pa.int32())
        return pc.subtract(day, of_partition).to_pandas()
    return pc.strftime(moment, format="%Y-%m-%d").to_pandas()


def _repeats(rows: pa.Table, labels: pd.Series[Any]) -> Any:
    """Return 1 for each row that repeats an earlier one of its partition in every column, else 0.

    Column by column into one number a row, so that no second copy of the rows is made; only rows whose
    numbers are equal are compared in full.
    """
    number = pd.util.hash_pandas_object(labels, index=False).to_numpy()
    for column in rows.columns:
        values = column.to_pandas()
        if pa.types.is_floating(column.type):
            values = values + 0.0  # -0.0 and 0.0 are equal, their bits are not
        number = number * np.uint64(31) + pd.util.hash_pandas_object(values, index=False).to_numpy()
    alike = np.flatnonzero(pd.Series(number).duplicated(keep=False))
    compared = rows.take(pa.array(alike)).to_pandas()
    compared[_PARTITION] = labels.to_numpy()[alike]
    repeats = np.zeros(rows.num_rows, dtype=np.int64)
    repeats[alike] = compared.duplicated()
    return repeats


# Judging --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """Outcomes by partition, raw findings for the Data Docs, and for each rule about rows which break it.

    Rules that were not judged are not in ``broken``.
    """

    outcomes: dict[str, list[Outcome]]
    findings: list[Finding]
    broken: dict[str, Bools]


def _judge(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], *, allow_empty: bool, place: str
) -> _Judged:
    row_findings = _judge_rows(batch, rules, context, place)
    volumes = _judge_volumes(batch, rules, context, place)
    judged = _Judged(
        {}, [*row_findings, *volumes.values()], {finding.rule: finding.broken for finding in row_findings}
    )
    row_outcomes = {
        bound.name: _row_outcomes(bound, judged.broken.get(bound.name), batch, context, place)
        for bound in rules
        if bound.scope in ("rows", "share")
    }
    members = batch.members() if any(bound.scope == "partition" for bound in rules) else []
    for position, (label, size) in enumerate(zip(batch.days, batch.sizes, strict=True)):
        if allow_empty and not size:
            judged.outcomes[label] = [_EMPTY]
            continue
        frame, wholes = batch.frame, {}
        if members:
            frame = frame if len(members) == 1 else frame.iloc[members[position]]
            wholes = _judge_whole(frame, rules, context, batch.days[label], place)
        judged.findings.extend(wholes.values())
        outcomes = judged.outcomes.setdefault(label, [])
        for bound in rules:
            if bound.scope == "volume":
                holds = not volumes[bound.name].broken[position] if bound.name in volumes else None
                outcomes.append(_outcome(bound, holds, f"{size} rows"))
            elif bound.scope == "partition":
                arguments = bound.arguments(context, batch.days[label], place) or {}
                outcomes.append(_whole_outcome(bound, wholes.get(bound.name), frame, arguments, batch.hidden))
            else:
                outcomes.append(row_outcomes[bound.name][position])
    return judged


def _judge_rows(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], place: str
) -> list[Finding]:
    checks = []
    for bound in rules:
        if bound.scope in ("rows", "share") and len(batch.frame):
            arguments = bound.arguments(context, None, place)
            if arguments is not None:
                # The share is taken for each partition afterwards, from the rows that this finds.
                arguments.pop("mostly", None)
                checks.append(Check(bound.name, bound.rule.type, arguments))
    return engine.run(checks, batch.frame, place, at_once=_CHUNK_ROWS)


def _judge_volumes(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], place: str
) -> dict[str, Finding]:
    """Judge the row counts of all partitions in one call: one row a partition, whose value is its count."""
    checks = [
        Check(bound.name, "expect_column_values_to_be_between", {**arguments, "column": _ROWS})
        for bound in rules
        if bound.scope == "volume" and (arguments := bound.arguments(context, None, place)) is not None
    ]
    counts = pd.DataFrame({_PARTITION: list(batch.days), _ROWS: batch.sizes})
    return {finding.rule: finding for finding in engine.run(checks, counts, place)}


def _judge_whole(
    frame: pd.DataFrame, rules: Sequence[BoundRule], context: Mapping[str, Any], day: date | None, place: str
) -> dict[str, Finding]:
    checks = []
    for bound in rules:
        if bound.scope == "partition" and len(frame):
            arguments = bound.arguments(context, day, place)
            if arguments is not None:
                checks.append(Check(bound.name, bound.rule.type, arguments))
    return {finding.rule: finding for finding in engine.run(checks, frame, place)}


# Outcomes -------------------------------------------------------------------------------------------

_EMPTY = Outcome(
    rule="rows_present",
    severity="warn",
    reason="The catalogue allows this table to be empty; an empty day is still worth a look.",
    expectation="at least one row",
    success=False,
    seen="no rows",
)


def _outcome(
    bound: BoundRule, success: bool | None, seen: str, *, broken: int = 0, sample: Sequence[str] = ()
) -> Outcome:
    return Outcome(
        rule=bound.name,
        severity=bound.severity,
        reason=bound.rule.meta.reason,
        expectation=bound.in_words,
        success=success,
        seen=seen,
        broken=broken,
        sample=tuple(sample),
    )


def _row_outcomes(
    bound: BoundRule, broken: Bools | None, batch: _Batch, context: Mapping[str, Any], place: str
) -> list[Outcome]:
    """Return the outcome of a rule about rows for each partition; ``broken`` None: it was not judged."""
    if broken is None:
        return [_outcome(bound, None, _unjudged(size)) for size in batch.sizes]
    bad = np.flatnonzero(broken)
    counts, samples = batch.counts(bad), batch.samples(bad, _SAMPLE)
    if bound.scope == "rows":
        return [
            _outcome(bound, not count, f"{count} of {size} rows", broken=count, sample=sample)
            for count, size, sample in zip(counts, batch.sizes, samples, strict=True)
        ]
    values = batch.sizes
    if bound.rule.type not in _NULL_RULES:
        values = batch.counts(batch.frame[bound.kwargs["column"]].notna().to_numpy())
    outcomes = []
    for day, count, value, size, sample in zip(
        batch.days.values(), counts, values, batch.sizes, samples, strict=True
    ):
        arguments = bound.arguments(context, day, place)
        if arguments is None:
            outcomes.append(_outcome(bound, None, _unjudged(size)))
            continue
        good = 1 - count / value if value else 1.0
        seen = f"{good:.1%} of {value} values, at least {arguments['mostly']:.1%} expected"
        outcomes.append(_outcome(bound, good >= arguments["mostly"], seen, broken=count, sample=sample))
    return outcomes


def _whole_outcome(
    bound: BoundRule,
    finding: Finding | None,
    frame: pd.DataFrame,
    arguments: Mapping[str, Any],
    hidden: frozenset[str],
) -> Outcome:
    if finding is None:
        return _outcome(bound, None, _unjudged(len(frame)))
    if not hidden.isdisjoint(engine.columns_of(arguments)):
        return _outcome(bound, finding.success, HIDDEN)
    if "value_set" in arguments:
        # Great Expectations reports that sets differ, a person needs to know where.
        seen, wanted = set(frame[arguments["column"]].dropna()), set(arguments["value_set"])
        text = "; ".join(
            f"{len(values)} {what}: {', '.join(map(str, sorted(values)[:_SAMPLE]))}"
            for what, values in (("missing", wanted - seen), ("unexpected", seen - wanted))
            if values
        )
        return _outcome(bound, finding.success, text or f"{len(seen)} values")
    limits = ", ".join(
        f"{name}={value}" for name, value in arguments.items() if name in ("min_value", "max_value")
    )
    return _outcome(
        bound, finding.success, f"{finding.observed} ({limits})" if limits else str(finding.observed)
    )


def _share_outcome(suite: Suite, quarantined: int, rows: int) -> Outcome:
    share = quarantined / rows if rows else 0.0
    return Outcome(
        rule="quarantine_at_most",
        severity="stop",
        reason="A few bad rows are kept aside; when many are bad, the batch is, and its rest would mislead.",
        expectation=f"at most {suite.meta.quarantine_at_most:.0%} of the rows are quarantined",
        success=share <= suite.meta.quarantine_at_most,
        seen=f"{quarantined} of {rows} rows ({share:.1%})",
    )


def _unjudged(rows: int) -> str:
    return "not judged: its parameters are not known yet" if rows else "not judged: no rows"


# What follows from them -----------------------------------------------------------------------------


def _stops(outcomes: Mapping[str, Sequence[Outcome]]) -> list[tuple[str, Outcome]]:
    return [
        (label, outcome)
        for label, judged in outcomes.items()
        for outcome in judged
        if outcome.severity == "stop" and outcome.success is False
    ]


def _stop_if_broken(
    uc: UseCase,
    suite: Suite,
    outcomes: Mapping[str, Sequence[Outcome]],
    reports: Mapping[str, str],
    place: str,
) -> None:
    broken = _stops(outcomes)
    if not broken:
        return
    lines = []
    for label, outcome in broken[:_SAMPLE]:
        rows = f"; such as {'; '.join(outcome.sample)}" if outcome.sample else ""
        lines.append(f"{label}: {outcome.rule}: {outcome.seen}, expected {outcome.expectation}{rows}")
    if len(broken) > _SAMPLE:
        lines.append(f"and {len(broken) - _SAMPLE} more")
    first, worst = broken[0]
    raise DataError(
        "; ".join(lines),
        rule=f"{suite.name}.{worst.rule}: {worst.reason}",
        where=f"{place}, partition {first}",
        cure=f"read {reports[first]}; correct the source and run the partition again, or, if the data are "
        f"right, change the rule in {suite_file(uc, suite.name)}",
    )


def _warnings(outcomes: Mapping[str, Sequence[Outcome]], place: str) -> list[str]:
    lines = [
        f"{label}: {outcome.rule}: {outcome.seen}"
        for label, judged in outcomes.items()
        for outcome in judged
        if outcome.severity == "warn" and outcome.success is False
    ]
    for line in lines:
        log.warning("%s, %s", place, line)
    return lines


def _quarantined(
    batch: _Batch, suite: Suite, rules: Sequence[BoundRule], judged: _Judged, bad: Numbers
) -> pa.Table:
    """Return the bad rows sorted by partition and content, so that the order they came in does not show."""
    judging = [rule for rule in rules if rule.severity == "quarantine" and rule.name in judged.broken]
    parts = [QUARANTINE_SCHEMA.empty_table()]
    for start in range(0, len(bad), _CHUNK_ROWS):
        some = bad[start : start + _CHUNK_ROWS]
        # Few combinations of rules are broken, by many rows each.
        combinations, which = np.unique(
            np.column_stack([judged.broken[rule.name][some] for rule in judging]), axis=0, return_inverse=True
        )
        reasons = [list(compress(judging, combination)) for combination in combinations]
        columns = [
            pa.array(list(batch.days), pa.string()).take(pa.array(batch.labels[some])),
            pa.repeat(suite.name, len(some)),
            pa.array([broken[0].name for broken in reasons], pa.string()).take(pa.array(which)),
            pa.repeat("quarantine", len(some)),
            pa.array(
                [
                    "; ".join(f"{bound.name}: {bound.rule.meta.reason}" for bound in bounds)
                    for bounds in reasons
                ],
                pa.string(),
            ).take(pa.array(which)),
            pa.array(batch.as_json(some), pa.string()),
        ]
        parts.append(pa.table(columns, schema=QUARANTINE_SCHEMA))
    return pa.concat_tables(parts).sort_by(
        [(name, "ascending") for name in ("partition", "row", "rule", "reason")]
    )
