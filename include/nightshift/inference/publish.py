"""Publishing: the staged predictions of a day become the day's partition, atomically."""

from __future__ import annotations

from nightshift.errors import DataError
from nightshift.inference.score import LAYER
from nightshift.lake import tables
from nightshift.lake.staging import Staged, read_staged
from nightshift.lake.tables import PartitionVersion
from nightshift.usecase import UseCase


def publish_predictions(uc: UseCase, staged: Staged) -> PartitionVersion:
    """Replace one partition of the predictions with ``staged``; nothing changes when it holds the same.

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
    return tables.replace_partition(uc, LAYER, staged.partition, read_staged(staged), [uc.entity])
