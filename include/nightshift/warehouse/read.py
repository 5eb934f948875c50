"""Reading a dbt relation as Arrow."""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from nightshift.errors import TransientError
from nightshift.usecase import UseCase
from nightshift.warehouse.connection import connect


def read(uc: UseCase, relation: str, start: date, end: date) -> pa.Table:
    """Return the rows of a dbt relation from partition ``start`` to ``end``, both included.

    Timestamps come as UTC with microseconds. The order of rows means nothing.

    Raises:
        TransientError: The relation was not built yet, or the warehouse is locked.
    """
    with connect(read_only=True) as connection:
        try:
            return connection.sql(
                f'select * from "{uc.name}"."{relation}" where partition between ? and ?', params=[start, end]
            ).to_arrow_table()
        except duckdb.CatalogException as error:
            raise TransientError(
                f"{uc.name}.{relation} is not in the warehouse: it was not built yet"
            ) from error
