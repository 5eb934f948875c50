"""Publishing: the staged predictions of a day become the day's partition, atomically."""

from __future__ import annotations

import logging
from datetime import date

from nightshift.errors import DataError
from nightshift.inference.score import LAYER
from nightshift.lake import tables
from nightshift.lake.staging import Staged, read_staged
from nightshift.lake.tables import PartitionVersion
from nightshift.registry.deployments import champion_at
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

# What predictions are made of, each of them one value a day.
_VERSIONS = ("feature_version", "model_hash")


def publish_predictions(uc: UseCase, staged: Staged) -> PartitionVersion:
    """Replace one partition of the predictions with ``staged``; nothing changes when it holds the same.

    What is published stays, too, when it was made by the champion in force from the features of now, and
    ``staged`` was not: of two runs for one day, the one that began earlier may end later.

    Raises:
        DataError: ``staged`` is no prediction of this use case.
        TransientError: The staged object is gone, or another writer was faster.
    """
    if (staged.usecase, staged.layer) != (uc.name, LAYER):
        raise DataError(
            f"staged object {staged.key} holds {staged.layer} of {staged.usecase}",
            rule=f"only staged {LAYER} of {uc.name} are published as such",
            where=f"{uc.name}, publish predictions, partition {staged.partition}",
            cure="pass on what the score step returned",
        )
    predictions = read_staged(staged)
    made_of = predictions.select(_VERSIONS).slice(0, 1).to_pylist()

    def stays(day: date) -> bool:
        features, champion = tables.partition_version(uc, "features", day), champion_at(uc, day)
        if features is None or champion is None:
            return False
        now = {"feature_version": features.content_hash, "model_hash": champion.model_hash}
        if made_of == [now] or tables.constants(uc, LAYER, day, day, _VERSIONS).get(day) != now:
            return False
        log.warning(
            "%s, predictions of %s stay: they are of the features and the champion of now, and what was to "
            "replace them is not",
            uc.name,
            day,
        )
        return True

    return tables.replace_partition(uc, LAYER, staged.partition, predictions, [uc.entity], stays=stays)
