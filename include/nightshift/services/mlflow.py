"""MLflow's server: the UI and REST API over the tracking database that tasks write to directly."""

from __future__ import annotations

import sys

import httpx

from nightshift.databases import local_address
from nightshift.services import airflow, processes
from nightshift.settings import settings

NAME = "mlflow"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def address() -> str:
    """Return the URL of MLflow's UI on this machine."""
    return f"http://{local_address(settings().host)}:{settings().mlflow_port}"


def port() -> processes.Port:
    """Return where the server listens."""
    return processes.Port("MLflow", settings().host, settings().mlflow_port, "NIGHTSHIFT_MLFLOW_PORT")


def start() -> None:
    """Start the server unless it runs, and return at once. Its database must exist already."""
    command = (
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *("--backend-store-uri", settings().mlflow_uri),
        *("--host", settings().host, "--port", str(settings().mlflow_port)),
        *("--workers", "1"),
        # It refuses names it was not told; whoever opens it to a network decides there who may ask.
        *(() if settings().host in LOOPBACK else ("--allowed-hosts", "*")),
    )
    # The server's own job runner would be four more processes that nothing here uses.
    environment = {**airflow.base_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    processes.start(processes.Service(name=NAME, command=command, environment=environment))


def wait_ready(seconds: float = 300) -> None:
    """Return when the server answers.

    Raises:
        ServiceError: It ended, or did not answer in time; the message ends with its log.
    """
    processes.wait_until(healthy, [NAME], seconds, "MLflow")


def healthy() -> bool:
    """Tell whether the server answers."""
    try:
        return httpx.get(f"{address()}/health", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False
