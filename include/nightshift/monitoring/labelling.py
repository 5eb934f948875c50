"""Which predictions people are asked about: those from whose labels the next model learns most.

Each night queues some of the predictions that it made (active learning): rows that the model is unsure
about, and that differ from each other, so that fifty answers do not say the same thing fifty times. A night's
queue follows from its own predictions and features alone. So nights that run twice or in any order end with
the same queues, and nothing is asked twice: an entity belongs to one night. Who reads the queue sees what
still waits for a label: what the pipeline or a person has labelled since has left it.
"""

from __future__ import annotations

import logging
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import tables
from nightshift.registry.encoder import Encoder
from nightshift.registry.scaling import moments, standardize
from nightshift.training import feedback
from nightshift.training.snapshot import LABEL_AVAILABLE_ON
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "monitoring_labelling"

# In standard deviations: one wild number must not make a row differ from all others.
_FARTHEST = 5.0
# Sums differ in their last digits from machine to machine, and must not decide between rows that are alike.
_DECIMALS = 9


def queue(uc: UseCase, night: date) -> dict[str, Any]:
    """Queue the most informative predictions of ``night`` whose labels the night does not know.

    Returns:
        ``status`` (``queued``; ``no predictions``; ``off``, by a budget of 0), how many predictions were
        ``candidates``, and how many of them were ``queued``.
    """
    if uc.labelling.budget == 0:
        return {"status": "off", "candidates": 0, "queued": 0}
    columns = [uc.entity, uc.event_time, "score", "model_hash"]
    predictions = tables.read_partitions(uc, "predictions", night, night)
    features = tables.read_partitions(uc, "features", night, night)
    if not predictions.num_rows or not features.num_rows:
        log.warning("%s %s: nothing to queue for labelling, there are no predictions", uc.name, night)
        return {"status": "no predictions", "candidates": 0, "queued": 0}
    waiting = predictions.select(columns).filter(
        pc.invert(pc.is_in(predictions[uc.entity], value_set=_answered(uc, night, night, night)))
    )
    position = pc.index_in(waiting[uc.entity], value_set=features[uc.entity].combine_chunks())
    waiting, position = waiting.filter(pc.is_valid(position)), position.drop_null()
    vectors = encode(features.take(position), uc.features.categorical, uc.features.numeric)
    unsure = entropy(waiting["score"].to_numpy())
    chosen, distances = choose(unsure, vectors, uc.labelling.budget)
    rows = waiting.take(pa.array(chosen, pa.int64()))
    rows = rows.append_column("rank", pa.array(np.arange(1, len(chosen) + 1), pa.int64()))
    rows = rows.append_column("entropy", pa.array(unsure[chosen], pa.float64()))
    rows = rows.append_column("distance", pa.array(distances, pa.float64()))
    tables.replace_partition(uc, LAYER, night, rows, [uc.entity])
    return {"status": "queued", "candidates": waiting.num_rows, "queued": len(chosen)}


def waiting(uc: UseCase, night: date) -> pa.Table:
    """Return what waits for a label as of ``night``: the newest night's first, by rank.

    Columns: entity, event time, ``score``, ``model_hash``, ``rank`` within its night, ``entropy``,
    ``distance`` and ``partition``, the night that queued it. No rows where nobody has queued anything.
    """
    start = night - timedelta(days=uc.labelling.horizon_days - 1)
    rows = tables.read_partitions(uc, LAYER, start, night)
    if not rows.num_rows:
        return rows
    said = pa.array(list(feedback.labelled(uc)), pa.string())
    answered = pa.concat_arrays([_answered(uc, night, start, night), said])
    rows = rows.filter(pc.invert(pc.is_in(rows[uc.entity], value_set=answered)))
    return rows.sort_by([("partition", "descending"), ("rank", "ascending")])


def entropy(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy of probabilities, in bits: 1 at 0.5, 0 at 0 and 1 (Shannon 1948).

    Ranks as the margin of a binary classifier does: Settles 2009, "Active Learning Literature Survey", 3.1.
    """
    inside = np.clip(score, 1e-12, 1 - 1e-12)
    bits: npt.NDArray[np.float64] = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return np.round(bits, _DECIMALS)


def encode(
    features: pa.Table, categorical: tuple[str, ...], numeric: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Return rows as vectors (rows, dimensions) whose distances say how much rows differ.

    Numbers in standard deviations, what is missing at the mean; a category as a corner of its own, one apart
    from every other.
    """
    encoder = Encoder.fit(features, categorical, numeric)
    codes, numbers = encoder.tensors(features)
    scaled, _ = standardize(numbers, *moments(numbers))
    corners = [
        np.eye(len(known) + 1)[codes[:, place]] / np.sqrt(2)
        for place, known in enumerate(encoder.categories.values())
    ]
    return np.concatenate([np.clip(scaled, -_FARTHEST, _FARTHEST), *corners], axis=1)


def choose(
    unsure: npt.NDArray[np.float64], vectors: npt.NDArray[np.float64], budget: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Choose up to ``budget`` rows one after the other: the most unsure first, then by what each would add.

    The greedy k-center of Sener and Savarese 2018 ("Active Learning for Convolutional Neural Networks: A
    Core-Set Approach", algorithm 1), where the distance to the nearest chosen row counts times how unsure the
    model is. Rows that are alike come in the order given.

    Args:
        unsure: How unsure the model is about each row, shape (rows,).
        vectors: The rows, shape (rows, dimensions).
        budget: How many at most.

    Returns:
        Positions of the chosen rows in the order of choice, and the distance of each to the nearest one
        chosen before it; of the first, 0.
    """
    count = min(budget, len(unsure))
    chosen = np.zeros(count, dtype=np.int64)
    distances = np.zeros(count)
    nearest = np.full(len(unsure), np.inf)
    free = np.ones(len(unsure), dtype=bool)
    lengths = (vectors**2).sum(axis=1)
    for turn in range(count):
        worth = unsure if turn == 0 else unsure * nearest
        pick = int(np.argmax(np.where(free, worth, -1.0)))
        chosen[turn], distances[turn] = pick, nearest[pick] if turn else 0.0
        free[pick] = False
        apart = np.sqrt(np.maximum(lengths + lengths[pick] - 2 * vectors @ vectors[pick], 0))
        nearest = np.minimum(nearest, np.round(apart, _DECIMALS))
    return chosen, distances


def _answered(uc: UseCase, night: date, start: date, end: date) -> pa.Array:
    """Return entities of ``start`` to ``end`` that the pipeline had by ``night`` labelled or ruled out."""
    columns = [uc.entity, uc.label.column, LABEL_AVAILABLE_ON]
    labels = tables.read_partitions(uc, "labels", start, end, columns=columns)
    if not labels.num_rows:
        return pa.array([], pa.string())
    since = pc.cast(labels[LABEL_AVAILABLE_ON], pa.date32())
    known = pc.and_(pc.is_valid(labels[uc.label.column]), pc.less_equal(since, pa.scalar(night, pa.date32())))
    by_now = labels.filter(known)[uc.entity].combine_chunks()
    return pa.concat_arrays([by_now, feedback.undefined(uc, labels, night)])
