"""A history replayed night by night in one process: the loop that retrains itself beside its first model.

Each night is what Airflow's DAGs do (``nights``), in a state folder of the replay's own. Afterwards the
champion of the bootstrap scores the same features in memory, past the deployment log; its scores are the
layer ``predictions_frozen``. A night's partition there is written last, so what is to do follows from the
lake alone: a replay that was killed goes on with the night it was in, and one that is complete only reports.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from datetime import date, timedelta
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa

from nightshift import nights
from nightshift.cli import replay_report
from nightshift.cli.output import console
from nightshift.environment import variables
from nightshift.errors import DataError
from nightshift.partition import days
from nightshift.registry.model import Model
from nightshift.registry.records import Deployment
from nightshift.settings import settings
from nightshift.usecase import FairnessLimits, UseCase

FROZEN = "predictions_frozen"

# A quarter to begin with, and a whole year.
_BOOTSTRAP_DAYS = 90
_REPLAYED_DAYS = 365

# Nights that are prepared while another is concluded: about as many as one training takes the time of.
_AHEAD = 8

Say = Callable[[str], None]


def run(
    uc: UseCase,
    *,
    bootstrap_through: date | None,
    start: date | None,
    end: date | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Replay what is not replayed yet, and print the comparison of the loop with the model it began with.

    Args:
        uc: The use case.
        bootstrap_through: Last day that the first champion learns from; by default the history's 90th.
        start: First night that is compared; by default the one after the bootstrap.
        end: Last night; by default the history's 365th.
        picture: File that the comparison is drawn into, as SVG.
        as_json: Print the comparison as JSON instead of a table.
    """
    through = bootstrap_through or uc.history_start + timedelta(days=_BOOTSTRAP_DAYS - 1)
    last = end or uc.history_start + timedelta(days=_REPLAYED_DAYS - 1)
    first = start or through + timedelta(days=1)
    if not through < first <= last:
        raise DataError(
            f"there are no nights to compare: {first} to {last}, after a bootstrap through {through}",
            rule="the bootstrap comes before the first night, and that before the last",
            where="--bootstrap-through, --from, --to",
            cure="give a later --to, or an earlier --bootstrap-through",
        )
    with _own_state():
        began = time.monotonic()
        replay(uc, through, last, lambda text: console.print(f"[{_clock(began)}] {text}", markup=False))
        found = replay_report.compare(uc, FROZEN, first, last)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        replay_report.show(found)
    if picture is not None:
        replay_report.draw(found, picture)
        console.print(f"picture: {picture}", markup=False)


def replay(uc: UseCase, through: date, last: date, say: Say) -> None:
    """Bootstrap the history through ``through``, then run each night to ``last``, as far as not done yet.

    Raises:
        DataError: The state was bootstrapped through another day; or a night's data are bad.
    """
    from nightshift.lake import tables

    frozen = _first_champion(uc, through, say)
    done = tables.partition_versions(uc, FROZEN).keys()
    left = [night for night in days(through + timedelta(days=1), last) if night not in done]
    if left:
        say(f"{len(left)} nights to replay, {left[0]} to {left[-1]}")
    began = time.monotonic()
    with closing(_prepared(uc, left)) as prepared:
        for number, (night, built) in enumerate(prepared, start=1):
            came_of_it = nights.conclude(uc, night, built)
            tables.replace_partition(uc, FROZEN, night, _scored(uc, frozen, night), [uc.entity])
            remaining = (time.monotonic() - began) / number * (len(left) - number)
            say(f"{_told(uc, came_of_it)}; {number} of {len(left)}, about {remaining / 60:.0f} min to go")


def _prepared(
    uc: UseCase, wanted: Sequence[date]
) -> Generator[tuple[date, list[dict[str, Any]]], None, None]:
    """Yield each night with what it built, in order; a second process prepares some nights ahead."""
    left = iter(wanted)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin_second) as second:
        try:
            ahead = deque((night, second.submit(nights.prepare, uc, night)) for night in islice(left, _AHEAD))
            while ahead:
                night, prepared = ahead.popleft()
                yield night, prepared.result()
                ahead.extend(
                    (following, second.submit(nights.prepare, uc, following)) for following in islice(left, 1)
                )
        finally:
            second.shutdown(cancel_futures=True)


