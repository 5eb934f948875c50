"""What one prediction was made of, and what was made of it."""

from __future__ import annotations

from datetime import date
from typing import Any

from nightshift.inference.explain import find_prediction, not_found
from nightshift.inference.score import LAYER
from nightshift.lake import contents, tables
from nightshift.lineage.derived import Content
from nightshift.lineage.graph import Drawing, Graph, Node
from nightshift.lineage.models import add_scorer
from nightshift.lineage.partitions import add_built, add_partition
from nightshift.lineage.reports import add_uses
from nightshift.registry import deployments
from nightshift.usecase import UseCase

HAS_LINEAGE = "only what was scored has a lineage"


def lineage_of_prediction(uc: UseCase, entity: str, day: date) -> Graph:
    """Return what the prediction of an entity on a day was made of, and what was made of that day's.

    Down to raw objects it goes by two ways: through the features of the day that were scored, and through the
    model and what that had learned from.

    Raises:
        DataError: Nothing was predicted of it on that day.
    """
    row = find_prediction(uc, entity, day)
    if row is None:
        raise not_found(uc, entity, day, rule=HAS_LINEAGE)
    drawing = Drawing()
    about = drawing.add(_prediction(uc, row))
    (features,) = add_built(drawing, uc, "features", {day: row["feature_version"]})
    drawing.link(features, about)
    drawing.link(_model(drawing, uc, row), about)
    _say_what_changed(drawing, uc, row)
    published = tables.partition_version(uc, LAYER, day)
    if published is not None:
        predictions = add_partition(drawing, LAYER, day, published.content_hash)
        drawing.link(about, predictions)
        add_uses(drawing, uc, [Content(LAYER, day, published.content_hash)])
    return drawing.graph(uc.name, about)


def _prediction(uc: UseCase, row: dict[str, Any]) -> Node:
    day, entity = row["partition"], row[uc.entity]
    moment = row[uc.event_time]
    return Node(
        id=f"prediction:{day}/{entity}",
        kind="prediction",
        name=f"prediction of {entity}",
        day=day,
        facts={
            "night": day.isoformat(),
            uc.entity: entity,
            **({uc.event_time: moment.isoformat()} if moment else {}),
            "score": f"{row['score']:.6f}",
            "decision": "yes" if row["decision"] else "no",
            "run": row["run_id"] or "without a name",
            "model_version": row["model_version"],
            "model_hash": row["model_hash"],
            "feature_version": row["feature_version"],
        },
    )


def _model(drawing: Drawing, uc: UseCase, row: dict[str, Any]) -> str:
    """Add the model that a prediction names, and what it was made of; return its id."""
    version, day = row["model_version"], row["partition"]
    model = add_scorer(drawing, uc, version, row["model_hash"])
    if drawing.nodes[model].missing:
        return model
    in_force = deployments.champion_at(uc, day)
    if in_force is None or in_force.version != version:
        other = f"version {in_force.version}" if in_force else "none"
        drawing.note(
            f"in force on {day} is {other}, by the log of today: the day was scored before that was decided"
        )
    return model


def _say_what_changed(drawing: Drawing, uc: UseCase, row: dict[str, Any]) -> None:
    """Note what has become of the features since they were scored."""
    day, content = row["partition"], row["feature_version"]
    standing = tables.partition_version(uc, "features", day)
    if standing is not None and standing.content_hash == content:
        return
    gone = contents.locate(uc, "features", {day: content}, hint=-1).gone
    kept = f"retention has removed their rows (retention.version_days: {uc.retention.version_days})"
    drawing.note(
        f"the features of {day} that were scored ({content[:12]}) are not those of now"
        + (f" ({standing.content_hash[:12]})" if standing else ", which are none")
        + (f", and {kept}" if gone else "")
    )
