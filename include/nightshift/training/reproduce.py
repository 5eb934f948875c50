"""Makes a registered model once more from its manifest, and says whether it is the same, or what differs.

Data, configuration and seeds are taken as recorded, whatever they are today; code and environment are those
of this process. Nothing is written: no run, no version, no object of the lake. What differs is named in the
order in which causes work: data, code, configuration, environment, randomness.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from nightshift.errors import DataError, TransientError
from nightshift.lake import contents, tables
from nightshift.partition import spans
from nightshift.registry import deployments
from nightshift.registry import mlflow as tracking
from nightshift.registry.models import MODEL_FOLDER
from nightshift.settings import settings
from nightshift.training import checkout, feedback, manifest
from nightshift.training.manifest import Environment, Manifest, Randomness, TableRead
from nightshift.training.snapshot import Part, assemble, hash_of, load_parts
from nightshift.training.train import LIBRARIES, build
from nightshift.usecase import UseCase

Cause = Literal["data", "code", "configuration", "environment", "randomness"]

_ABSENT = "-"
_LEARNED: tuple[Part, ...] = ("train", "validation")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(_Record):
    """Something that is not today as it was when the model was made.

    Attributes:
        cause: Which of the five it belongs to.
        what: The partition, file, key, package or variable.
        recorded: What the manifest says, readable.
        current: What it is today.
        in_effect: Whether the model was made again with the current one; False where the recorded one was
            used, or where it is no part of a training.
    """

    cause: Cause
    what: str
    recorded: str
    current: str
    in_effect: bool


class Reproduction(_Record):
    """What came of making a model again.

    Attributes:
        verdict: ``equal`` when both snapshot and model are; else ``different``.
        snapshot_recorded: Content hash of the snapshot.
        snapshot_rebuilt: That of the snapshot made from the tables; None when they no longer hold its data.
            Then the rows that were frozen at the time were trained on.
        model_recorded: Content hash of the model.
        model_rebuilt: That of the model made now.
        seconds: How long it took.
        differences: Those in effect first, then the others; each in the order of causes.
        explanation: The verdict in words.
    """

    usecase: str
    version: str
    trainer: str
    verdict: Literal["equal", "different"]
    snapshot_recorded: str
    snapshot_rebuilt: str | None
    model_recorded: str
    model_rebuilt: str
    seconds: float
    differences: tuple[Difference, ...]
    explanation: str


def reproduce(uc: UseCase, version: str) -> Reproduction:
    """Make a registered model again from its manifest and compare; write nothing.

    Args:
        uc: The use case as it is today.
        version: A registered version of its model.

    Raises:
        DataError: It cannot be made again: there is no such version or manifest, its data are gone, or this
            release does not understand its configuration.
        TransientError: The storage failed.
    """
    began = time.monotonic()
    recorded = _manifest_of(uc, version)
    then = _usecase_of(recorded)
    data_differences, located = _data(uc, recorded)
    rows, snapshot_rebuilt = _rows(then, recorded, located)
    with tempfile.TemporaryDirectory() as scratch:
        built = build(then, recorded.trainer, rows, recorded.data.snapshot, Path(scratch) / MODEL_FOLDER)
    params = built.fit.params
    found = [
        *data_differences,
        *_code(recorded.code),
        *_configuration(recorded, uc, params),
        *_environment(recorded.environment, manifest.environment(params)),
        *_randomness(recorded.randomness, manifest.randomness(uc)),
    ]
    order = get_args(Cause)
    found.sort(key=lambda one: (not one.in_effect, order.index(one.cause)))
    model_rebuilt = built.model.content_hash
    equal = (snapshot_rebuilt, model_rebuilt) == (recorded.data.snapshot_hash, recorded.model_hash)
    return Reproduction(
        usecase=uc.name,
        version=version,
        trainer=recorded.trainer,
        verdict="equal" if equal else "different",
        snapshot_recorded=recorded.data.snapshot_hash,
        snapshot_rebuilt=snapshot_rebuilt,
        model_recorded=recorded.model_hash,
        model_rebuilt=model_rebuilt,
        seconds=time.monotonic() - began,
        differences=tuple(found),
        explanation=_explained(recorded, snapshot_rebuilt, model_rebuilt, found),
    )


def _manifest_of(uc: UseCase, version: str) -> Manifest:
    snapshot_hash, model_hash = _hashes_of(uc, version)
    try:
        found = manifest.kept(uc, snapshot_hash, model_hash)
    except ValidationError as error:
        raise DataError(
            f"the manifest of version {version} cannot be read: {_problems(error)}",
            rule="a manifest is read by the release that wrote it, or a later one that knows its form",
            where=f"{uc.name}, model {model_hash[:12]}",
            cure="check out the commit that the run's tag git_commit names, and reproduce there",
        ) from error
    if found is None:
        raise DataError(
            f"version {version} has no manifest",
            rule="each training writes a manifest beside its snapshot",
            where=f"{uc.name}, snapshot {snapshot_hash[:12]}, model {model_hash[:12]}",
            cure="versions of releases before manifests cannot be reproduced; if this one had it, restore "
            "snapshots/ of the lake from a backup, or put the run's manifest.json there",
        )
    return found


def _hashes_of(uc: UseCase, version: str) -> tuple[str, str]:
    """Return the content hashes of a version's snapshot and model."""
    for entry in reversed(deployments.history(uc)):
        if entry.version == version:
            return entry.snapshot_hash, entry.model_hash
    # Never deployed: only the registry knows it. One that does not exist is not created for this.
    if settings().mlflow_url or (settings().home / "mlflow" / "mlflow.db").is_file():
        from mlflow.exceptions import MlflowException

        try:
            tags = tracking.client(uc).get_model_version(uc.name, version).tags
            return tags["snapshot_hash"], tags["content_hash"]
        except MlflowException:
            pass
    raise DataError(
        f"{uc.name} has no model version {version!r}",
        rule="what is reproduced was deployed or registered",
        where=f"deployment log of {uc.name}, and registered model {uc.name} in {settings().mlflow_uri}",
        cure="name a version that MLflow or the deployment log lists",
    )


