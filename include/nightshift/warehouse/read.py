"""Reading a dbt relation as Arrow."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from nightshift.errors import TransientError
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine, quoted


def read(uc: UseCase, relation: str, start: date, end: date) -> pa.Table:
    """Return the rows of a dbt relation from partition ``start`` to ``end``, both included.

    Timestamps come as UTC with microseconds. The order of rows means nothing.

    Raises:
        TransientError: The relation was not built yet, or the warehouse is locked or out of reach.
    """
    with engine().connect(read_only=True) as connection:
        built = connection.execute(
            "select 1 from information_schema.tables where table_schema = $1 and table_name = $2",
            [uc.name, relation],
        )
        if not built:
            raise TransientError(f"{uc.name}.{relation} is not in the warehouse: it was not built yet")
        return connection.query(
            f"select * from {quoted(uc.name, relation)} where partition between $1 and $2",  # nosec B608  # quoted
            [start, end],
        )
