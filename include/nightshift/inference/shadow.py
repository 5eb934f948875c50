"""Scores a night with the challenger that awaits a person's decision, beside the champion.

Nothing of it is served or decided by: its scores lie in a layer of their own, and only ``monitoring.shadow``
reads them. A model scores nights after the one it was trained in, as a champion does.
"""

from __future__ import annotations

import logging
from datetime import date

import numpy as np
import pyarrow as pa

from nightshift.errors import DataError, TransientError
from nightshift.lake import tables
from nightshift.lake.tables import PartitionVersion
from nightshift.registry import models, states
from nightshift.registry.states import Standing
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

LAYER = "shadow_predictions"


def challenger(uc: UseCase) -> Standing | None:
    """Return the newest version that passed the gate and awaits a decision; None when none does."""
    waiting = [of for of in states.standings(states.read(uc)).values() if of.state == "challenger"]
    return max(waiting, key=lambda of: of.since, default=None)


def score_shadow(uc: UseCase, partition: date) -> PartitionVersion | None:
    """Score ``partition`` with the challenger and publish that as shadow predictions.

    Returns:
        What is published; None, and nothing changes, when there is no challenger or it was not trained before
        that night.

    Raises:
        DataError: Its features lack a column that the challenger reads, or a score is no probability.
        TransientError: The features of the day are not published yet, or were replaced while being read.
    """
    standing = challenger(uc)
    if standing is None or partition <= standing.entries[0].trained_night:
        return None
    model = models.load_model(uc, standing.version, standing.entries[0].model_hash)
    columns = list(dict.fromkeys((uc.entity, *model.feature_columns)))
    features, batches = tables.scan_version(uc, "features", partition, columns=columns)
    if features is None:
        raise TransientError(f"features of {uc.name} {partition} are not published yet")
    entities, scores = [], [np.empty(0)]
    for batch in batches:
        entities += batch.column(uc.entity).cast(pa.string()).to_pylist()
        scores.append(model.predict_proba(batch))
    score = np.concatenate(scores)
    if not np.all((score >= 0) & (score <= 1)):
        raise DataError(
            f"version {standing.version} gives {partition} scores that are no probabilities",
            rule="a score lies between 0 and 1",
            where=f"{uc.name}, {LAYER}, partition {partition}",
            cure=f"reject version {standing.version}: as champion it would fail this night",
        )
    rows = score.size
    table = pa.table(
        {
            uc.entity: pa.array(entities, pa.string()),
            "partition": pa.repeat(pa.scalar(partition, pa.date32()), rows),
            "score": pa.array(score, pa.float64()),
            "decision": pa.array(score >= model.threshold, pa.bool_()),
            "model_version": pa.repeat(model.version, rows),
            "model_hash": pa.repeat(model.content_hash, rows),
            "feature_version": pa.repeat(features.content_hash, rows),
        }
    )
    log.info("scored %s %s in shadow: %d rows, version %s", uc.name, partition, rows, model.version)
    return tables.replace_partition(uc, LAYER, partition, table, [uc.entity])
