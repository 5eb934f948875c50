"""``python -m tests.benchmarks``: measure, print, and write ``benchmarks.json`` and ``docs/benchmarks.md``.

``--quick`` runs one counted round on small inputs, checks that results are equal, and writes nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from . import cluster, drift, fanout, imports, inference, night, report, training
from .harness import ROUNDS, Comparison, compare

_COMPARISONS: dict[str, Callable[..., AbstractContextManager[Comparison]]] = {
    "imports": imports.comparison,
    "inference": inference.comparison,
    "cluster": cluster.comparison,
    "training": training.trees,
    "network": training.network,
    "drift-day": drift.day,
    "drift": drift.window,
    "night": night.comparison,
    "fanout": fanout.on_files,
    "fanout-s3": fanout.on_s3,
}


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, one round, no figures written")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"counted rounds, at least {ROUNDS}")
    parser.add_argument("--only", nargs="+", choices=sorted(_COMPARISONS), default=list(_COMPARISONS))
    arguments = parser.parse_args()
    if not arguments.quick and arguments.rounds < ROUNDS:
        parser.error(f"fewer than {ROUNDS} rounds say little: use --quick to see whether it runs")
    # Asked to end, it still stops the services it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    console = Console(width=110, highlight=False)
    rows = []
    for key in arguments.only:
        with (
            tempfile.TemporaryDirectory(prefix=f"nightshift-bench-{key}-") as folder,
            _COMPARISONS[key](Path(folder), quick=arguments.quick) as comparison,
        ):
            console.print(f"{comparison.name} against {comparison.against}")
            row = compare(comparison, 1 if arguments.quick else arguments.rounds)
        if arguments.quick:
            console.print("  runs, and the results are equal")
            continue
        rows.append(row)
        console.print(
            f"  ours {row['ours_s']['median']:.2f} s, other {row['other_s']['median']:.2f} s, "
            f"ratio {row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}), "
            f"target {row['target']}: {row['verdict']}"
        )
        # After each comparison, so that a later one that fails loses nothing.
        report.write(rows)
    if rows:
        console.print(f"written: {', '.join(str(file.name) for file in report.files())}")


if __name__ == "__main__":
    main()
