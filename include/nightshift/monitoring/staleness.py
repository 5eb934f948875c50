"""What rests on older versions than those that count now, from raw to observed quality.

A published partition is *stale* when building it again could give something else: a raw partition that it
read has been corrected since, or a partition that it was made from was published anew, or is stale itself.
A correction that only adds what arrived later than the partition's night changes nothing for it, and makes
nothing stale: each night lands such rows. Predictions are stale, too, when another version made them than is
in force on their day by the deployment log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import lineage, raw, tables
from nightshift.lake.lineage import Build
from nightshift.lake.raw import RawManifest
from nightshift.monitoring import drift, truth
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.usecase import Table, UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.load import partitions_read

_ALWAYS = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Stale:
    """One partition that rests on older versions, and why, in words."""

    layer: str
    partition: date
    because: str


@dataclass
class _Raw:
    """What counts now in one raw table."""

    source: str
    name: str
    table: Table
    current: dict[date, RawManifest]
    # By partition, old and new content: the first moment at which somebody could see them differ.
    differences: dict[tuple[date, str, str], datetime] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.source}.{self.name}"


def find_stale(uc: UseCase, start: date = date.min, end: date = date.max) -> list[Stale]:
    """Return what is stale from ``start`` to ``end``, layer by layer in the order of the loop."""
    found: dict[str, dict[date, str]] = {}
    versions = {
        layer: {day: v for day, v in tables.partition_versions(uc, layer).items() if start <= day <= end}
        for layer in ("features", "labels", "predictions", drift.LAYER, truth.OBSERVED)
    }
    contents = {
        layer: {day: v.content_hash for day, v in of_layer.items()} for layer, of_layer in versions.items()
    }
    sources = _raw_tables(uc, start, end)
    relations = {"features": uc.features.relation, "labels": uc.label.relation}
    built = {layer: relation for layer, relation in relations.items() if contents[layer]}
    read = dbt.tables_read(uc, *built.values()) if built else {}
    for layer, relation in relations.items():
        rests_on = [raw for raw in sources if raw.name in read.get(relation, ())]
        found[layer] = dict(_stale_builds(uc, layer, contents[layer], rests_on))
    scored = tables.constants(uc, "predictions", start, end, ["feature_version"])
    found["predictions"] = _contradicted(uc, start, end) | _stale_by_input(
        {day: {"features": row["feature_version"]} for day, row in scored.items()}, contents, found
    )
    checked = drift.results(uc, start, end)
    found[drift.LAYER] = _stale_by_input(
        {
            day: {"features": result.features_hash, "predictions": result.predictions_hash}
            for day, result in checked.items()
        },
        contents,
        found,
    )
    found[drift.LAYER] = drift.outdated(uc, checked) | found[drift.LAYER]
    found[truth.OBSERVED] = _stale_by_input(
        {
            day: {"predictions": predictions, "labels": labels}
            for day, (predictions, labels) in truth.observed_inputs(uc, start, end).items()
        },
        contents,
        found,
    )
    return [
        Stale(layer, day, because)
        for layer, of_layer in found.items()
        for day, because in sorted(of_layer.items())
    ]


def nights(uc: UseCase, stale: Sequence[Stale]) -> dict[str, list[date]]:
    """Return the nights that have to run again to mend ``stale``, oldest first.

    Returns:
        By what has to be done: ``features`` (labels too), ``predictions``, ``drift`` and ``truth``. Labels
        and observed quality of a day come with the night that brings its truth.
    """
    work = {
        "features": "features",
        "labels": "features",
        "predictions": "predictions",
        drift.LAYER: "drift",
        truth.OBSERVED: "truth",
    }
    wanted: dict[str, set[date]] = {"features": set(), "predictions": set(), "drift": set(), "truth": set()}
    for item in stale:
        wanted[work[item.layer]].add(night_of(uc, item))
    return {name: sorted(of_name) for name, of_name in wanted.items()}


def night_of(uc: UseCase, item: Stale) -> date:
    """Return the night that has to run again to mend a partition; that of a label brings its truth."""
    later = item.layer in ("labels", truth.OBSERVED)
    return item.partition + timedelta(days=uc.label.lag_days if later else 0)


# What dbt built ---------------------------------------------------------------------------------------


def _raw_tables(uc: UseCase, start: date, end: date) -> list[_Raw]:
    """Return what counts now in each raw table, of what the days ``start`` to ``end`` may have read."""
    look_back = timedelta(days=uc.features.lookback_days)
    first = max(start, uc.history_start + look_back) - look_back
    tables_read = []
    for source, name, table in uc.tables():
        since = first if table.refresh == "daily" else None
        tables_read.append(_Raw(source, name, table, raw.current_many(uc, source, name, since, end)))
    return tables_read


def _stale_builds(
    uc: UseCase, layer: str, contents: Mapping[date, str], sources: Sequence[_Raw]
) -> Iterator[tuple[date, str]]:
    known = lineage.build_ids(uc, layer)
    behind = {day: known.get((day, content), []) for day, content in contents.items()}
    builds = lineage.read_builds(uc, (identity for of_day in behind.values() for identity in of_day))
    for day, identities in behind.items():
        reasons: list[str] = []
        for build in (builds[identity] for identity in identities if identity in builds):
            reason = _why_older(uc, layer, day, build, sources)
            if reason is None:
                break
            reasons.append(reason)
        else:
            yield day, reasons[-1] if reasons else "what it was built from is not known"


def _why_older(uc: UseCase, layer: str, day: date, build: Build, sources: Sequence[_Raw]) -> str | None:
    """Return what the partition read in another version than the one that counts now; None when nothing."""
    # A label is of its own day and takes every correction; a feature knows what its night knew.
    seen_by = _NEVER if layer == "labels" else uc.as_of(day)
    for source in sources:
        built = build.raw.get(source.title, {})
        for partition in _partitions(uc, layer, day, source):
            now = source.current.get(partition)
            if now is None:
                continue
            then = built.get(partition)
            if then is None:
                return f"{source.title} {partition} version {now.version} was not there"
            if then.content_hash == now.content_hash:
                continue
            if _first_difference(uc, source, partition, then.content_hash, now.content_hash) <= seen_by:
                return f"{source.title} {partition} was version {then.version}, is {now.version}"
    return None


def _partitions(uc: UseCase, layer: str, day: date, source: _Raw) -> list[date]:
    if source.table.refresh == "slow":
        in_force = [snapshot for snapshot in source.current if snapshot <= day]
        return in_force[-1:]
    if layer == "labels":
        return [day]
    return list(days(*partitions_read(uc, source.table, day, day)))


def _first_difference(uc: UseCase, source: _Raw, partition: date, old: str, new: str) -> datetime:
    """Return the first moment at which two contents of a raw partition differ, by when rows became known."""
    key = (partition, old, new)
    if key not in source.differences:
        source.differences[key] = _compare(
            source.table,
            raw.read_content(uc, source.source, source.name, partition, old),
            raw.read_content(uc, source.source, source.name, partition, new),
        )
    return source.differences[key]


def _compare(table: Table, old: pa.Table | None, new: pa.Table | None) -> datetime:
    known_at = table.available_at
    if known_at is None or old is None or new is None:
        return _ALWAYS
    # Landed before the catalogue declared the column: nobody knows since when its rows were known.
    if not all(known_at in rows.column_names for rows in (old, new)):
        return _ALWAYS
    both = pa.concat_tables([old, new], promote_options="permissive")
    counted = both.group_by(both.column_names).aggregate([([], "count_all")])
    only_in_one = counted.filter(pc.equal(counted["count_all"], 1))[known_at]
    if only_in_one.null_count:
        return _ALWAYS
    return pc.min(only_in_one).as_py() or _NEVER


def _contradicted(uc: UseCase, start: date, end: date) -> dict[date, str]:
    return {
        day: f"version {named} scored it, and version {in_force} is in force by the deployment log"
        for day, (named, in_force) in deployments.contradicted(uc, start, end).items()
        if in_force
    }


# What was made from published partitions ----------------------------------------------------------------


def _stale_by_input(
    used: Mapping[date, Mapping[str, str]],
    contents: Mapping[str, Mapping[date, str]],
    found: Mapping[str, Mapping[date, str]],
) -> dict[date, str]:
    stale = {}
    for day, inputs in used.items():
        for layer, content in inputs.items():
            if day in contents[layer] and contents[layer][day] != content:
                stale[day] = f"{layer} of the day were published anew"
            elif day in found[layer]:
                stale[day] = f"{layer} of the day are stale"
            if day in stale:
                break
    return stale
