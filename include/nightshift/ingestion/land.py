"""Extract, check, validate, quarantine, land: the only way into the raw layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import raw
from nightshift.lake.hashing import content_hash
from nightshift.lake.raw import RawManifest
from nightshift.partition import spans
from nightshift.quality.quarantine import kept, quarantine
from nightshift.quality.validate import check_conserved, validate
from nightshift.sources.base import Extract
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


def judge(uc: UseCase, source: str, table: str, extracts: Mapping[date, Extract]) -> dict[date, Judged]:
    """Check and validate extracted partitions together, without writing anything but reports.

    Raises:
        DataError: A partition breaks the catalogue or a batch-level rule.
    """
    where = f"raw/{source}/{table}"
    catalogue = uc.sources[source].tables[table]
    checked = {
        day: check_columns(uc, source, table, extract.table, partition=day)
        for day, extract in extracts.items()
    }
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
        check_conserved(
            part.num_rows, accepted.num_rows, quarantined.num_rows, f"{uc.name}/{where}, partition {day}"
        )
        judged[day] = Judged(accepted.drop_columns([_PARTITION]), quarantined, extracts[day].query)
    return judged


def land_judged(
    uc: UseCase, source: str, table: str, judged: Mapping[date, Judged], wanted: Mapping[date, datetime]
) -> list[RawManifest]:
    """Quarantine the bad rows of each partition, then land the good ones; see ``land_partitions``."""
    days = sorted(judged)
    suite = suite_of(table)
    before = raw.current_many(uc, source, table, days[0], days[-1])
    written: dict[date, str | None] = {}
    manifests = []
    for day in days:
        # First the quarantine, then the manifest that makes the version count: whoever is killed in between
        # has landed nothing, and runs again. The quarantine is of the current version, never of an older one.
        if day not in before or before[day].as_of <= wanted[day]:
            written[day] = quarantine(uc, suite, day, judged[day].quarantined)
        manifests.append(
            raw.land(
                uc,
                source,
                table,
                day,
                judged[day].accepted,
                rows_in=judged[day].rows_in,
                rows_quarantined=judged[day].quarantined.num_rows,
                as_of=wanted[day],
                query=judged[day].query,
            )
        )
    _settle(uc, source, table, written, wanted)
    return manifests


def suite_of(table: str) -> str:
    """Return the name of the suite that judges a raw table, and of what it quarantines."""
    return f"raw_{table}"


def _settle(
    uc: UseCase, source: str, table: str, written: Mapping[date, str | None], wanted: Mapping[date, datetime]
) -> None:
    """Make sure that the quarantine is the current version's, even if another night landed beside this one.

    Two nights may land one partition at once (the day and its correction), and the quarantine written last
    may be the older night's. Both look afterwards, and the one that sees it lands the current version again.
    """
    if not written:
        return
    standing = raw.current_many(uc, source, table, min(written), max(written))
    stored = kept(uc, suite_of(table))
    again = {
        day: max(standing[day].as_of, wanted[day])
        for day, content in written.items()
        if standing[day].as_of > wanted[day] or stored.get(day) != content
    }
    if again:
        log.warning(
            "%s.%s: another run landed %s at the same time; landing again", source, table, sorted(again)
        )
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
    judged: dict[date, Judged] = {}
    manifests: dict[tuple[date, int], RawManifest] = {}
    for day, first in _equal_neighbours(extracts).items():
        standing = raw.newest_snapshot(uc, source, table, day)
        if standing is not None and not standing.rows_quarantined:
            # Nothing new and nothing bad: most nights end here, without importing Great Expectations.
            given = check_columns(uc, source, table, extracts[first].table, partition=day)
            if content_hash(given, key) == standing.content_hash:
                manifests[standing.partition, standing.version] = standing
                continue
        if first not in judged:
            judged[first] = judge(uc, source, table, {first: extracts[first]})[first]
        part = judged[first]
        if (
            standing is None
            or standing.partition == day
            or standing.rows_quarantined != part.quarantined.num_rows
            or standing.content_hash != content_hash(part.accepted, key)
        ):
            standing = land_judged(uc, source, table, {day: _on_day(part, day)}, {day: wanted[day]})[0]
        manifests[standing.partition, standing.version] = standing
    return list(manifests.values())


def _equal_neighbours(extracts: Mapping[date, Extract]) -> dict[date, date]:
    """Return for each day, oldest first, the first of the run of days whose extracts are equal."""
    first_of: dict[date, date] = {}
    first = min(extracts)
    for day in sorted(extracts):
        if not extracts[day].table.equals(extracts[first].table):
            first = day
        first_of[day] = first
    return first_of


def _on_day(part: Judged, day: date) -> Judged:
    """Return ``part`` with its quarantined rows named by ``day``."""
    rows = part.quarantined
    position = rows.schema.get_field_index(_PARTITION)
    labels = pa.repeat(pa.scalar(day.isoformat()), rows.num_rows)
    return Judged(part.accepted, rows.set_column(position, _PARTITION, labels), part.query)


def _extract(uc: UseCase, source: str, table: str, wanted: Mapping[date, datetime]) -> dict[date, Extract]:
    connector = open_connector(uc, source)
    extracts: dict[date, Extract] = {}
    for start, end in spans(wanted):
        extracts |= connector.read_range(table, start, end, wanted.__getitem__)
    return extracts
