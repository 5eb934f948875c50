"""What made a model, in one record: data, code, configuration, environment, randomness.

A training writes its manifest once, beside the frozen snapshot in the lake, so it outlives MLflow; the run
has the same as ``manifest.json``. ``nightshift reproduce`` reads it (``training.reproduce``).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import runpy
import subprocess  # nosec B404  # asks the driver, without a shell
import sys
from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nightshift.lake import lineage, raw, tables
from nightshift.lake.lineage import RawVersion
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.settings import settings
from nightshift.training import checkout
from nightshift.training.checkout import UNKNOWN
from nightshift.training.snapshot import Snapshot
from nightshift.usecase import UseCase

# What decides how many threads compute, and with it in which order sums are rounded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
_CHANCE_VARIABLES = ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRead(_Record):
    """The partitions that were read of a layer: content hashes, and the table's version that held them."""

    table_version: int
    partitions: dict[date, str]


class RawObject(_Record):
    """One version of a raw partition; hash alone where retention had removed its manifest."""

    content_hash: str
    version: int
    query: str | None
    extracted_at: AwareDatetime | None
    rows: int | None


class Data(_Record):
    """What was learned from.

    Attributes:
        snapshot: The frozen rows: windows and number of rows by part, where they lie, their hashes.
        snapshot_hash: Content hash of the snapshot.
        tables: By layer (features, labels), what was read.
        raw: By ``<source>.<table>`` and partition, the raw objects these were built from.
        unknown_origin: Number of partitions, by layer, whose raw objects nobody recorded.
    """

    snapshot: Snapshot
    snapshot_hash: str
    tables: dict[str, TableRead]
    raw: dict[str, dict[date, RawObject]]
    unknown_origin: dict[str, int]


class Configuration(_Record):
    """The use case as it was resolved, and the trainer's parameters with all defaults filled in."""

    usecase: dict[str, Any]
    params: dict[str, Any]


class Environment(_Record):
    """Where it ran. What a machine does not have or does not tell is None.

    With the engine ``ray`` the rest describes the machine that led the training; ``workers`` of the cluster
    computed it. Manifests of releases without engines are of ``local`` ones.
    """

    lock_hash: str
    python: str
    os: str
    machine: str
    processor: str
    cores: int | None
    image: str | None
    device: str
    engine: str = "local"
    workers: int = 1
    gpus: tuple[str, ...]
    driver: str | None
    cuda: str | None
    packages: dict[str, str]


class Randomness(_Record):
    """Seeds by what they feed; what else decides the order of sums: threads and variables."""

    seeds: dict[str, int]
    threads: int
    variables: dict[str, str | None]


class Manifest(_Record):
    """All that made one model."""

    usecase: str
    trainer: str
    model_hash: str
    made_at: AwareDatetime
    data: Data
    code: checkout.Code
    configuration: Configuration
    environment: Environment
    randomness: Randomness


def describe(
    uc: UseCase,
    snapshot: Snapshot,
    *,
    trainer: str,
    model_hash: str,
    params: Mapping[str, Any],
    made_at: datetime,
    code: checkout.Code,
) -> Manifest:
    """Return the manifest of a training that has just ended in this process.

    Args:
        uc: The use case it was made for.
        snapshot: What it learned from.
        trainer: Name of the trainer.
        model_hash: Content hash of the model.
        params: The trainer's parameters, defaults included.
        made_at: When it ended.
        code: The checkout when it began.
    """
    return Manifest(
        usecase=uc.name,
        trainer=trainer,
        model_hash=model_hash,
        made_at=made_at,
        data=_data(uc, snapshot),
        code=code,
        configuration=Configuration(usecase=uc.model_dump(mode="json"), params=dict(params)),
        environment=environment(params),
        randomness=randomness(uc),
    )


def keep(manifest: Manifest) -> Manifest:
    """Write a manifest to the lake unless this model on this snapshot has one; return the one that stands."""
    key = _key(manifest.usecase, manifest.data.snapshot_hash, manifest.model_hash)
    if open_store().put_new(key, manifest.model_dump_json(indent=1).encode()):
        return manifest
    return Manifest.model_validate_json(open_store().get(key))


def kept(uc: UseCase, snapshot_hash: str, model_hash: str) -> Manifest | None:
    """Return the manifest of a model; None when none was written.

    Raises:
        ValueError: It was written by a release whose manifests this one cannot read.
    """
    try:
        content = open_store().get(_key(uc.name, snapshot_hash, model_hash))
    except NoSuchObjectError:
        return None
    return Manifest.model_validate_json(content)


