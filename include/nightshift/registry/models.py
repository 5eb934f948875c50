"""Registered versions: the same model on the same snapshot is registered once, and read back unchanged."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import DataError, TransientError
from nightshift.registry import mlflow as tracking
from nightshift.registry.model import Identity, Model, load
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


def load_model(uc: UseCase, version: str, model_hash: str | None = None) -> Model:
    """Return a registered version, ready to score.

    Args:
        uc: The use case.
        version: Its number in the registry.
        model_hash: The content hash that the deployment log, or what the model made, knows it by: a second
            witness beside the registry's own.

    Raises:
        DataError: There is no such version, it is registered as another model than ``model_hash``, or its
            files are not what was registered.
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
    content_hash = registered.tags.get("content_hash", "")
    if model_hash is not None and content_hash != model_hash:
        raise DataError(
            f"version {version} is registered as model {content_hash[:12]}, deployed as {model_hash[:12]}",
            rule="registry and deployment log name the same model",
            where=f"registered model {uc.name} in {settings().mlflow_uri}",
            cure="find out who changed the tag content_hash of the version; until then roll back to another",
        )
    model = _load(uc, str(registered.source), str(registered.run_id), content_hash)
    return model.as_version(str(registered.version))


def load_candidate(uc: UseCase, candidate: Candidate) -> Model:
    """Return a candidate's model, registered or not.

    Raises:
        DataError: Its files are not what was logged.
    """
    return _load(uc, candidate.model_uri, candidate.run_id, candidate.content_hash)


def _load(uc: UseCase, model_uri: str, run_id: str, content_hash: str) -> Model:
    """Return the model of a run, its files held against what the tracking database knows of them."""
    run = tracking.client(uc).get_run(run_id)
    identity = Identity(content_hash, run.data.tags.get(REFERENCE_HASH, ""))
    if not settings().mlflow_url:
        # A local artifact store answers with its own folder.
        return load(_fetched(uc, model_uri) / "data" / MODEL_FOLDER, identity)
    try:
        return _read(_kept(uc, model_uri, identity), identity)
    except DataError:
        # Damaged, or another process has made room meanwhile: fetched anew, it tells.
        return _read(_kept(uc, model_uri, identity), identity)


def _read(kept: Path, identity: Identity) -> Model:
    try:
        model = load(kept / "data" / MODEL_FOLDER, identity)
        # Read at once: what is found damaged later, nobody would fetch anew, and its folder may make room.
        _ = model.reference
    except DataError:
        shutil.rmtree(kept, ignore_errors=True)
        raise
    return model


# MLflow copies a logged folder under data/, keeping the folder's own name.
MODEL_FOLDER = "nightshift_model"

# The tag of a run that holds what its model's reference sample hashes to.
REFERENCE_HASH = "reference_hash"


# Models that were fetched from a server, and are kept to be read again.
_KEPT = 8
_FETCHING = "new-"


def _kept(uc: UseCase, model_uri: str, identity: Identity) -> Path:
    """Return a model's folder on this machine, fetched once; those not read for longest make room."""
    folder = settings().home / "cache" / "models"
    kept = folder / f"{identity.content_hash}-{identity.reference_hash}"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = tempfile.mkdtemp(dir=folder, prefix=_FETCHING)
        try:
            fetched = _fetched(uc, model_uri, new)
            try:
                fetched.rename(kept)
            except OSError:
                if not kept.exists():  # Otherwise another process was first.
                    raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    with suppress(OSError):
        os.utime(kept)
        there = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in [one for one in there if not one.name.startswith(_FETCHING)][_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        # What killed processes left. Nobody takes a day to fetch a model.
        for left in [one for one in there if one.name.startswith(_FETCHING)]:
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
    return kept


def _fetched(uc: UseCase, model_uri: str, into: str | None = None) -> Path:
    mlflow: Any = tracking.fluent(uc)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=into))
    except (OSError, mlflow.exceptions.MlflowException) as error:
        raise TransientError(f"the files of {model_uri} cannot be fetched: {error}") from error


def _versions_of(client: MlflowClient, uc: UseCase, candidate: Candidate) -> list[str]:
    """Return versions with the candidate's content and snapshot, lowest number first."""
    found = client.search_model_versions(
        f"name = '{uc.name}' and tags.content_hash = '{candidate.content_hash}' "
        f"and tags.snapshot_hash = '{candidate.snapshot_hash}'"
    )
    return [str(number) for number in sorted(int(item.version) for item in found)]