def _begin_second() -> None:
    """Log as the first process does, and end when that has ended, however: this one would wait forever."""
    parent = parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()
    _log_to_file()


def _first_champion(uc: UseCase, through: date, say: Say) -> Model:
    """Return the model that the bootstrap put in production, which it does first where nothing is there."""
    from nightshift.registry import deployments, models

    history = deployments.history(uc)
    if not history:
        say(f"bootstrap {uc.history_start} to {through}")
        nights.bootstrap(_admitting(uc), uc.history_start, through)
        history = deployments.history(uc)
    first: Deployment = history[0]
    if first.trained_night != through:
        raise DataError(
            f"what is there was bootstrapped through {first.trained_night}, not {through}",
            rule="a replay goes on from its own bootstrap",
            where=str(settings().home),
            cure="delete that folder, or pass the same --bootstrap-through again",
        )
    return models.load_model(uc, first.version, first.model_hash)


def _admitting(uc: UseCase) -> UseCase:
    """Return the use case with a gate that does not compare groups.

    What learned from one season may take a group that had a bad one for a foregone conclusion, and be refused
    for it. A replay needs a first model to begin with; those that follow pass the whole gate.
    """
    return uc.model_copy(update={"gate": uc.gate.model_copy(update={"fairness": FairnessLimits()})})


def _scored(uc: UseCase, model: Model, night: date) -> pa.Table:
    from nightshift.lake import tables

    columns = list(dict.fromkeys((uc.entity, *model.feature_columns)))
    features = tables.read_partitions(uc, "features", night, night, columns=columns)
    return pa.table(
        {
            uc.entity: features.column(uc.entity).cast(pa.string()),
            "score": pa.array(model.predict_proba(features), pa.float64()),
            "model_hash": pa.repeat(model.content_hash, features.num_rows),
        }
    )


def _told(uc: UseCase, came_of_it: nights.Night) -> str:
    from nightshift.monitoring import drift

    night = came_of_it.night
    verdict = drift.results(uc, night, night)[night].verdict
    asked = f", asked for a new model: {came_of_it.training}" if came_of_it.reasons else ""
    return f"night {night}: {verdict}{asked}"


@contextmanager
def _own_state() -> Iterator[None]:
    """Keep everything in a folder of the replay's own, with a database server of its own, until the end."""
    from nightshift.databases import ensure
    from nightshift.services import postgres, processes

    ours = {
        "NIGHTSHIFT_HOME": str(settings().home / "replay"),
        "NIGHTSHIFT_WAREHOUSE": "duckdb",
        "NIGHTSHIFT_POSTGRES_PORT": str(processes.free_port(settings().host)),
        # Those of the nights that run for real must stay as they are.
        **dict.fromkeys(("NIGHTSHIFT_LAKE", "NIGHTSHIFT_POSTGRES_URL", "NIGHTSHIFT_MLFLOW_URL"), ""),
        # Read when MLflow is imported.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    try:
        with variables(ours):
            settings.cache_clear()
            _log_to_file()
            with processes.exclusive():
                # Of a replay that was killed: it listens on a port of that time.
                processes.stop([postgres.NAME])
                postgres.start()
                try:
                    ensure(["serving"])
                    yield
                finally:
                    processes.stop([postgres.NAME])
    finally:
        settings.cache_clear()


def _log_to_file() -> None:
    """Let what the stages say go into a file of the state folder, to which each replay adds."""
    file = settings().home / "logs" / "replay.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    library = logging.getLogger("nightshift")
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    library.propagate = False


def _clock(began: float) -> str:
    seconds = int(time.monotonic() - began)
    return f"{seconds // 60}:{seconds % 60:02d}"
