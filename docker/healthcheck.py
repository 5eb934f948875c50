"""Exit code 0 when the process of this container works, 1 when it does not.

Which process it is, says the argument: a service of compose.yaml. Without one it follows from the container's
own command, so that the image alone can be asked too.
"""

from __future__ import annotations

import os
import subprocess  # nosec B404  # starts Airflow's own commands, without a shell
import sys
import urllib.request
from pathlib import Path

# What a component's process writes its heartbeat as.
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
PAGES = {
    "api-server": "{HEALTH_SCHEME}://localhost:{NIGHTSHIFT_AIRFLOW_PORT}/api/v2/monitor/health",
    "mlflow": "{HEALTH_SCHEME}://localhost:{NIGHTSHIFT_MLFLOW_PORT}/health",
}
DEFAULTS = {"HEALTH_SCHEME": "http", "NIGHTSHIFT_AIRFLOW_PORT": "8080", "NIGHTSHIFT_MLFLOW_PORT": "5000"}
CELERY = "airflow.providers.celery.executors.celery_executor.app"


def component(command: str) -> str:
    """Return which component ``command`` runs; empty when it is none that can be asked."""
    words = command.split()
    return next((word for word in words if word in PAGES or word in JOBS), "")


def works(running: str) -> bool:
    """Ask a server for an answer, a worker through the queue, any other for a heartbeat in the database."""
    if running in PAGES:
        page = PAGES[running].format(**DEFAULTS | os.environ)
        try:
            with urllib.request.urlopen(page, timeout=20) as answer:  # nosec B310  # the addresses stand above
                return bool(answer.status == 200)
        except OSError:
            return False
    if running in JOBS:
        check = ["airflow", "jobs", "check", "--job-type", JOBS[running], "--local"]
        return subprocess.run(check, check=False).returncode == 0  # nosec B603  # no shell, and no input
    if running.startswith("worker"):
        name = f"{running}-{os.environ.get('REPLICA', '0')}@{os.uname().nodename}"
        check = ["celery", "--app", CELERY, "inspect", "ping", "--destination", name]
        return subprocess.run(check, check=False).returncode == 0  # nosec B603  # no shell, and no input
    # A one-off command: alive as long as it runs.
    return True


if __name__ == "__main__":
    started = Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode()
    sys.exit(0 if works(sys.argv[1] if len(sys.argv) > 1 else component(started)) else 1)