def environment(params: Mapping[str, Any]) -> Environment:
    """Return the environment of this process.

    Args:
        params: What the trainer says was in effect: its device, and its engine where that was not local.
    """
    gpus, driver = _gpus()
    return Environment(
        lock_hash=_file_hash(settings().project / "constraints.txt"),
        python=platform.python_version(),
        os=platform.platform(),
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count(),
        image=settings().image or None,
        device=str(params.get("device", "cpu")),
        engine=str(params.get("engine", "local")),
        workers=int(params.get("workers", 1)),
        gpus=gpus,
        driver=driver,
        cuda=_cuda(),
        packages=_packages(),
    )


def randomness(uc: UseCase) -> Randomness:
    """Return every seed of a training of ``uc``, and what else decides the order of sums in this process."""
    # One seed feeds all that draws: rows and columns of trees, weights, dropout and order of a network,
    # and the sample by which importance is measured.
    return Randomness(
        seeds={"training": uc.training.seed},
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        variables={name: os.environ.get(name) for name in (*_THREAD_VARIABLES, *_CHANCE_VARIABLES)},
    )


def _key(usecase: str, snapshot_hash: str, model_hash: str) -> str:
    return f"snapshots/{usecase}/manifests/{snapshot_hash}/{model_hash}.json"


def _data(uc: UseCase, snapshot: Snapshot) -> Data:
    start, end = snapshot.train.start, snapshot.holdout.end
    read = {}
    for layer, version in (("features", snapshot.feature_table), ("labels", snapshot.label_table)):
        published = tables.partition_versions(uc, layer, version)
        hashes = {day: one.content_hash for day, one in published.items() if start <= day <= end}
        read[layer] = TableRead(table_version=version, partitions=hashes)
    behind: dict[str, dict[date, RawVersion]] = {}
    unknown = {}
    for layer, table in read.items():
        builds = lineage.builds_of(uc, layer, table.partitions)
        unknown[layer] = sum(not of_day for of_day in builds.values())
        for build in (build for of_day in builds.values() for build in of_day):
            for name, partitions in build.raw.items():
                of_table = behind.setdefault(name, {})
                for day, object_read in partitions.items():
                    # Several builds may give one content: the newest that is known to do so.
                    if day not in of_table or object_read.rank > of_table[day].rank:
                        of_table[day] = object_read
    return Data(
        snapshot=snapshot,
        snapshot_hash=snapshot.content_hash,
        tables=read,
        raw={name: _raw_objects(uc, name, behind[name]) for name in sorted(behind)},
        unknown_origin=unknown,
    )


def _raw_objects(uc: UseCase, name: str, versions: Mapping[date, RawVersion]) -> dict[date, RawObject]:
    source, _, table = name.partition(".")
    manifests = raw.read_manifests(uc, source, table, {day: one.version for day, one in versions.items()})
    found = {}
    for day, version in sorted(versions.items()):
        manifest = manifests.get(day)
        if manifest is not None and manifest.content_hash != version.content_hash:
            manifest = None
        found[day] = RawObject(
            content_hash=version.content_hash,
            version=version.version,
            query=manifest.query if manifest else None,
            extracted_at=manifest.extracted_at if manifest else None,
            rows=manifest.rows_accepted if manifest else None,
        )
    return found


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else UNKNOWN


def _packages() -> dict[str, str]:
    """Return the version of every installed distribution, those that were found first on the path."""
    return _packages_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _packages_on(path: tuple[str, ...]) -> dict[str, str]:
    """Read once a process and path: it takes half a second, and what was imported stays what it was."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        found.setdefault(distribution.metadata["Name"], distribution.version)
    return dict(sorted(found.items()))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or UNKNOWN
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), UNKNOWN)


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """Return the names of the GPUs and their driver's version, as the driver's own tool tells them."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # nosec B603  # no shell, and no input
            command, capture_output=True, check=True, timeout=30, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return (), None
    rows = [line.rpartition(", ") for line in done.stdout.splitlines() if line.strip()]
    return tuple(name for name, _, _ in rows), next((driver for _, _, driver in rows), None)


def _cuda() -> str | None:
    """Return the version of CUDA that torch was built for, without importing torch: that takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version: str | None = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return version
