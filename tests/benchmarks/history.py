"""``python -m tests.benchmarks.history``: pages and a night, beside a short history and a long one.

Two weeks of nights follow a bootstrap of six. Then the lake gets what ten years of earlier days would have
left: raw manifests, entries in the logs of its tables, pages of nights. None of those days has a file with
rows, so that whoever reads more than it shows does not take long, but fails.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from statistics import median

from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from nightshift import nights, stages
from nightshift.console import models, monitoring, partitions, predictions, tonight
from nightshift.lake import tables
from nightshift.lake.raw import RawManifest
from nightshift.monitoring.pages.write import nightly_path
from nightshift.partition import days
from nightshift.settings import settings
from nightshift.usecase import UseCase

from .one_process import bootstrapped

THROUGH = date(2013, 2, 11)
NIGHTS = 14
# Half a year before the bootstrap is shown, and read, so the made-up days end before that.
EARLIER = (date(2002, 7, 1), date(2012, 6, 30))
_ROUNDS = 5


def pages(uc: UseCase) -> dict[str, Callable[[], object]]:
    """Return what the pages ask for when they open, by page."""
    last = THROUGH + timedelta(days=NIGHTS)
    first = last - timedelta(days=181)
    entity = tables.read_partitions(uc, "predictions", last, last, [uc.entity])[uc.entity][0].as_py()
    return {
        "Tonight": lambda: tonight.last_night(uc),
        "Data, half a year": lambda: partitions.calendar(uc, first, last),
        "Data, what is stale": lambda: partitions.stale(uc, first, last),
        "Data, one day": lambda: partitions.detail(uc, last),
        "Models": lambda: models.models(uc),
        "Monitoring, four weeks": lambda: monitoring.monitoring(uc, last - timedelta(days=27), last),
        "Prediction": lambda: predictions.find(uc, entity, None),
    }


def measure(uc: UseCase) -> dict[str, float]:
    """Return the seconds that each page takes, in the median of rounds after a first one."""
    found = {}
    for name, ask in pages(uc).items():
        ask()
        taken = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            ask()
            taken.append(time.perf_counter() - began)
        found[name] = median(taken)
    return found


def run_nights(uc: UseCase, first: int, last: int) -> float:
    """Run nights after the bootstrap; return the seconds that one takes, in the median."""
    taken = []
    for offset in range(first, last + 1):
        night, began = THROUGH + timedelta(days=offset), time.perf_counter()
        nights.run(uc, night)
        stages.write_pages(uc, night, night)
        taken.append(time.perf_counter() - began)
    return median(taken)


def age(uc: UseCase) -> None:
    """Give the lake what the days of ``EARLIER`` would have left in it, but for rows."""
    earlier, lake = list(days(*EARLIER)), settings().home / "lake"
    for table in sorted((lake / "raw" / uc.name).glob("*/*")):
        newest = max(table.glob("partition=*/v1.json"))
        manifest = RawManifest.model_validate_json(newest.read_bytes())
        if (table / f"partition={THROUGH}").exists():
            for day in earlier:
                copy = manifest.model_copy(update={"partition": day})
                (folder := table / f"partition={day}").mkdir()
                (folder / "v1.json").write_text(copy.model_dump_json(), encoding="utf-8")
    for layer in tables.layers(uc):
        _age_table(lake / "tables" / uc.name / layer, earlier)
    page = nightly_path(uc, THROUGH + timedelta(days=1))
    for day in earlier:
        shutil.copyfile(page, nightly_path(uc, day))


def _age_table(folder: Path, earlier: list[date]) -> None:
    log = folder / "_delta_log"
    entries = [
        json.loads(line) for file in sorted(log.glob("*.json")) for line in file.read_text().splitlines()
    ]
    added = [entry["add"] for entry in entries if "add" in entry][-1]
    newest = added["partitionValues"]["partition"]
    actions = [
        {
            "add": added
            | {
                "path": added["path"].replace(newest, f"{day}"),
                "partitionValues": added["partitionValues"] | {"partition": f"{day}"},
            }
        }
        for day in earlier
    ]
    version = DeltaTable(str(folder)).version() + 1
    lines = [json.dumps({"commitInfo": {"timestamp": 0, "operation": "WRITE"}}), *map(json.dumps, actions)]
    (log / f"{version:020}.json").write_text("\n".join(lines), encoding="utf-8")
    DeltaTable(str(folder)).create_checkpoint()


def main() -> None:
    """Measure beside a short history and a long one, and print both."""
    logging.disable(logging.WARNING)
    with bootstrapped(THROUGH) as uc:
        short_night = run_nights(uc, 1, NIGHTS)
        short = measure(uc)
        age(uc)
        long = measure(uc)
        long_night = run_nights(uc, NIGHTS + 1, 2 * NIGHTS)
    shown = Table("", "8 weeks", "10 years and 8 weeks")
    for name in short:
        shown.add_row(name, f"{1000 * short[name]:.0f} ms", f"{1000 * long[name]:.0f} ms")
    shown.add_row("A night", f"{short_night:.1f} s", f"{long_night:.1f} s")
    Console(width=110, highlight=False).print(shown)


if __name__ == "__main__":
    main()
