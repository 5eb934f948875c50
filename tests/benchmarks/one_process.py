"""The loop without Airflow: ``bootstrap DAY`` once, or ``nights``, which reads days from standard input."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from nightshift import databases, stages
from nightshift.lake import raw, tables
from nightshift.lake.hashing import combine_hashes
from nightshift.services import postgres, processes
from nightshift.usecase import UseCase, load_usecase

from .harness import environment


def bootstrap(uc: UseCase, through: date) -> None:
    """Land, build, publish from the first day to ``through``, and make an XGBoost model champion."""
    for source in uc.sources:
        stages.land(uc, source, uc.history_start, through)
    stages.load(uc, uc.history_start, through)
    built = stages.build_features(uc, uc.history_start, through)
    stages.publish_features(uc, stages.validate_features(uc, built))
    candidate = stages.train_candidate(uc, stages.take_snapshot(uc, through), "xgboost")
    decision = {"promote": True, "candidate": candidate, "metrics": {}, "reasons": ["made for a benchmark"]}
    stages.promote(uc, through, decision)


@contextmanager
def bootstrapped(through: date) -> Iterator[UseCase]:
    """Yield the use case, bootstrapped in a state and a PostgreSQL of its own, without training policy."""
    # PostgreSQL's user may not enter every folder: see tests/servers.py.
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        own = {
            **dict.fromkeys(("NIGHTSHIFT_LAKE", "NIGHTSHIFT_POSTGRES_URL", "NIGHTSHIFT_MLFLOW_URL"), ""),
            "NIGHTSHIFT_POSTGRES_PORT": str(processes.free_port()),
        }
        with environment(Path(folder) / "state", **own):
            whole = load_usecase("flight_delays")
            uc = whole.model_copy(update={"retrain": whole.retrain.model_copy(update={"enabled": False})})
            postgres.start()
            try:
                databases.ensure(["serving"])
                bootstrap(uc, through)
                yield uc
            finally:
                processes.stop([postgres.NAME])


def run(uc: UseCase, night: date) -> None:
    """Do what the chain of DAGs does for one night."""
    for source in uc.sources:
        stages.land(uc, source, night, night)
    stages.load(uc, night, night)
    built = stages.build_features(uc, night, night)
    stages.publish_features(uc, stages.validate_features(uc, built))
    scored = stages.score(uc, night, night)
    stages.publish_predictions(uc, stages.validate_predictions(uc, scored))
    stages.check_drift(uc, night, night)
    stages.judge(uc, night, night)
    stages.decide_retrain(uc, night)


def published(uc: UseCase, night: date) -> dict[str, str]:
    """Return the content hashes of what a night leaves behind; empty where it left nothing."""
    landed = {
        f"{name} {day}": manifest.content_hash
        for source, name, table in uc.tables()
        for day in table.partitions_of_night(night, uc.history_start)
        if (manifest := raw.current(uc, source, name, day))
    }
    layers = {
        layer: version.content_hash if (version := tables.partition_version(uc, layer, night)) else ""
        for layer in ("features", "predictions")
    }
    return {"raw": combine_hashes(landed.items()) if landed else "", **layers}


def serve_nights(uc: UseCase) -> None:
    """Run each day named on standard input and answer with its seconds and content hashes as JSON."""
    # Standard output carries answers only; what libraries print goes where errors go.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    postgres.start()
    databases.ensure(["serving"])
    try:
        for line in sys.stdin:
            night = date.fromisoformat(line.strip())
            start = time.perf_counter()
            run(uc, night)
            seconds = time.perf_counter() - start
            answers.write(json.dumps({"seconds": seconds, "result": published(uc, night)}) + "\n")
            answers.flush()
    finally:
        processes.stop([postgres.NAME])


if __name__ == "__main__":
    if sys.argv[1] == "bootstrap":
        bootstrap(load_usecase("flight_delays"), date.fromisoformat(sys.argv[2]))
    else:
        serve_nights(load_usecase("flight_delays"))
