"""What every connector promises, whatever stands behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from nightshift.partition import days
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Extract:
    """One partition of one source table, as it was known at one moment.

    Attributes:
        table: The rows, with the columns the catalogue declares.
        query: How the rows were found, in words or SQL, for the manifest.
    """

    table: pa.Table
    query: str


class Connector(ABC):
    """Reads one source.

    Reading is pure: the same (table, partition, as_of) gives the same rows, or later versions of them
    where the upstream was corrected.
    """

    @abstractmethod
    def __init__(self, usecase: UseCase, source: str) -> None:
        """Prepare to read ``source`` of ``usecase``, with that source's ``options``.

        Raises:
            DataError: The options are not valid.
        """

    @abstractmethod
    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return the rows of ``partition`` that were known at ``as_of``, or before.

        ``as_of`` is aware. A day on which nothing happened is an extract without rows, not an error.

        Raises:
            DataError: No such table, a partition before the history, or data that cannot be read.
            TransientError: The upstream cannot be reached now.
        """

    def read_range(
        self, table: str, start: date, end: date, as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        """Return one extract for each partition from ``start`` to ``end``, both included.

        ``as_of_of`` gives the moment as of which each partition is read. The rows are those of
        ``read``, partition by partition; connectors override this where reading many at once is cheaper.
        """
        return {day: self.read(table, day, as_of_of(day)) for day in days(start, end)}
