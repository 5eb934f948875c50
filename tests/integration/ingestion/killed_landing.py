"""Land two days of weather, killed with SIGKILL at each write in turn, then again; print what is left.

The parent only imports: each landing runs in a forked child of its own, so that the seconds of imports are
paid once and no thread of the storage engine is alive when a child is forked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from nightshift.ingestion import land_partitions
from nightshift.lake import raw, store, tables
from nightshift.quality.engine import great_expectations
from nightshift.quality.quarantine import kept, read_quarantine
from nightshift.settings import settings
from nightshift.usecase import load_usecase

DAYS = [date(2013, 2, 11), date(2013, 2, 12)]


def land() -> None:
    uc = load_usecase("flight_delays")
    land_partitions(uc, "nycflights13", "weather", {day: uc.as_of(day + timedelta(days=1)) for day in DAYS})


def left() -> str:
    uc = load_usecase("flight_delays")
    manifests = [m for day in DAYS for m in raw.versions(uc, "nycflights13", "weather", day)]
    rows = read_quarantine(uc, "raw_weather", *DAYS).to_pylist()
    counted = [[str(day), sum(row["partition"] == day for row in rows)] for day in DAYS]
    return json.dumps(
        {
            "raw": [m.model_dump(mode="json", exclude={"extracted_at"}) for m in manifests],
            "readable": [raw.read(m).num_rows for m in manifests],
            "kept": {str(day): digest for day, digest in kept(uc, "raw_weather").items()},
            "quarantined": [entry for entry in counted if entry[1]],
        },
        sort_keys=True,
    )


def kill_at(point: int) -> None:
    """Count the moments before and after each write into the lake, and die at the one asked for."""
    passed = 0

    def step() -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any], *, only_lake: bool = False) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            counts = not only_lake or f"{settings().home}/lake/" in str(arguments[1])
            if counts:
                step()
            result = call(*arguments, **options)
            if counts:
                step()
            return result

        return wrapped

    store.os.replace = around(os.replace, only_lake=True)
    store.os.link = around(os.link, only_lake=True)
    tables.write_deltalake = around(tables.write_deltalake)
    DeltaTable.create = around(DeltaTable.create)


def in_child(home: Path, work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child with its own state folder; return how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        os.environ["NIGHTSHIFT_HOME"] = str(home)
        settings.cache_clear()
        work()
        sys.stdout.flush()
    except BaseException as error:
        sys.stderr.write(repr(error))
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main(folder: Path) -> None:
    great_expectations()

    def undisturbed() -> None:
        land()
        sys.stdout.write(left() + "\n")

    if in_child(folder / "undisturbed", undisturbed):
        sys.exit("the undisturbed run failed")
    for point in range(1, 100):
        home = folder / f"killed_{point}"

        def killed(point: int = point) -> None:
            kill_at(point)
            land()

        status = in_child(home, killed)
        if status == 0:
            return
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"point {point} ended with status {status} instead of being killed")
        if in_child(home, undisturbed):
            sys.exit(f"the run after point {point} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
