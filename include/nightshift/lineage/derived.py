"""What days after predictions were made of: truth joined to them, windows, drift, all that is kept of them.

One table (``INPUTS``) and one function (``made_from``) say it, whichever way a question goes, so that what a
day was made of and what was made of a day cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

from nightshift.inference import performance
from nightshift.inference.score import LAYER as PREDICTIONS
from nightshift.inference.shadow import LAYER as SHADOW
from nightshift.lake import tables
from nightshift.lineage.graph import Drawing
from nightshift.lineage.partitions import add_partition, partition_id
from nightshift.monitoring import drift, estimates, labelling, shadow, truth, windows
from nightshift.monitoring import predictions as summaries
from nightshift.usecase import UseCase

FEATURES, LABELS = "features", "labels"

INPUTS: Mapping[str, tuple[str, ...]] = {
    performance.LAYER: (PREDICTIONS,),
    drift.LAYER: (PREDICTIONS, FEATURES),
    summaries.LAYER: (PREDICTIONS, FEATURES),
    estimates.LAYER: (PREDICTIONS,),
    labelling.LAYER: (PREDICTIONS, FEATURES),
    truth.OUTCOMES: (PREDICTIONS, LABELS, FEATURES),
    truth.OBSERVED: (PREDICTIONS, LABELS),
    truth.RESTATED: (PREDICTIONS, LABELS),
    windows.WINDOWS: (truth.OUTCOMES,),
    windows.SLICES: (truth.OUTCOMES,),
    shadow.LAYER: (SHADOW, truth.OUTCOMES),
}
"""By layer, the layers that it is made of; each stands after those that it is made of."""

# The columns that name the content of an input of the same day; of others it is what is published.
_NAMED: Mapping[str, Mapping[str, str]] = {
    performance.LAYER: {PREDICTIONS: "predictions_hash"},
    drift.LAYER: {PREDICTIONS: "predictions_hash", FEATURES: "features_hash"},
    summaries.LAYER: {PREDICTIONS: "inputs"},
    estimates.LAYER: {PREDICTIONS: "inputs"},
    truth.OBSERVED: {PREDICTIONS: "predictions_hash", LABELS: "labels_hash"},
    shadow.LAYER: {SHADOW: "shadow_hash", truth.OUTCOMES: "outcomes_hash"},
}
# Written together with another layer, whose row says it.
_NAMED_BY = {truth.OUTCOMES: truth.OBSERVED, truth.RESTATED: truth.OBSERVED}


class Content(NamedTuple):
    """One content of a day of a layer."""

    layer: str
    day: date
    content: str

    @property
    def id(self) -> str:
        """Return its id in a graph."""
        return partition_id(*self)


def made_from(uc: UseCase, layer: str, first: date, last: date) -> dict[Content, list[Content]]:
    """Return what each published day of a layer of ``INPUTS`` was made of.

    Args:
        uc: The use case.
        layer: The layer.
        first: Of the days.
        last: Of the days.
    """
    own = {day: content for day, content in _published(uc, layer).items() if first <= day <= last}
    if not own:
        return {}
    there = {other: _published(uc, other) for other in INPUTS[layer]}
    named = _named(uc, _NAMED_BY.get(layer, layer), min(own), max(own))
    found = {}
    for day, content in own.items():
        found[Content(layer, day, content)] = [
            Content(other, of, says)
            for other in INPUTS[layer]
            for of, says in _read(uc, layer, day, there[other], named.get(day, {}).get(other))
        ]
    return found


def add_derived(drawing: Drawing, uc: UseCase, starts: Collection[Content]) -> None:
    """Add all days of the layers of ``INPUTS`` that were made of ``starts``, which are there."""
    if not starts:
        return
    first = min(one.day for one in starts)
    last = max(one.day for one in starts) + max(_before(uc, layer) for layer in INPUTS)
    reached = {one.id for one in starts}
    for layer in INPUTS:
        for made, inputs in made_from(uc, layer, first, last).items():
            if reached.isdisjoint(one.id for one in inputs):
                continue
            reached.add(add_partition(drawing, *made))
            for one in inputs:
                if one.id in drawing.nodes:
                    drawing.link(one.id, made.id)


def _read(
    uc: UseCase, layer: str, day: date, there: Mapping[date, str], named: str | None
) -> Iterator[tuple[date, str]]:
    """Yield the days of one input that a day of a layer was made of, with their content."""
    first = day - _before(uc, layer)
    for of, content in there.items():
        if first <= of < day:
            yield of, content
    # A night that could not be scored names no predictions.
    if content := there.get(day, "") if named is None else named:
        yield day, content


def _before(uc: UseCase, layer: str) -> timedelta:
    """Return how far back a day of a layer reads."""
    if layer == drift.LAYER:
        return timedelta(days=max(uc.drift.windows) - 1)
    return windows.LONGEST if layer in (windows.WINDOWS, windows.SLICES) else timedelta(0)


def _named(uc: UseCase, layer: str, first: date, last: date) -> dict[date, dict[str, str]]:
    """Return by day the contents of inputs that the rows of a layer name, by the layer of the input."""
    names = _NAMED.get(layer, {})
    if not names or not set(names.values()) <= set(tables.columns(uc, layer)):
        return {}
    rows: Mapping[date, Mapping[str, Any]] = tables.constants(
        uc, layer, first, last, sorted(set(names.values()))
    )
    # An estimate names the costs after the content.
    return {
        day: {other: str(row[column]).partition(" ")[0] for other, column in names.items()}
        for day, row in rows.items()
    }


def _published(uc: UseCase, layer: str) -> dict[date, str]:
    return {day: version.content_hash for day, version in tables.partition_versions(uc, layer).items()}
