"""Publishing one staged partition to the lake."""

from __future__ import annotations

from nightshift.errors import DataError
from nightshift.lake.staging import Staged, read_staged
from nightshift.lake.tables import PartitionVersion, replace_partition
from nightshift.usecase import UseCase


def publish(uc: UseCase, staged: Staged) -> PartitionVersion:
    """Replace one partition of the layer by what was staged, atomically; equal content changes nothing.

    Raises:
        DataError: The partition belongs to another use case, or the staged rows were changed on the way.
        TransientError: The staged rows are gone, or other writers kept winning.
    """
    if staged.usecase != uc.name:
        raise DataError(
            f"a partition of {staged.usecase!r} cannot be published for {uc.name!r}",
            rule="a use case publishes its own partitions",
            where=staged.key,
            cure="stage it again for this use case",
        )
    return replace_partition(uc, staged.layer, staged.partition, read_staged(staged), staged.key_columns)