def _usecase_of(recorded: Manifest) -> UseCase:
    try:
        then = UseCase.model_validate(recorded.configuration.usecase)
    except ValidationError as error:
        raise DataError(
            f"this release does not understand the recorded configuration: {_problems(error)}",
            rule="the recorded use case follows nightshift.usecase.UseCase of today",
            where=f"{recorded.usecase}, manifest of model {recorded.model_hash[:12]}",
            cure=f"check out commit {recorded.code.commit} and reproduce there",
        ) from error
    training = then.training.model_copy(update={"seed": recorded.randomness.seeds["training"]})
    return then.model_copy(update={"training": training})


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])


# Data -----------------------------------------------------------------------------------------------


def _data(uc: UseCase, recorded: Manifest) -> tuple[list[Difference], dict[str, contents.Located]]:
    found: list[Difference] = []
    located = {}
    for layer, read in recorded.data.tables.items():
        located[layer] = contents.locate(uc, layer, read.partitions, read.table_version)
        published = {day: one.content_hash for day, one in tables.partition_versions(uc, layer).items()}
        found += _partitions(layer, read, published, set(located[layer].gone))
    snapshot = recorded.data.snapshot
    said = feedback.known(uc, snapshot.night, snapshot.train.start, snapshot.train.end)
    now = feedback.version(uc, said)
    if now != snapshot.feedback_version:
        before = snapshot.feedback_version
        found.append(
            Difference(
                cause="data",
                what=f"labels that people gave by {snapshot.night}",
                recorded=f"content {before[:12]}" if before else "none",
                current=f"content {now[:12]}" if now else "none",
                in_effect=True,
            )
        )
    return found, located


