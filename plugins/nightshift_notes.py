"""Notes on runs and tasks in Airflow's UI: what came of them."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from nightshift.orchestration import notes


class NightshiftNotes(AirflowPlugin):
    """Names the module whose hooks the scheduler calls when a run ends."""

    name = "nightshift_notes"
    listeners: ClassVar[list[Any]] = [notes]
