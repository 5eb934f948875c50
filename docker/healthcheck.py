"""Exit code 0 when the Airflow process of this container works, 1 when it does not.

Which process it is follows from the container's own command, so one image serves all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

# What a component's process writes its heartbeat as.
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}


def component(command: str) -> str:
    """Return which Airflow component ``command`` runs; empty when it is none that can be asked."""
    words = command.split()
    return next((word for word in words if word == "api-server" or word in JOBS), "")


def works(running: str) -> bool:
    """Ask the API server for an answer, any other component for a recent heartbeat in the database."""
    if running == "api-server":
        port = os.environ.get("AIRFLOW__API__PORT", "8080")
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=20
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
    if running in JOBS:
        check = ["airflow", "jobs", "check", "--job-type", JOBS[running], "--local"]
        return subprocess.run(check, check=False).returncode == 0
    # A worker or a one-off command: alive as long as it runs.
    return True


if __name__ == "__main__":
    started = Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode()
    sys.exit(0 if works(component(started)) else 1)
