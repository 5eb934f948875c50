"""Live progress of runs: a table that redraws itself on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from nightshift.cli.output import console
from nightshift.services.airflow_api import AirflowApi, DagRun

# Seconds between two lines where nothing redraws; a change of phase or of a run's state shows at once.
_LINE_EVERY = 20.0


class Progress:
    """Shows the phase, the time since ``began`` (monotonic), and runs and tasks by state."""

    def __init__(self, api: AirflowApi, began: float) -> None:
        self._api, self._began = api, began
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )
        self._phase = ""
        self._phase_began = began
        self._runs: dict[tuple[str, str], str] = {}
        self._line, self._line_at = "", 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; the last phase is closed with its time unless it failed."""
        if kind is None:
            self.close_phase()
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above what is being drawn."""
        console.print(f"{self._clock()} {text}")

    def show(self, phase: str, runs: Sequence[DagRun]) -> None:
        """Show ``runs`` as they are now, under the name of what they are part of."""
        if phase != self._phase:
            self.close_phase()
            self._phase, self._phase_began, self._line = phase, time.monotonic(), ""
        for run in runs:
            self._runs[run.dag_id, run.run_id] = run.state
        tasks = self._api.task_states(runs)
        if self._live:
            self._live.update(self._table(runs, tasks))
        else:
            self._print_line(runs, tasks)

    def close_phase(self) -> None:
        """Say how long the phase took; nothing when none is open."""
        if self._phase:
            self.say(f"{self._phase}: done in {time.monotonic() - self._phase_began:.0f} s")
            self._phase = ""

    def _print_line(self, runs: Sequence[DagRun], tasks: Counter[str]) -> None:
        states = ", ".join(f"{run.dag_id} {run.state}" for run in runs)
        due = time.monotonic() - self._line_at >= _LINE_EVERY
        if states and (states != self._line or due):
            self.say(f"{self._phase}: {states}; tasks: {_counts(tasks)}")
            self._line, self._line_at = states, time.monotonic()

    def _table(self, runs: Sequence[DagRun], tasks: Counter[str]) -> Table:
        table = Table(show_header=False, title=f"{self._clock()} {self._phase}", title_justify="left")
        for run in runs:
            table.add_row(run.dag_id, run.state)
        table.add_row("tasks of these", _counts(tasks))
        table.add_row("runs so far", _counts(Counter(self._runs.values())))
        return table

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"[{seconds // 60}:{seconds % 60:02d}]"


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none yet"
