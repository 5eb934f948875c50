"""What a registered version was made of, by its own manifest, and what it made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Any

from pydantic import ValidationError

from nightshift.inference.score import LAYER as PREDICTIONS
from nightshift.inference.shadow import LAYER as SHADOW
from nightshift.lake import tables
from nightshift.lake.store import open_store
from nightshift.lineage.derived import Content
from nightshift.lineage.graph import Drawing, Graph, Node
from nightshift.lineage.partitions import add_partition, add_raw, raw_id
from nightshift.lineage.reports import add_uses, evaluation_pages, report
from nightshift.registry import states
from nightshift.registry.records import Deployment
from nightshift.registry.states import Standing
from nightshift.training import manifest
from nightshift.training.manifest import Manifest
from nightshift.usecase import UseCase

# By layer and day: which model and features made predictions, and the hash of their content.
Scored = Mapping[str, Mapping[date, Mapping[str, Any]]]


def lineage_of_model(uc: UseCase, version: str) -> Graph:
    """Return what a version was made of, down to raw objects, and what it made.

    Raises:
        DataError: The deployment log does not know the version.
    """
    standing = states.find(uc, version)
    drawing = Drawing()
    about = add_model(drawing, uc, standing)
    add_training(drawing, uc, standing)
    add_use(drawing, uc, standing, scored_by_models(uc))
    return drawing.graph(uc.name, about)


def model_id(version: str) -> str:
    """Return the id of a version."""
    return f"model:{version}"


def add_model(drawing: Drawing, uc: UseCase, standing: Standing) -> str:
    """Add a version, without what it was made of and what it made; return its id."""
    last = standing.entries[-1]
    made = manifest_of(uc, standing)
    facts = {
        "state": standing.state,
        "trainer": last.trainer,
        "trained_night": last.trained_night.isoformat(),
        "trained_through": last.trained_through.isoformat(),
        "model_hash": last.model_hash,
        "run_id": last.run_id,
    }
    if in_force := _in_force(standing):
        facts["in_force"] = in_force
    if made is not None:
        configuration = made.configuration.model_dump_json().encode()
        facts |= {
            "made_at": made.made_at.isoformat(),
            "commit": made.code.commit,
            "edited_since_commit": made.code.diff_hash,
            "configuration_hash": hashlib.sha256(configuration).hexdigest(),
            "environment_hash": made.environment.lock_hash,
            "seeds": ", ".join(f"{name} {seed}" for name, seed in made.randomness.seeds.items()),
        }
    name = f"model version {standing.version}"
    return drawing.add(
        Node(id=model_id(standing.version), kind="model", name=name, group="models", facts=facts)
    )


def add_scorer(drawing: Drawing, uc: UseCase, version: str, model_hash: str) -> str:
    """Add the model that predictions name, and what it was made of; return its id."""
    standing = states.standings(states.read(uc)).get(version)
    if standing is None or standing.entries[-1].model_hash != model_hash:
        why = (
            "the deployment log does not know it"
            if standing is None
            else "the log knows another by its number"
        )
        gone = Node(
            id=f"{model_id(version)}/{model_hash}",
            kind="model",
            name=f"model version {version}",
            group="models",
            facts={"model_hash": model_hash},
            missing=why,
        )
        return drawing.add(gone)
    if model_id(version) not in drawing.nodes:
        add_model(drawing, uc, standing)
        add_training(drawing, uc, standing)
    return model_id(version)


def add_training(drawing: Drawing, uc: UseCase, standing: Standing) -> None:
    """Add the snapshot that a version learned from, the days that it froze, and the raw behind them."""
    last, model = standing.entries[-1], model_id(standing.version)
    made = manifest_of(uc, standing)
    if made is None:
        identity = f"snapshot:{last.snapshot_hash}"
        why = "the version has no manifest that this release can read, so nobody knows what it was made of"
        drawing.add(
            Node(id=identity, kind="snapshot", name=f"snapshot {last.snapshot_hash[:12]}", missing=why),
            makes=[model],
        )
        return
    frozen = made.data.snapshot
    gone = [one.key for one in (frozen.data, frozen.sealed) if not open_store().exists(one.key)]
    snapshot = drawing.add(
        Node(
            id=f"snapshot:{made.data.snapshot_hash}",
            kind="snapshot",
            name=f"snapshot {made.data.snapshot_hash[:12]}",
            group="snapshots",
            facts={
                "content_hash": made.data.snapshot_hash,
                "days": f"{frozen.train.start} to {frozen.holdout.end}",
                "night": frozen.night.isoformat(),
                **{
                    part: f"{window.start} to {window.end}, {window.rows} rows"
                    for part, window in (
                        ("train", frozen.train),
                        ("validation", frozen.validation),
                        ("holdout", frozen.holdout),
                    )
                },
                "object": frozen.data.key,
                "holdout_object": frozen.sealed.key,
                **({"feedback_version": frozen.feedback_version} if frozen.feedback_version else {}),
            },
            missing=f"gone from the lake: {', '.join(gone)}" if gone else "",
        ),
        makes=[model],
    )
    if frozen.feedback_version:
        people = Node(id="layer:feedback", kind="layer", name="labels that people gave")
        drawing.add(people, makes=[snapshot])
    days = [
        add_partition(drawing, layer, day, content)
        for layer, read in made.data.tables.items()
        for day, content in read.partitions.items()
    ]
    for day in days:
        drawing.link(day, snapshot)
    unknown = {layer: number for layer, number in made.data.unknown_origin.items() if number}
    lacking = ", ".join(f"{number} of {layer}" for layer, number in unknown.items())
    builds = add_builds(
        drawing, made, f"nobody recorded what these days were built from: {lacking}" if lacking else ""
    )
    for day in days:
        drawing.link(builds, day)
    _add_raw(drawing, uc, made, builds)


def add_builds(drawing: Drawing, made: Manifest, missing: str = "") -> str:
    """Add the builds of the days that a version learned from, as one; return their id."""
    return drawing.add(
        Node(
            id=f"builds:{made.data.snapshot_hash}",
            kind="build",
            name=f"builds of the days of snapshot {made.data.snapshot_hash[:12]}",
            group="builds of snapshots",
            missing=missing,
        )
    )


def add_use(drawing: Drawing, uc: UseCase, standing: Standing, scored: Scored) -> None:
    """Add what a version made: the nights it scored, what was made of those, its evaluation, its card.

    Args:
        drawing: To add it to.
        uc: The use case.
        standing: The version.
        scored: What ``scored_by_models`` returned, for who asks about many versions.
    """
    last, model = standing.entries[-1], model_id(standing.version)
    own: list[Content] = []
    for layer, days in scored.items():
        for day, row in days.items():
            if row["model_hash"] == last.model_hash:
                content = row["content_hash"]
                identity = add_partition(drawing, layer, day, content, model_version=row["model_version"])
                drawing.link(model, identity)
                own.append(Content(layer, day, content))
    add_uses(drawing, uc, own)
    if page := evaluation_pages(uc).get(last.trained_night):
        drawing.add(report("evaluations", last.trained_night, page), made_of=[model])
    card = Node(
        id=f"report:card/{standing.version}",
        kind="report",
        name=f"model card of version {standing.version}",
        group="model cards",
        facts={"command": f"nightshift registry show {standing.version} --card", "run_id": last.run_id},
    )
    drawing.add(card, made_of=[model])


def scored_by_models(uc: UseCase) -> Scored:
    """Return what is published of nights that models scored, by layer, as ``named`` returns it."""
    return {layer: named(uc, layer) for layer in (PREDICTIONS, SHADOW)}


def named(uc: UseCase, layer: str) -> dict[date, dict[str, Any]]:
    """Return by day which model and features made predictions of a layer, and the hash of their content."""
    published = tables.partition_versions(uc, layer)
    if not published:
        return {}
    columns = ["model_version", "model_hash", "feature_version"]
    rows = tables.constants(uc, layer, min(published), max(published), columns)
    return {
        day: {**rows[day], "content_hash": version.content_hash}
        for day, version in published.items()
        if day in rows
    }


def manifest_of(uc: UseCase, standing: Standing) -> Manifest | None:
    """Return the manifest of a version; None when there is none that this release can read."""
    last = standing.entries[-1]
    try:
        return manifest.kept(uc, last.snapshot_hash, last.model_hash)
    except ValidationError:
        return None


def inputs_of(made: Manifest) -> tuple[str, ...]:
    """Return the features that a model reads, by its own manifest."""
    features: Mapping[str, Any] = made.configuration.usecase["features"]
    return (*features["categorical"], *features["numeric"])


def _add_raw(drawing: Drawing, uc: UseCase, made: Manifest, builds: str) -> None:
    """Add the raw versions that a manifest names."""
    wanted: dict[str, dict[date, set[tuple[int, str]]]] = {}
    for title, objects in made.data.raw.items():
        for day, one in objects.items():
            wanted.setdefault(title, {})[day] = {(one.version, one.content_hash)}
            drawing.link(raw_id(title, day, one.version, one.content_hash), builds)
    add_raw(drawing, uc, wanted)


def _in_force(standing: Standing) -> str:
    """Return in words since when a version has been in force, each time; empty when it never was."""
    return "; ".join(
        f"{entry.action} from {entry.effective_from} on, by {entry.by}"
        for entry in standing.entries
        if isinstance(entry, Deployment)
    )
