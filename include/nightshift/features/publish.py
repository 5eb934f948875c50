"""Publishing staged partitions to the lake."""

from __future__ import annotations

from collections.abc import Sequence

from nightshift.errors import DataError
from nightshift.lake.staging import Staged, read_staged
from nightshift.lake.tables import PartitionVersion, replace_partitions
from nightshift.usecase import UseCase


def publish(uc: UseCase, staged: Sequence[Staged]) -> list[PartitionVersion]:
    """Replace partitions of one layer by what was staged, in one commit; equal content changes nothing.

    A partition that a run beside this one published from newer raw versions meanwhile stays as it is.

    Raises:
        DataError: A partition belongs to another use case, or staged rows were changed on the way.
        TransientError: Staged rows are gone, or other writers kept winning.
    """
    for item in staged:
        if item.usecase != uc.name:
            raise DataError(
                f"a partition of {item.usecase!r} cannot be published for {uc.name!r}",
                rule="a use case publishes its own partitions",
                where=item.key,
                cure="stage it again for this use case",
            )
    contents = {item.partition: read_staged(item) for item in staged}
    builds = {item.partition: item.build for item in staged if item.build}
    return replace_partitions(uc, staged[0].layer, contents, staged[0].key_columns, builds=builds)
