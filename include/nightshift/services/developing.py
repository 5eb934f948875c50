"""What happens when a file is saved: it is checked, Airflow reads it at once, and the pages are served anew.

Tasks need nothing: each is a new process, which runs the code as it is on disk.
"""

from __future__ import annotations

import subprocess  # nosec B404  # starts Python, without a shell
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

from watchfiles import Change, watch

from nightshift.errors import NightshiftError
from nightshift.services import airflow, processes
from nightshift.services.airflow_api import AirflowApi
from nightshift.settings import settings

FOLDERS = ("dags", "plugins", "include", "dbt_project", "expectations")
_KINDS = {".py", ".yml", ".sql", ".json", ".js"}
_WRITTEN = {"__pycache__", "target", "logs", "node_modules"}
_API_SERVER = "airflow-api-server"
# What the API server has imported.
_SERVED = ("plugins/", "include/nightshift/")


def watch_files(say: Callable[[str], None], stop: Event | None = None) -> None:
    """Wait for files to be saved, until ``stop``; say what was saved, and what it would break.

    The services run already. A file that breaks something is told of, and Airflow reads it all the same: its
    UI then shows the same error.
    """
    folders = [settings().project / name for name in FOLDERS]
    for changes in watch(*folders, watch_filter=_is_source, debounce=800, stop_event=stop):
        saved = sorted(str(Path(file).relative_to(settings().project)) for _, file in changes)
        say(f"saved: {', '.join(saved[:5])}{f' and {len(saved) - 5} more' if len(saved) > 5 else ''}")
        for line in _failures() or ["checked: nothing is broken"]:
            say(line)
        try:
            if not processes.alive(_API_SERVER) or any(file.startswith(_SERVED) for file in saved):
                _restart_api_server()
                say("the API server runs the new code")
            with AirflowApi() as api:
                api.reparse()
        except NightshiftError as error:
            say(str(error))
            say("saved without that fault, it is tried again")


def _is_source(_: Change, file: str) -> bool:
    path = Path(file).relative_to(settings().project)
    return path.suffix in _KINDS and not _WRITTEN & set(path.parts)


def _failures() -> list[str]:
    """Return the lines of ``nightshift check`` about what failed; none where all is well."""
    done = subprocess.run(  # nosec B603  # our own module
        [sys.executable, "-P", "-m", "nightshift.orchestration.check"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines() if done.returncode in (0, 1) else done.stderr.splitlines()[-5:]
    return [line for line in lines if not line.startswith("ok ")]


def _restart_api_server() -> None:
    with processes.exclusive():
        processes.stop([_API_SERVER])
        airflow.start()
        airflow.wait_ready()
