"""A thousand damaged inputs: each is accepted, quarantined or refused in clear words, and no row is lost.

A failure names its seed. To see one again:

    MUTATION_SEED=417 .venv/bin/pytest tests/integration/ingestion/test_mutations.py -k tables
"""

from __future__ import annotations

import json
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from tests.mutations import Given, damaged_file, damaged_table

from nightshift.errors import DataError, NightshiftError
from nightshift.ingestion import land_partitions
from nightshift.lake import raw
from nightshift.lake.hashing import content_hash
from nightshift.lake.raw import RawManifest
from nightshift.quality.quarantine import read_quarantine
from nightshift.quality.rows import from_plain, row_id, to_plain
from nightshift.sources.contract import arrow_schema, check_columns
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

# Files are read by a connector with many rules of its own, tables reach every type of the catalogue.
FILES, TABLES = 440, 560
GROUPS = 10
# What is wrong with an input meets the storage as bytes like any other, so one group of ten runs on S3 too.
RUNS = [*(("file", group) for group in range(GROUPS)), ("s3", 0)]
# Partitions of one lake; with each, its log is longer to read.
PARTITIONS = 20
DAY = date(2013, 7, 2)
# Replays of that day: the connector knows how to give one day under many dates.
REPLAYS = timedelta(days=364)
# What is damaged, which table then reads it, and how often.
DAMAGED = (
    ("weather", "weather", 6),
    ("airlines", "airlines", 7),
    ("flights", "flights", 3),
    ("flights", "schedules", 3),
    ("airports", "schedules", 1),
)


# Seed, what was done, and what lands it.
Case = tuple[int, str, Callable[[], str]]


def seeds(count: int, group: int) -> list[int]:
    """The seeds of one group of tests, or the one asked for."""
    if asked := os.environ.get("MUTATION_SEED"):
        return [int(asked)] if int(asked) % GROUPS == group else []
    return list(range(group, count, GROUPS))


def outcome(uc: UseCase, source: str, table: str, day: date) -> str:
    """Land one damaged partition and check what came of it: ``accepted``, ``quarantined`` or ``refused``."""
    moment = uc.as_of(day + timedelta(days=uc.sources[source].tables[table].lag_days))
    refusal = None
    try:
        (manifest,) = land_partitions(uc, source, table, {day: moment})
    except NightshiftError as error:
        refusal = error
    if refusal is not None:
        assert str(refusal)
        if isinstance(refusal, DataError):
            assert all((refusal.message, refusal.rule, refusal.where, refusal.cure))
        assert raw.versions(uc, source, table, day) == [], "refused, and landed"
        assert read_quarantine(uc, f"raw_{table}", day, day).num_rows == 0, "refused, and quarantined"
        return "refused"
    given = open_connector(uc, source).read(table, day, moment).table
    check_nothing_lost(uc, manifest, check_columns(uc, source, table, given))
    return "quarantined" if manifest.rows_quarantined else "accepted"


def check_nothing_lost(uc: UseCase, manifest: RawManifest, given: pa.Table) -> None:
    """Every row that the source gave is accepted or in quarantine, once, and can be read back from there."""
    accepted = raw.read(manifest)
    entries = read_quarantine(uc, f"raw_{manifest.table}", manifest.partition, manifest.partition)
    kept = [json.loads(row) for row in entries["row"].to_pylist()] if entries.num_rows else []
    assert manifest.rows_in == manifest.rows_accepted + manifest.rows_quarantined == given.num_rows
    assert (manifest.rows_accepted, manifest.rows_quarantined) == (accepted.num_rows, len(kept))
    assert content_hash(accepted, manifest.key_columns, exact=True) == manifest.content_hash
    schema = arrow_schema(uc.sources[manifest.source].tables[manifest.table])
    found = [*to_plain(accepted), *to_plain(from_plain(kept, schema))]
    assert Counter(map(row_id, found)) == Counter(map(row_id, to_plain(given)))


def run(cases: Iterator[Case], record: Callable[[str, object], None]) -> Counter[str]:
    """Run every case; fail with the seed and the traceback of each that ended in none of the three ways."""
    outcomes: Counter[str] = Counter()
    failures = []
    for seed, what, case in cases:
        try:
            outcomes[case()] += 1
        except Exception as error:
            where = "".join(traceback.format_exception(error)[-3:])
            failures.append(f"MUTATION_SEED={seed} ({what}): {error!r}\n{where}")
    for name, count in outcomes.items():
        record(name, count)
    assert not failures, f"{len(failures)} inputs ended in no way that was meant:\n" + "\n".join(failures)
    return outcomes


@pytest.fixture(scope="session")
def one_day(real_files: dict[str, pd.DataFrame]) -> dict[str, bytes]:
    """The files as bytes, cut to one day."""
    return {
        name: (frame[frame["day"] == "2"] if "day" in frame else frame).to_csv(index=False).encode()
        for name, frame in real_files.items()
    }


@pytest.mark.parametrize(("storage", "group"), RUNS)
def test_damaged_files(
    group: int,
    one_day: dict[str, bytes],
    flight_delays: UseCase,
    tmp_path: Path,
    move_to: Callable[[str], None],
    record_property: Callable[[str, object], None],
) -> None:
    chosen = [(file, table) for file, table, weight in DAMAGED for _ in range(weight)]

    def cases() -> Iterator[Case]:
        for number, seed in enumerate(seeds(FILES, group)):
            file, table = chosen[seed // GROUPS % len(chosen)]
            what, name, content = damaged_file(file, one_day[file], seed)
            folder = tmp_path / f"files_{seed}"
            folder.mkdir()
            for other, good in one_day.items():
                if other != file:
                    (folder / f"{other}.csv").write_bytes(good)
            (folder / name).write_bytes(content)
            declared: dict[str, Any] = flight_delays.model_dump()
            declared["sources"]["nycflights13"]["options"]["folder"] = str(folder)
            uc = UseCase.model_validate(declared)
            # A slow table is landed once in each lake, or it would be compared with the input before.
            slow = uc.sources["nycflights13"].tables[table].refresh == "slow"
            move_to(f"{1000 + seed if slow else number // PARTITIONS}")
            day = DAY + number % PARTITIONS * REPLAYS
            yield (
                seed,
                f"{table}: {what}",
                lambda uc=uc, table=table, day=day: outcome(uc, "nycflights13", table, day),
            )

    outcomes = run(cases(), record_property)
    if "MUTATION_SEED" not in os.environ:
        assert set(outcomes) == {"accepted", "quarantined", "refused"}
        assert outcomes.total() == FILES // GROUPS


@pytest.mark.parametrize(("storage", "group"), RUNS)
def test_damaged_tables(
    group: int,
    orders_use_case: UseCase,
    move_to: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(Given, "tables", {})

    def cases() -> Iterator[Case]:
        for number, seed in enumerate(seeds(TABLES, group)):
            move_to(f"{number // PARTITIONS}")
            day = DAY + timedelta(days=number)
            what, Given.tables["orders", day] = damaged_table(day, seed)
            yield seed, what, lambda day=day: outcome(orders_use_case, "shop", "orders", day)

    outcomes = run(cases(), record_property)
    if "MUTATION_SEED" not in os.environ:
        assert set(outcomes) == {"accepted", "quarantined", "refused"}
        assert outcomes.total() == TABLES // GROUPS
