"""Registered versions: the same model on the same snapshot is registered once, and read back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import DataError, TransientError
from nightshift.registry import mlflow as tracking
from nightshift.registry.model import Model, load
from nightshift.registry.records import Candidate
from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"


def register(uc: UseCase, candidate: Candidate) -> str:
    """Return the registered version of ``candidate``, a new one only if this model was never registered."""
    client = tracking.client(uc)
    existing = _versions_of(client, uc, candidate)
    if existing:
        return existing[0]
    created = client.create_model_version(
        uc.name,
        source=candidate.model_uri,
        run_id=candidate.run_id,
        model_id=candidate.model_uri.removeprefix("models:/"),
        tags={
            "content_hash": candidate.content_hash,
            "snapshot_hash": candidate.snapshot_hash,
            "trainer": candidate.trainer,
            "trained_night": candidate.trained_night.isoformat(),
            "trained_through": candidate.trained_through.isoformat(),
            "state": "candidate",
        },
    )
    # Two registrations at once may both have found nothing: the lower number stays, the other goes.
    first = _versions_of(client, uc, candidate)[0]
    if first != str(created.version):
        client.delete_model_version(uc.name, created.version)
    return first


def evaluation_hash(uc: UseCase, run_id: str) -> str:
    """Return the hash of the evaluation that a run holds; empty before it was evaluated."""
    return str(tracking.client(uc).get_run(run_id).data.tags.get("evaluation_hash", ""))


def load_model(uc: UseCase, version: str) -> Model:
    """Return a registered version, ready to score.

    Raises:
        DataError: There is no such version, or its files are not what was registered.
    """
    from mlflow.exceptions import MlflowException

    try:
        registered = tracking.client(uc).get_model_version(uc.name, version)
    except MlflowException as error:
        raise DataError(
            f"{uc.name} has no model version {version!r}",
            rule="a deployed version stays in the registry",
            where=f"registered model {uc.name} in {settings().mlflow_uri}",
            cure="roll back to a version that exists; the deployment log lists them",
        ) from error
    return _load(uc, str(registered.source), registered.tags["content_hash"]).as_version(
        str(registered.version)
    )


def load_candidate(uc: UseCase, candidate: Candidate) -> Model:
    """Return a candidate's model, registered or not.

    Raises:
        DataError: Its files are not what was logged.
    """
    return _load(uc, candidate.model_uri, candidate.content_hash)


def _load(uc: UseCase, model_uri: str, content_hash: str) -> Model:
    folder = _local_folder(uc, model_uri) / "data" / MODEL_FOLDER
    model = load(folder)
    if model.content_hash != content_hash:
        raise DataError(
            f"{model_uri} holds model {model.content_hash[:12]}, registered as {content_hash[:12]}",
            rule="a registered model is read back as it was stored",
            where=str(folder),
            cure="roll back to an earlier version, or train again: the same snapshot gives the same model",
        )
    return model


# MLflow copies a logged folder under data/, keeping the folder's own name.
MODEL_FOLDER = "nightshift_model"


def _local_folder(uc: UseCase, model_uri: str) -> Path:
    mlflow: Any = tracking.fluent(uc)
    try:
        # A local artifact store answers with its own folder; a remote one is downloaded.
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri))
    except (OSError, mlflow.exceptions.MlflowException) as error:
        raise TransientError(f"the files of {model_uri} cannot be fetched: {error}") from error


def _versions_of(client: MlflowClient, uc: UseCase, candidate: Candidate) -> list[str]:
    """Return versions with the candidate's content and snapshot, lowest number first."""
    found = client.search_model_versions(
        f"name = '{uc.name}' and tags.content_hash = '{candidate.content_hash}' "
        f"and tags.snapshot_hash = '{candidate.snapshot_hash}'"
    )
    return [str(number) for number in sorted(int(item.version) for item in found)]
