"""The whole loop through a running Airflow: bootstrap a history, then run night after night.

What is to do follows from the lake alone, never from a marker or from Airflow's history, so a demo that
was interrupted goes on where it stopped, and one whose partition was deleted rebuilds just that one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

from nightshift.cli.output import console, print_addresses, usecase_table
from nightshift.cli.progress import Progress
from nightshift.errors import NightshiftError
from nightshift.partition import days
from nightshift.services.airflow_api import FAILED_TASK, AirflowApi, DagRun
from nightshift.usecase import UseCase

TARGET_MINUTES = 8
_CHAIN = ("ingest", "features", "score", "monitor")
_USED = ("bootstrap", *_CHAIN, "train", "rebuild")

# Between one DAG's end and the next one's start the scheduler needs a second or two; much longer means
# that the event was lost.
_HANDOVER_SECONDS = 120.0
_POLL = 1.0


class DemoError(NightshiftError):
    """A run failed or did not start; the message says which task, shows its log, and what to do."""


def run(uc: UseCase, *, history: int, nights: int) -> None:
    """Bring the use case to the end of the demo and print the summary.

    Args:
        uc: The use case.
        history: Days to bootstrap, from the first day of its history.
        nights: Nights to run after them, one after the other.

    Raises:
        DemoError: A run failed.
    """
    from nightshift.cli.status import of_usecase
    from nightshift.services import stack

    began = time.monotonic()
    first, last = uc.history_start, uc.history_start + timedelta(days=history - 1)
    wanted = list(days(last + timedelta(days=1), last + timedelta(days=nights)))
    stack.up(lambda what: console.print(f"starting {what}"))
    started = time.monotonic() - began
    with AirflowApi() as api, Progress(api, began) as progress:
        loop = _Loop(uc, api, progress)
        loop.prepare()
        done = loop.bootstrap(first, last)
        for night in wanted:
            done = loop.night(night) or done
    elapsed = time.monotonic() - began
    console.print(usecase_table(uc.title, of_usecase(uc)))
    print_addresses()
    if done:
        verdict = "within" if elapsed <= TARGET_MINUTES * 60 else "over"
        console.print(
            f"{_spell(elapsed)} in all ({_spell(started)} of it starting), {verdict} the target of "
            f"{TARGET_MINUTES} minutes. Everything stays up until `make down`."
        )
    else:
        console.print(f"Everything was there already: nothing was run or changed ({_spell(elapsed)}).")


class _Loop:
    """The steps of the demo, each of which first looks at what the lake holds."""

    def __init__(self, uc: UseCase, api: AirflowApi, progress: Progress) -> None:
        self._uc, self._api, self._progress = uc, api, progress

    def prepare(self) -> None:
        """Wait until the DAGs are known and make sure that none of the chain is paused."""
        wanted = [self._dag(name) for name in _USED]
        self._progress.say("waiting for the DAGs to be parsed")
        self._api.wait_for_dags(wanted)
        paused = self._api.dags()
        for dag_id in wanted:
            if paused[dag_id]:
                self._api.set_paused(dag_id, False)

    def bootstrap(self, first: date, last: date) -> bool:
        """Land, build and train the history unless it is there; tell whether anything was run."""
        running = self._api.runs(self._dag("bootstrap"), states=("queued", "running"))
        title = f"bootstrap {first} to {last}"
        if running:
            self._finish(title, running[0])
        if not self._raw_is_there(first, last):
            conf = {"start": first.isoformat(), "end": last.isoformat()}
            self._finish(title, self._api.trigger(self._dag("bootstrap"), conf))
            return True
        missing = self._missing_features(first, last)
        for start, end in _spans(missing):
            self._rebuild(start, end, ["features"])
        if self._champion_is_there(last):
            return bool(missing or running)
        # The rest of a bootstrap that broke off while training.
        trained = self._api.trigger(self._dag("train"), {"partition": last.isoformat()})
        self._finish(f"training on {first} to {last}", trained)
        return True

    def night(self, night: date) -> bool:
        """Run what the night lacks, to the end of its chain; tell whether anything was run."""
        from nightshift.lake import tables

        active = [run for run in self._runs_of(night) if not run.finished]
        if active:
            self._follow(night, since=None)
        there = {
            layer: tables.partition_version(self._uc, layer, night) is not None
            and night not in tables.damaged(self._uc, layer)
            for layer in ("features", "predictions", "monitoring")
        }
        if all(there.values()):
            return bool(active)
        if there["features"] or self._raw_is_there(night, night):
            first = next(layer for layer, present in there.items() if not present)
            # Scoring again before monitoring makes sure that applications have the night too.
            stages = {
                "features": ["features", "predictions", "monitoring"],
                "predictions": ["predictions", "monitoring"],
                "monitoring": ["predictions", "monitoring"],
            }[first]
            self._rebuild(night, night, stages)
        else:
            self._backfill(night)
        return True

    def _backfill(self, night: date) -> None:
        # The run of a night is due at its hour, so the window reaches to the next midnight: with a date
        # alone as its end the day itself would be left out.
        start = datetime.combine(night, clock(), tzinfo=UTC)
        window = start, start + timedelta(days=1)
        keys = self._api.backfill_keys(self._dag("ingest"), *window)
        if keys != [night.isoformat()]:
            raise DemoError(
                f"a backfill of {night} would run {keys or 'nothing'} instead of that night alone"
            )
        if self._api.open_backfills(self._dag("ingest")):
            self._progress.say(f"night {night}: waiting until Airflow has closed the backfill before it")
        since = datetime.now(UTC)
        self._api.backfill(self._dag("ingest"), *window)
        self._follow(night, since)

    def _follow(self, night: date, since: datetime | None) -> None:
        """Wait until every DAG of the night's chain has succeeded, and the training it asked for."""
        title = f"night {night}"
        for name in _CHAIN:
            run = self._appears(title, name, night, since)
            self._finish(title, run)
        if self._asked_to_train(night):
            self._finish(title, self._appears(title, "train", night, since))
        self._progress.close_phase()

    def _appears(self, title: str, name: str, night: date, since: datetime | None) -> DagRun:
        """Return the night's newest run of a DAG, once there is one that had not ended at ``since``."""
        deadline = time.monotonic() + _HANDOVER_SECONDS
        while True:
            runs = self._api.runs(self._dag(name), partition_key=night.isoformat())
            current = [run for run in runs if since is None or run.ended_at is None or run.ended_at > since]
            if current:
                return current[0]
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{self._dag(name)} did not start for {night}: is it paused, or its file broken? "
                    "See the log of airflow-scheduler; then run the demo again"
                )
            self._progress.show(title, runs)
            time.sleep(_POLL)

    def _finish(self, title: str, run: DagRun) -> None:
        """Show a run until it has finished.

        Raises:
            DemoError: It failed.
        """
        while not run.finished:
            self._progress.show(title, [run])
            time.sleep(_POLL)
            run = self._api.run(run.dag_id, run.run_id)
        self._progress.show(title, [run])
        if run.state == "failed":
            raise DemoError(self._post_mortem(run))

    def _post_mortem(self, run: DagRun) -> str:
        failed = [task for task in self._api.tasks(run) if task.state in FAILED_TASK]
        # What failed by itself says why; what waited for it does not.
        culprits = [task for task in failed if task.state == "failed"]
        lines = [f"{run.dag_id} failed (run {run.run_id})"]
        for task in culprits[:3]:
            lines += [
                f"--- task {task.label}, try {task.try_number}; the end of its log:",
                self._api.log(task),
            ]
        lines.append(
            "--- mend what the log names, then run the demo again: it goes on from what the lake holds. "
            f"The whole log: {self._address(run)}"
        )
        return "\n".join(lines)

    def _address(self, run: DagRun) -> str:
        from nightshift.services import airflow

        return f"{airflow.address()}/dags/{run.dag_id}/runs/{run.run_id}"

    def _rebuild(self, start: date, end: date, stages: list[str]) -> None:
        conf = {"start": start.isoformat(), "end": end.isoformat(), "stages": stages}
        title = f"rebuild of {', '.join(stages)}, {start}" + (f" to {end}" if end != start else "")
        self._finish(title, self._api.trigger(self._dag("rebuild"), conf))

    def _runs_of(self, night: date) -> Iterator[DagRun]:
        for name in (*_CHAIN, "train"):
            yield from self._api.runs(self._dag(name), partition_key=night.isoformat())

    def _asked_to_train(self, night: date) -> bool:
        from nightshift.monitoring import requests

        return any(request.night == night for request in requests.read(self._uc))

    def _missing_features(self, first: date, last: date) -> list[date]:
        from nightshift.lake import tables

        published = tables.partition_versions(self._uc, "features").keys()
        whole = published - tables.damaged(self._uc, "features")
        return [day for day in days(first, last) if day not in whole]

    def _champion_is_there(self, last: date) -> bool:
        from nightshift.registry import deployments

        return deployments.champion_at(self._uc, last + timedelta(days=1)) is not None

    def _raw_is_there(self, first: date, last: date) -> bool:
        """Tell whether all that the nights ``first`` to ``last`` extract of daily tables has landed."""
        from nightshift.lake import raw

        for source, name, table in self._uc.tables():
            if table.refresh != "daily":
                continue
            newest = {
                night: table.partitions_of_night(night, self._uc.history_start)[-1:]
                for night in days(first, last)
            }
            landed = raw.current_many(self._uc, source, name)
            for night, partitions in newest.items():
                for day in partitions:
                    if day not in landed or landed[day].as_of < self._uc.as_of(night):
                        return False
        return True

    def _dag(self, name: str) -> str:
        return f"{self._uc.name}.{name}"


def _spans(wanted: list[date]) -> Iterator[tuple[date, date]]:
    """Yield the unbroken stretches of ``wanted``, which is in order."""
    start = end = None
    for day in wanted:
        if end is not None and start is not None and day != end + timedelta(days=1):
            yield start, end
            start = day
        start, end = start or day, day
    if start is not None and end is not None:
        yield start, end


def _spell(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
