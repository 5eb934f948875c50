"""Extract, check, validate, quarantine, land: the only way into the raw layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.ingestion.fixes import with_fixes
from nightshift.ingestion.suites import suite_of
from nightshift.lake import raw
from nightshift.lake.hashing import content_hash
from nightshift.lake.protection import protect
from nightshift.lake.raw import RawManifest
from nightshift.partition import days, spans
from nightshift.quality.quarantine import clear, kept, quarantine, rows_hash
from nightshift.quality.validate import validate
from nightshift.sources.base import Extract
from nightshift.sources.captured import CapturedConnector
from nightshift.sources.contract import check_columns, check_not_empty
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

_PARTITION = "partition"


@dataclass(frozen=True)
class Judged:
    """One partition after validation, about to be landed."""

    accepted: pa.Table
    quarantined: pa.Table
    query: str
    fixed: Mapping[str, list[str]]

    @property
    def rows_in(self) -> int:
        """Rows before validation."""
        return len(self.accepted) + len(self.quarantined)


def land_partitions(
    uc: UseCase, source: str, table: str, wanted: Mapping[date, datetime]
) -> list[RawManifest]:
    """Land partitions of one table, each as it was known at its moment; all are judged before any is landed.

    Landing again what is there changes nothing. Landing as of an earlier moment than the current version is
    recorded, and neither that version nor its quarantined rows change. A table that changes slowly is landed
    only on days on which it differs from the latest snapshot before.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        wanted: Partitions, and the moment (aware) as of which each is read.

    Returns:
        The manifests that now stand for the wanted days, oldest first, each once.

    Raises:
        DataError: A partition breaks the catalogue or a batch-level rule; nothing was landed then.
        TransientError: The source or the lake cannot be reached, or other writers kept winning.
    """
    if not wanted:
        return []
    extracts = _extract(uc, source, table, wanted)
    if uc.sources[source].tables[table].refresh == "slow":
        return _land_snapshots(uc, source, table, extracts, wanted)
    judged = judge(uc, source, table, extracts)
    return land_judged(uc, source, table, judged, wanted)


def land_good(
    uc: UseCase, source: str, table: str, wanted: Mapping[date, datetime]
) -> tuple[list[RawManifest], dict[date, DataError]]:
    """Land of a range what can be landed, and find the days that cannot: one of them stops no other.

    A range without a bad day costs what ``land_partitions`` does. A table that changes slowly is landed whole
    or not at all: what it said on a bad day would be taken for what it said the day before.

    Args:
        uc: The use case.
        source: A source of its catalogue.
        table: A table of that source.
        wanted: Partitions, and the moment (aware) as of which each is read.

    Returns:
        The manifests that now stand, oldest first, and the error of each day that was not landed.

    Raises:
        DataError: The table changes slowly, and a day of it is bad.
        TransientError: As ``land_partitions``.
    """
    try:
        return land_partitions(uc, source, table, wanted), {}
    except DataError as error:
        if uc.sources[source].tables[table].refresh == "slow":
            raise
        if len(wanted) == 1:
            return [], dict.fromkeys(wanted, error)
    ordered = sorted(wanted)
    middle = len(ordered) // 2
    manifests: list[RawManifest] = []
    bad: dict[date, DataError] = {}
    for half in (ordered[:middle], ordered[middle:]):
        landed, refused = land_good(uc, source, table, {day: wanted[day] for day in half})
        manifests += landed
        bad |= refused
    return manifests, bad


def judge(uc: UseCase, source: str, table: str, extracts: Mapping[date, Extract]) -> dict[date, Judged]:
    """Check, protect, fix and validate extracted partitions together, without writing anything but reports.

    Raises:
        DataError: A partition breaks the catalogue or a batch-level rule, or there is no key to protect
            personal columns with.
    """
    where = f"raw/{source}/{table}"
    catalogue = uc.sources[source].tables[table]
    given = {day: _taken(uc, source, table, extract, day) for day, extract in extracts.items()}
    fixed = with_fixes(uc, source, table, given)
    checked = {day: part for day, (part, _) in fixed.items()}
    together = pa.concat_tables(
        part.append_column(_PARTITION, pa.repeat(pa.scalar(day.isoformat()), part.num_rows))
        for day, part in checked.items()
    )
    validated = validate(
        uc,
        suite_of(table),
        together,
        partition_column=_PARTITION,
        where=where,
        partitions=checked,
        allow_empty=catalogue.allow_empty,
    )
    judged = {}
    for day, part in checked.items():
        # Suites rule volumes; a suite that forgot to must not let an empty day through.
        check_not_empty(uc, source, table, part, partition=day)
        accepted, quarantined = (
            rows.filter(pc.equal(rows[_PARTITION], day.isoformat()))
            for rows in (validated.accepted, validated.quarantined)
        )
        raw.check_conserved(
            given[day].num_rows,
            accepted.num_rows,
            quarantined.num_rows,
            f"{uc.name}/{where}, partition {day}",
        )
        judged[day] = Judged(
            accepted.drop_columns([_PARTITION]), quarantined, extracts[day].query, fixed[day][1]
        )
    return judged


def land_judged(
    uc: UseCase,
    source: str,
    table: str,
    judged: Mapping[date, Judged],
    wanted: Mapping[date, datetime],
    *,
    quarantine_last: bool = False,
) -> list[RawManifest]:
    """Quarantine the bad rows of each partition and land the good ones; see ``land_partitions``.

    Args:
        quarantine_last: The rows come from the quarantine, and leave it only when they are landed.
    """
    landing = sorted(judged)
    suite = suite_of(table)
    before = raw.current_many(uc, source, table, landing[0], landing[-1])
    aside = kept(uc, suite)
    written: dict[date, str | None] = {}
    manifests = []
    for day in landing:
        # The quarantine is of the current version, never of an older one.
        counts = day not in before or before[day].as_of <= wanted[day]
        bad = judged[day].quarantined
        # First the quarantine, then the manifest that makes the version count: whoever is killed in between
        # has landed nothing, and runs again.
        if counts and not quarantine_last:
            written[day] = quarantine(uc, suite, day, bad) if bad.num_rows or day in aside else None
        manifests.append(
            raw.land(
                uc,
                source,
                table,
                day,
                judged[day].accepted,
                rows_in=judged[day].rows_in,
                rows_quarantined=bad.num_rows,
                as_of=wanted[day],
                query=judged[day].query,
                quarantine_hash=rows_hash(bad),
                fixed=judged[day].fixed,
            )
        )
        if counts and quarantine_last:
            written[day] = quarantine(uc, suite, day, bad)
    _settle(uc, source, table, written, {day: wanted[day] for day in landing})
    return manifests


def _settle(
    uc: UseCase, source: str, table: str, written: Mapping[date, str | None], wanted: Mapping[date, datetime]
) -> None:
    """Make sure that the quarantine is the current version's, whichever nights landed beside this one.

    Two nights may land one partition at once (the day and its correction), and the quarantine written last
    may be the older night's. Both look afterwards, and the one that sees it lands the current version again.
    The older night may have been killed before it could look: when it runs again the newer version stands,
    and it lands that one again wherever there is a quarantine that could be wrong.
    """
    standing = raw.current_many(uc, source, table, min(wanted), max(wanted))
    stored = kept(uc, suite_of(table))
    again = {}
    for day, moment in wanted.items():
        if day in written:
            wrong = standing[day].as_of > moment or stored.get(day) != written[day]
        else:
            wrong = bool(standing[day].rows_quarantined) or day in stored
        if wrong:
            again[day] = max(standing[day].as_of, moment)
    if again:
        log.warning("%s.%s: another run landed %s too; landing it again", source, table, sorted(again))
        land_partitions(uc, source, table, again)


def _land_snapshots(
    uc: UseCase,
    source: str,
    table: str,
    extracts: Mapping[date, Extract],
    wanted: Mapping[date, datetime],
) -> list[RawManifest]:
    """Land a slow table on the days it differs from the snapshot before; equal neighbours are judged once."""
    key = uc.sources[source].tables[table].key
    suite = suite_of(table)
    judged: dict[date, Judged] = {}
    manifests: dict[tuple[date, int], RawManifest] = {}
    aside = kept(uc, suite)
    snapshots = raw.current_many(uc, source, table)
    given: dict[date, str] = {}
    for day, first in _equal_neighbours(extracts).items():
        standing = snapshots.get(max((before for before in snapshots if before <= day), default=day))
        if day in aside and (standing is None or standing.partition < day or not standing.rows_quarantined):
            # Of a night that was killed before its manifest counted.
            clear(uc, suite, day)
        if standing is not None and not standing.rows_quarantined and not standing.fixed:
            # Nothing new and nothing bad: most nights end here, without importing Great Expectations.
            if first not in given:
                rows = _taken(uc, source, table, extracts[first], first)
                given[first] = content_hash(rows, key, exact=True)
            if given[first] == standing.content_hash:
                manifests[standing.partition, standing.version] = standing
                continue
        if first not in judged:
            judged[first] = judge(uc, source, table, {first: extracts[first]})[first]
        part = judged[first]
        if (
            standing is None
            or standing.partition == day
            or standing.quarantine_hash != rows_hash(part.quarantined)
            or standing.content_hash != content_hash(part.accepted, key, exact=True)
            or standing.fixed != part.fixed
        ):
            if standing is not None and standing.content_hash != content_hash(part.accepted, key, exact=True):
                _keep_what_later_nights_saw(uc, source, table, day, extracts[first])
            standing = land_judged(uc, source, table, {day: _on_day(part, day)}, {day: wanted[day]})[0]
            snapshots = raw.current_many(uc, source, table)
        manifests[standing.partition, standing.version] = standing
    return list(manifests.values())


def _keep_what_later_nights_saw(uc: UseCase, source: str, table: str, day: date, extract: Extract) -> None:
    """Land every change after ``day``, on which ``extract`` is about to land, that later nights saw.

    A later night that found what was in force before ``day`` landed nothing, and would now seem to have found
    ``extract``. The latest change lands first and ``day`` itself last, so that whoever is killed in between
    leaves the days before what has landed to be looked at again.
    """
    later = _days_after(uc, source, table, day)
    if not later:
        return
    lag = timedelta(days=uc.sources[source].tables[table].lag_days)
    wanted = {after: uc.as_of(after + lag) for after in later}
    extracts = _extract(uc, source, table, wanted)
    seen = [extract, *(extracts[after] for after in later)]
    changes = [
        after
        for before, after in zip(seen, later, strict=False)
        if not extracts[after].table.equals(before.table)
    ]
    for after in reversed(changes):
        try:
            judged = judge(uc, source, table, {after: extracts[after]})
        except DataError as error:
            # Its own night ended so too, and landed nothing.
            log.warning("%s.%s: %s is left as it is: %s", source, table, after, error.message)
        else:
            land_judged(uc, source, table, judged, {after: wanted[after]})


def _days_after(uc: UseCase, source: str, table: str, day: date) -> list[date]:
    """Return the days after ``day`` whose nights have been, up to the next snapshot of a slow table."""
    newest = [
        snapshot.partition + timedelta(days=declared.lag_days)
        for of_source, name, declared in uc.tables()
        if (snapshot := raw.newest_snapshot(uc, of_source, name, date.max))
    ]
    lag = timedelta(days=uc.sources[source].tables[table].lag_days)
    snapshots = raw.current_many(uc, source, table, day + timedelta(days=1))
    last = min([max(newest) - lag, *(snapshot - timedelta(days=1) for snapshot in snapshots)])
    return list(days(day + timedelta(days=1), last))


def _equal_neighbours(extracts: Mapping[date, Extract]) -> dict[date, date]:
    """Return for each day, oldest first, the first of the run of days whose extracts are equal."""
    first_of: dict[date, date] = {}
    first = min(extracts)
    for day in sorted(extracts):
        if not extracts[day].table.equals(extracts[first].table):
            first = day
        first_of[day] = first
    return first_of


def _taken(uc: UseCase, source: str, table: str, extract: Extract, day: date) -> pa.Table:
    """Return rows as they may be kept: in the catalogue's columns, what is personal protected."""
    rows = check_columns(uc, source, table, extract.table, partition=day)
    return protect(uc, source, table, rows)


def _on_day(part: Judged, day: date) -> Judged:
    """Return ``part`` with its quarantined rows named by ``day``."""
    rows = part.quarantined
    position = rows.schema.get_field_index(_PARTITION)
    labels = pa.repeat(pa.scalar(day.isoformat()), rows.num_rows)
    return replace(part, quarantined=rows.set_column(position, _PARTITION, labels))


def _extract(uc: UseCase, source: str, table: str, wanted: Mapping[date, datetime]) -> dict[date, Extract]:
    connector = open_connector(uc, source)
    if isinstance(connector, CapturedConnector):
        connector.capture(table, max(wanted.values()))
    extracts: dict[date, Extract] = {}
    for start, end in spans(wanted):
        extracts |= connector.read_range(table, start, end, wanted.__getitem__)
    return extracts
