"""The one place that opens MLflow: database, experiment and registered model exist before anyone writes.

Four processes that open a new SQLite file at once all crash, and concurrent creation of one experiment
silently logs to another, so both are created once, under a lock.
"""

from __future__ import annotations

import fcntl
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read when MLflow is first imported. Nothing that runs here reports to anyone.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# Nothing of ours is a pickle, so whatever is one did not come from us: MLflow shall not open it either.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"


def setup(uc: UseCase) -> str:
    """Create what ``uc`` needs in MLflow, where it is missing, and return the id of its experiment.

    Safe to call from many processes at once; after the first call it only reads.
    """
    return _setup(settings().mlflow_uri, uc.name)


def run_address(uc: UseCase, run_id: str, server: str) -> str:
    """Return the address of a run's page on the MLflow server whose address is ``server``."""
    return f"{server}/#/experiments/{setup(uc)}/runs/{run_id}"


def client(uc: UseCase) -> MlflowClient:
    """Return a client of the tracking server and registry, set up for ``uc``."""
    # The registry looks a logged model up through the process's own settings, whatever client asks.
    fluent(uc)
    return _client(settings().mlflow_uri)


def fluent(uc: UseCase) -> Any:
    """Return the ``mlflow`` module, pointed at the tracking server and set up for ``uc``."""
    setup(uc)
    import mlflow

    mlflow.set_tracking_uri(settings().mlflow_uri)
    mlflow.set_registry_uri(settings().mlflow_uri)
    return mlflow


@lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@lru_cache(maxsize=64)
def _setup(uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    home = settings().home / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mlflow_client = _client(uri)
        experiment = mlflow_client.get_experiment_by_name(name)
        if experiment is None:
            # A tracking server decides itself where artifacts go.
            local = None if settings().mlflow_url else (home / "artifacts").as_uri()
            experiment_id: str = mlflow_client.create_experiment(name, artifact_location=local)
        else:
            experiment_id = experiment.experiment_id
        try:
            mlflow_client.get_registered_model(name)
        except MlflowException:
            mlflow_client.create_registered_model(name)
    return experiment_id
