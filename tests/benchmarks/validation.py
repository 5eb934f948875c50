"""``python -m tests.benchmarks.validation``: what validating costs, in seconds and memory, each size in a
fresh process. The figures stand in docs/validation.md.

Rows are the real flights, years after 2013 included, which replay them: as many days as make up the rows.
The last size takes 10 GB and the better part of an hour; ``python -m tests.benchmarks.validation DAYS days``
measures one size alone, and ``DAYS one`` as a single partition.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from nightshift.errors import DataError
from nightshift.partition import days
from nightshift.quality.validate import validate
from nightshift.sources.registry import open_connector
from nightshift.usecase import load_usecase

from .harness import environment, peak_mb, start_of_peak

FIRST = date(2013, 1, 1)
ONE_PARTITION = {"half a million rows": 545, "a million rows": 1090}
SIZES = {"one day": 1, "one month": 31} | ONE_PARTITION | {"thirty million rows": 32_500}


def main() -> None:
    """Measure sizes as a single partition, of which nearly all rows are bad, and every size over its days."""
    console = Console(width=110, highlight=False)
    for name, count in ONE_PARTITION.items():
        console.print(f"{name} in one partition", _fresh(count, "one"))
    for name, count in SIZES.items():
        console.print(name, _fresh(count, "days"))


def _fresh(count: int, partitions: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.validation", str(count), partitions]
    measured: dict[str, float] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return measured


def _measure(count: int, partitions: str) -> dict[str, float]:
    logging.disable(logging.WARNING)
    uc = load_usecase("flight_delays")
    (source,) = uc.sources
    last = FIRST + timedelta(days=count - 1)
    known = datetime.combine(last + timedelta(days=3), datetime.min.time(), UTC)
    extracts = open_connector(uc, source).read_range("flights", FIRST, last, lambda _: known)
    rows = pa.concat_tables(
        extracts[day].table.append_column(
            "partition",
            pa.repeat((FIRST if partitions == "one" else day).isoformat(), extracts[day].table.num_rows),
        )
        for day in days(FIRST, last)
    )
    # Great Expectations takes seconds to import, which a process pays once.
    _validated(rows.slice(0, 1000))
    # Reading the files took memory too.
    start_of_peak()
    before = peak_mb()
    start, busy = time.perf_counter(), time.process_time()
    _validated(rows)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "rows": rows.num_rows,
        "rows_mb": round(rows.nbytes / 1e6),
        "seconds": round(seconds, 2),
        "processor_seconds": round(busy, 2),
        "memory_mb": round(peak_mb() - before),
    }


def _validated(rows: pa.Table) -> None:
    try:
        validate(
            load_usecase("flight_delays"), "raw_flights", rows, partition_column="partition", where="bench"
        )
    except DataError as error:
        # Many days in one partition are wrong by these rules, which is said only after all were judged.
        if "volume" not in error.rule and "on_its_day" not in error.rule and "at_most" not in error.rule:
            raise


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder, environment(Path(folder)):
            sys.stdout.write(json.dumps(_measure(int(sys.argv[1]), sys.argv[2])) + "\n")
    else:
        main()
