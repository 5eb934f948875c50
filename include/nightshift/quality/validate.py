"""Judging data by a suite: which rows go on, which are kept aside, and what stops the run.

``validate`` takes one partition or many. Rules about rows are judged once for all of them; rules about
volumes, shares and distributions are judged for each partition by itself, so a day gets the same answer
alone or within a month.

Memory is bounded: only columns that the suite reads are turned into a frame, and of those only some whole
partitions at a time. A partition is never cut, since no part of it can say whether its keys are unique.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake.raw import check_conserved
from nightshift.quality import engine
from nightshift.quality.engine import ROW_NUMBER, Check, Finding
from nightshift.quality.reports import Outcome, PartitionReport, write_reports
from nightshift.quality.rows import to_plain
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
# Rows of whole partitions that are judged at once: many enough that a night and a month are one call, few
# enough that the frame stays small beside the rows themselves. docs/validation.md has the figures.
_CHUNK_ROWS = 200_000

_Name = TypeVar("_Name")
Numbers = npt.NDArray[np.int64]
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
    for batch, numbers in _batches(uc, suite, whole, place):
        judged = _judge(batch, rules, context or {}, allow_empty=allow_empty, place=place)
        broken = np.zeros(len(batch.frame), dtype=bool)
        for bound in rules:
            if bound.severity == "quarantine":
                broken |= judged.broken(bound.name)
        for label, rows in batch.members.items():
            judged.outcomes[label].append(_share_outcome(suite, int(broken[rows].sum()), len(rows)))
        reports |= write_reports(
            uc.name,
            suite_name,
            [
                PartitionReport(
                    label=label,
                    rows_in=len(rows),
                    quarantined=int(broken[rows].sum()),
                    outcomes=tuple(judged.outcomes[label]),
                    samples=tuple(batch.as_json(rows[broken[rows]][:_PAGE_SAMPLE])),
                )
                for label, rows in batch.members.items()
            ],
            judged.findings,
        )
        outcomes |= judged.outcomes
        if not _stops(judged.outcomes):
            # Of a batch that stops nothing is kept, and its bad rows may be all there are.
            quarantined.append(_quarantined(batch, suite, rules, judged, np.flatnonzero(broken)))
        bad[numbers] = broken
    _stop_if_broken(uc, suite, outcomes, reports, place)
    return Validated(
        rows_in=data.num_rows,
        accepted=data.filter(pa.array(~bad)),
        quarantined=pa.concat_tables(quarantined),
        warnings=_warnings(outcomes, place),
        reports=reports,
    )


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
    labels: Numbers
    days: dict[str, date | None]


@dataclass(frozen=True)
class _Batch:
    """Some whole partitions: their rows, a frame of the columns that the suite reads, and whose is which."""

    rows: pa.Table
    frame: pd.DataFrame
    members: dict[str, Numbers]
    days: dict[str, date | None]

    def as_json(self, numbers: Numbers) -> list[str]:
        """Return rows as JSON objects; see ``to_plain``."""
        if not len(numbers):
            return []
        chosen = self.rows.take(pa.array(numbers, pa.int64()))
        return [json.dumps(row, ensure_ascii=False) for row in to_plain(chosen)]


def _whole(
    data: pa.Table, partition_column: str | None, partitions: Iterable[date] | None, place: str
) -> _Whole:
    if partition_column is None:
        return _Whole(data, np.zeros(data.num_rows, dtype=np.int64), {_WHOLE: None})
    encoded = data[partition_column].combine_chunks().dictionary_encode(null_encoding="encode")
    found = pc.cast(encoded.dictionary, pa.string()).to_pylist()
    days = _days(found, partitions, place)
    place_of = {label: position for position, label in enumerate(days)}
    labels = np.array([place_of[label] for label in found], dtype=np.int64)[encoded.indices.to_numpy()]
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


def _batches(uc: UseCase, suite: Suite, whole: _Whole, place: str) -> Iterator[tuple[_Batch, Numbers]]:
    """Yield the partitions in groups, and the place of each row of a group among all rows."""
    counts = np.bincount(whole.labels, minlength=len(whole.days))
    sizes = {label: int(count) for label, count in zip(whole.days, counts, strict=True)}
    groups = list(by_size(sizes))
    first = 0
    for group in groups:
        if len(groups) == 1:
            rows, numbers = whole.rows, np.arange(whole.rows.num_rows)
        else:
            numbers = np.flatnonzero((whole.labels >= first) & (whole.labels < first + len(group)))
            rows = whole.rows.take(pa.array(numbers))
        labels = whole.labels[numbers] - first
        yield _batch(uc, suite, rows, labels, {label: whole.days[label] for label in group}, place), numbers
        first += len(group)


def _batch(
    uc: UseCase, suite: Suite, rows: pa.Table, labels: Numbers, days: dict[str, date | None], place: str
) -> _Batch:
    derived = suite.meta.derived
    read = {column for rule in suite.expectations for column in columns_of(rule.kwargs)}
    frame = rows.select([name for name in rows.column_names if name in read]).to_pandas(
        types_mapper={pa.bool_(): pd.BooleanDtype()}.get
    )
    frame[_PARTITION] = pa.array(list(days), pa.string()).take(pa.array(labels)).to_pandas()
    for name in derived:
        frame[name] = _derive(uc, derived[name], rows, frame[_PARTITION], place)
    frame[ROW_NUMBER] = np.arange(rows.num_rows)
    members = {label: np.flatnonzero(labels == number) for number, label in enumerate(days)}
    return _Batch(rows, frame, members, days)


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
    """Outcomes by partition, raw findings for the Data Docs, and which rows break which rule."""

    outcomes: dict[str, list[Outcome]]
    findings: list[Finding]
    row_findings: dict[str, Finding]
    rows: int

    def broken(self, rule: str) -> Bools:
        """Return a mask over all rows; all false where the rule was not judged."""
        mask = np.zeros(self.rows, dtype=bool)
        if rule in self.row_findings:
            mask[self.row_findings[rule].broken] = True
        return mask


def _judge(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], *, allow_empty: bool, place: str
) -> _Judged:
    row_findings = _judge_rows(batch, rules, context, place)
    volumes = _judge_volumes(batch, rules, context, place)
    judged = _Judged({}, [*row_findings.values(), *volumes.values()], row_findings, len(batch.frame))
    broken = {name: judged.broken(name) for name in row_findings}

    for position, (label, members) in enumerate(batch.members.items()):
        if allow_empty and not len(members):
            judged.outcomes[label] = [_EMPTY]
            continue
        wholes = _judge_whole(batch, rules, context, label, place)
        judged.findings.extend(wholes.values())
        outcomes = judged.outcomes.setdefault(label, [])
        for bound in rules:
            if bound.scope == "volume":
                holds = position not in volumes[bound.name].broken if bound.name in volumes else None
                outcomes.append(_outcome(bound, holds, f"{len(members)} rows"))
            elif bound.scope == "partition":
                outcomes.append(
                    _whole_outcome(bound, wholes.get(bound.name), batch, members, context, label, place)
                )
            elif bound.name not in broken:
                outcomes.append(_outcome(bound, None, _unjudged(members)))
            else:
                outcomes.append(
                    _row_outcome(bound, broken[bound.name], batch, members, context, label, place)
                )
    return judged


def _judge_rows(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], place: str
) -> dict[str, Finding]:
    checks = []
    for bound in rules:
        if bound.scope in ("rows", "share") and len(batch.frame):
            arguments = bound.arguments(context, None, place)
            if arguments is not None:
                # The share is taken for each partition afterwards, from the rows that this finds.
                arguments.pop("mostly", None)
                checks.append(Check(bound.name, bound.rule.type, arguments))
    return {finding.rule: finding for finding in engine.run(checks, batch.frame, place)}


def _judge_volumes(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], place: str
) -> dict[str, Finding]:
    """Judge the row counts of all partitions in one call: one row a partition, whose value is its count."""
    checks = [
        Check(bound.name, "expect_column_values_to_be_between", {**arguments, "column": _ROWS})
        for bound in rules
        if bound.scope == "volume" and (arguments := bound.arguments(context, None, place)) is not None
    ]
    counts = pd.DataFrame(
        {
            _PARTITION: list(batch.members),
            _ROWS: [len(members) for members in batch.members.values()],
            ROW_NUMBER: range(len(batch.members)),
        }
    )
    return {finding.rule: finding for finding in engine.run(checks, counts, place)}


def _judge_whole(
    batch: _Batch, rules: Sequence[BoundRule], context: Mapping[str, Any], label: str, place: str
) -> dict[str, Finding]:
    members = batch.members[label]
    checks = []
    for bound in rules:
        if bound.scope == "partition" and len(members):
            arguments = bound.arguments(context, batch.days[label], place)
            if arguments is not None:
                checks.append(Check(bound.name, bound.rule.type, arguments))
    if not checks:
        return {}
    return {finding.rule: finding for finding in engine.run(checks, batch.frame.iloc[members], place)}


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
        expectation=_in_words(bound),
        success=success,
        seen=seen,
        broken=broken,
        sample=tuple(sample),
    )


def _row_outcome(
    bound: BoundRule,
    broken: Bools,
    batch: _Batch,
    members: Numbers,
    context: Mapping[str, Any],
    label: str,
    place: str,
) -> Outcome:
    bad = members[broken[members]]
    sample = batch.as_json(bad[:_SAMPLE])
    if bound.scope == "rows":
        return _outcome(
            bound, not len(bad), f"{len(bad)} of {len(members)} rows", broken=len(bad), sample=sample
        )
    arguments = bound.arguments(context, batch.days[label], place)
    if arguments is None:
        return _outcome(bound, None, _unjudged(members))
    values = len(members)
    if bound.rule.type not in _NULL_RULES:
        values = int(batch.frame[arguments["column"]].iloc[members].notna().sum())
    good = 1 - len(bad) / values if values else 1.0
    return _outcome(
        bound,
        good >= arguments["mostly"],
        f"{good:.1%} of {values} values, at least {arguments['mostly']:.1%} expected",
        broken=len(bad),
        sample=sample,
    )


def _whole_outcome(
    bound: BoundRule,
    finding: Finding | None,
    batch: _Batch,
    members: Numbers,
    context: Mapping[str, Any],
    label: str,
    place: str,
) -> Outcome:
    if finding is None:
        return _outcome(bound, None, _unjudged(members))
    arguments = bound.arguments(context, batch.days[label], place) or {}
    if "value_set" in arguments:
        # Great Expectations reports that sets differ, a person needs to know where.
        seen, wanted = (
            set(batch.frame[arguments["column"]].iloc[members].dropna()),
            set(arguments["value_set"]),
        )
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


def _unjudged(members: Numbers) -> str:
    return "not judged: its parameters are not known yet" if len(members) else "not judged: no rows"


def _in_words(bound: BoundRule) -> str:
    arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in bound.kwargs.items())
    return f"{bound.rule.type.removeprefix('expect_').replace('_', ' ')} ({arguments})"


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
    by_rule = [(bound, judged.broken(bound.name)) for bound in rules if bound.severity == "quarantine"]
    labels = batch.frame[_PARTITION].iloc[bad]
    entries = []
    for number, label, row in zip(bad, labels, batch.as_json(bad), strict=True):
        reasons = [bound for bound, broken in by_rule if broken[number]]
        entries.append(
            {
                "partition": label,
                "suite": suite.name,
                "rule": reasons[0].name,
                "severity": "quarantine",
                "reason": "; ".join(f"{bound.name}: {bound.rule.meta.reason}" for bound in reasons),
                "row": row,
            }
        )
    entries.sort(key=lambda entry: (entry["partition"], entry["row"], entry["rule"]))
    return pa.Table.from_pylist(entries, schema=QUARANTINE_SCHEMA)
