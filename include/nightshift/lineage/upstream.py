"""What a published day of any layer was made of, down to raw objects and models."""

from __future__ import annotations

from datetime import date

from nightshift.inference.score import LAYER as PREDICTIONS
from nightshift.inference.shadow import LAYER as SHADOW
from nightshift.lineage.derived import FEATURES, INPUTS, LABELS, Content, made_from
from nightshift.lineage.graph import Drawing
from nightshift.lineage.models import add_scorer, named
from nightshift.lineage.partitions import add_built, add_partition
from nightshift.usecase import UseCase

BUILT = (FEATURES, LABELS)
SCORED = (PREDICTIONS, SHADOW)


def add_upstream(drawing: Drawing, uc: UseCase, about: Content) -> None:
    """Add all that a day, which is there, was made of. Each layer is read once, whatever leads to it."""
    wanted: dict[str, set[Content]] = {about.layer: {about}}

    def link(start: Content, end: Content) -> None:
        wanted.setdefault(start.layer, set()).add(start)
        drawing.link(add_partition(drawing, *start), end.id)

    for layer in reversed(list(INPUTS)):
        if days := wanted.get(layer):
            made = made_from(uc, layer, min(one.day for one in days), max(one.day for one in days))
            for one in sorted(days & made.keys()):
                for start in made[one]:
                    link(start, one)
    for layer in SCORED:
        rows = named(uc, layer) if layer in wanted else {}
        for one in sorted(wanted.get(layer, ())):
            row = rows.get(one.day)
            if row is not None and row["content_hash"] == one.content:
                link(Content(FEATURES, one.day, row["feature_version"]), one)
                drawing.link(add_scorer(drawing, uc, row["model_version"], row["model_hash"]), one.id)
    for layer in BUILT:
        # Of a day that was published again, two contents may be wanted.
        waiting = sorted(wanted.get(layer, ()))
        while waiting:
            contents: dict[date, str] = {one.day: one.content for one in waiting}
            add_built(drawing, uc, layer, contents)
            waiting = [one for one in waiting if contents[one.day] != one.content]