def _partitions(
    layer: str, read: TableRead, published: Mapping[date, str], gone: set[date]
) -> Iterator[Difference]:
    for day, content in sorted(read.partitions.items()):
        now = published.get(day)
        if now == content and day not in gone:
            continue
        current = f"content {now[:12]}" if now else "not published"
        if day in gone:
            current += ", its files are lost" if now == content else "; the recorded content is gone"
        yield Difference(
            cause="data",
            what=f"{layer} {day}",
            recorded=f"content {content[:12]}, version {read.table_version} of the table",
            current=current,
            in_effect=day in gone,
        )


def _rows(
    then: UseCase, recorded: Manifest, located: Mapping[str, contents.Located]
) -> tuple[dict[Part, pa.Table], str | None]:
    """Return the rows to learn from, and the hash of their snapshot if the tables still gave it."""
    snapshot = recorded.data.snapshot
    gone = {layer: one.gone for layer, one in located.items() if one.gone}
    if gone:
        try:
            return dict(zip(_LEARNED, load_parts(snapshot, *_LEARNED), strict=True)), None
        except (DataError, TransientError) as error:
            lost = "; ".join(f"{layer} of {_stretches(of_layer)}" for layer, of_layer in gone.items())
            raise DataError(
                f"the data are gone: the tables no longer hold {lost} as they were, and the frozen rows "
                f"cannot be read ({str(error).splitlines()[0]})",
                rule=f"replaced partitions are kept for {then.retention.version_days} days "
                "(retention.version_days), and frozen snapshots for good",
                where=f"{then.name}, snapshot {recorded.data.snapshot_hash[:12]}",
                cure="restore the lake's snapshots/ from a backup; or have the DAG rebuild make those days "
                "again, which gives the same content if their raw objects and the dbt models are the same",
            ) from error
    features, labels = (contents.read(then, layer, located[layer]) for layer in ("features", "labels"))
    start, end = snapshot.train.start, snapshot.holdout.end
    said = feedback.known(then, snapshot.night, snapshot.train.start, snapshot.train.end)
    parts = assemble(then, snapshot.night, features, labels, start, end, said)
    return {part: parts[part] for part in _LEARNED}, hash_of(then, parts)


def _stretches(partitions: tuple[date, ...]) -> str:
    named = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans(partitions)]
    return ", ".join(named[:5]) + (", ..." if len(named) > 5 else "")


# Code -----------------------------------------------------------------------------------------------


def _code(recorded: checkout.Code) -> Iterator[Difference]:
    project = settings().project
    current = checkout.describe(project)
    acts = recorded.sources_hash != current.sources_hash
    difference = checkout.diff_to(project, recorded.commit) if recorded.commit != checkout.UNKNOWN else None
    if difference is None:
        same = recorded.commit == current.commit and not acts
        changed = None
    else:
        same = checkout.diff_hash(*difference) == recorded.diff_hash and not acts
        changed = checkout.changed_lines(recorded.diff, difference[0])
    if same:
        return
    if changed:
        what = f"{sum(changed.values())} lines differ"
    else:  # what runs is not the library of this checkout, or git does not know the commit
        what = "the library's sources differ" if acts else "the library's sources are the same"
    yield Difference(
        cause="code",
        what="checkout",
        recorded=_checkout(recorded),
        current=f"{_checkout(current)}; {what}",
        in_effect=acts,
    )
    for name, lines in (changed or {}).items():
        yield Difference(
            cause="code",
            what=name,
            recorded=f"as of {recorded.commit[:12]}"
            + ("" if recorded.diff_hash == checkout.CLEAN else ", edited"),
            current=f"{lines} lines differ",
            in_effect=acts and checkout.runs_in_training(name),
        )


def _checkout(code: checkout.Code) -> str:
    edited = {checkout.CLEAN: "", checkout.UNKNOWN: ", edits unknown"}.get(code.diff_hash, ", edited")
    return f"{code.commit[:12]}{f' ({code.branch})' if code.branch else ''}{edited}"


# Configuration, environment, randomness -------------------------------------------------------------


def _configuration(recorded: Manifest, uc: UseCase, params: Mapping[str, Any]) -> Iterator[Difference]:
    then, now = recorded.configuration.usecase, uc.model_dump(mode="json")
    for key, old, new in _changes(then, now):
        if key != "training.seed":
            yield Difference(cause="configuration", what=key, recorded=old, current=new, in_effect=False)
    # The trainer was given what was recorded: what it made of it differs only by its own defaults.
    in_json = json.loads(json.dumps(params))
    for key, old, new in _changes(recorded.configuration.params, in_json):
        if key not in ("seed", "device"):
            yield Difference(
                cause="configuration",
                what=f"parameter {key} of {recorded.trainer}",
                recorded=old,
                current=new,
                in_effect=True,
            )


def _environment(recorded: Environment, current: Environment) -> Iterator[Difference]:
    then, now = recorded.model_dump(mode="json"), current.model_dump(mode="json")
    packages = list(_changes(then.pop("packages"), now.pop("packages")))
    # What computes comes first; no other package makes a model another one.
    for computes in (True, False):
        for name, old, new in packages:
            if (name in LIBRARIES) is computes:
                yield Difference(
                    cause="environment", what=f"package {name}", recorded=old, current=new, in_effect=computes
                )
        if computes:
            for what, old, new in _changes(then, now):
                yield Difference(cause="environment", what=what, recorded=old, current=new, in_effect=True)


def _randomness(recorded: Randomness, current: Randomness) -> Iterator[Difference]:
    for name, old, new in _changes(recorded.seeds, current.seeds):
        yield Difference(
            cause="randomness", what=f"seed of {name}", recorded=old, current=new, in_effect=False
        )
    surroundings = {"threads": recorded.threads, **recorded.variables}
    for name, old, new in _changes(surroundings, {"threads": current.threads, **current.variables}):
        yield Difference(cause="randomness", what=name, recorded=old, current=new, in_effect=True)


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield key (dotted), old and new value, readable, wherever two nested mappings differ."""
    for key in dict.fromkeys([*old, *new]):
        name = f"{path}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _changes(before, after, f"{name}.")
        elif before != after or (key in old) != (key in new):
            if isinstance(before, list) and isinstance(after, list):
                before, after = _only(before, after), _only(after, before)
            yield (
                name,
                _readable(before) if key in old else _ABSENT,
                _readable(after) if key in new else _ABSENT,
            )


def _only(of: list[Any], other: list[Any]) -> list[Any]:
    """Return the items that the other list lacks; all of them where lists differ in order alone."""
    same = sorted(map(str, of)) == sorted(map(str, other))
    return of if same else [item for item in of if item not in other]


def _readable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# The verdict in words -------------------------------------------------------------------------------


def _explained(
    recorded: Manifest, snapshot_rebuilt: str | None, model_rebuilt: str, found: list[Difference]
) -> str:
    acting = [one for one in found if one.in_effect]
    same_snapshot = snapshot_rebuilt == recorded.data.snapshot_hash
    same_model = model_rebuilt == recorded.model_hash
    since = f"changed since the training: {len(found)}" if found else "nothing that was recorded has changed"
    if same_snapshot and same_model:
        return since + (", without effect on the model as it was recorded" if found else "")
    if not acting:
        # What the model was made with again is what was recorded, and still it is another.
        used = f"; {_named(found[0])}, but the recorded one was used" if found else ""
        return (
            f"the {'model' if same_snapshot else 'snapshot'} differs although nothing that was recorded and "
            f"acts has changed{used}: either training is not deterministic here, or something acts that no "
            "manifest records"
        )
    words = f"first cause: {_named(acting[0])}"
    if snapshot_rebuilt is not None:
        return words
    frozen = "; trained on the rows that were frozen at the time, the model "
    return words + frozen + ("is equal" if same_model else "differs as well")


def _named(one: Difference) -> str:
    return f"{one.cause}: {one.what} was {one.recorded}, is {one.current}"
