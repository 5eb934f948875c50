"""What users say about predictions: ratings, labels and corrections, in a log that only grows.

It is read as ``events`` are. Of what is said of one key the last word counts, by the moment at which it was
said and not by the one at which it arrived; of one moment, what stands later in the log. A row is of the day
on which it was said, so a correction on a later day is another row, of that day.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.sources.base import Extract
from nightshift.sources.events import Events, EventsOptions, EventsTable
from nightshift.usecase import ColumnName, UseCase

_ORDER, _SAID = "change:order", "change:said"


class FeedbackTable(EventsTable):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    label: ColumnName | None = Field(
        None, description="Column with 0 or 1: a label of the row's entity. Rows without it are no labels."
    )
    by: ColumnName | None = Field(None, description="Column that says who gave the label.")


class FeedbackOptions(EventsOptions):
    """``options`` of the source in ``sources.yml``."""

    tables: Mapping[str, FeedbackTable] = Field(description="Every table of the source.")


class Feedback(Events):
    """Yields tables of feedback; see the module."""

    Options: ClassVar[type[EventsOptions]] = FeedbackOptions
    options: FeedbackOptions

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is listed yet.

        Raises:
            DataError: An option is wrong or missing.
        """
        super().__init__(usecase, source)
        for name in self.options.tables:
            self._check_label(name)

    def feedback(self, table: str) -> FeedbackTable:
        """Return the options of a table.

        Raises:
            DataError: No such table.
        """
        self.declared(table)
        return self.options.tables[table]

    def _known(self, table: str, as_of: datetime, said: pa.Table, batches: list[journal.Batch]) -> Extract:
        """Return the rows that follow from changes of the journal: of each key, the last word."""
        moment = pc.coalesce(said[self.options.tables[table].time], said[journal.KNOWN_AT])
        order = pa.array(range(said.num_rows), pa.int64())
        by_time = said.append_column(_SAID, moment).append_column(_ORDER, order)
        by_time = by_time.sort_by([(_SAID, "ascending"), (_ORDER, "ascending")])
        return super()._known(table, as_of, by_time.drop_columns([_SAID, _ORDER]), batches)

    def _check_label(self, name: str) -> None:
        chosen, columns = self.feedback(name), self.declared(name).columns
        if chosen.label is None:
            return
        wanted = {
            chosen.label: ("int64", "float64", "boolean"),
            self.usecase.entity: ("string",),
            **({chosen.by: ("string",)} if chosen.by else {}),
        }
        for column, types in wanted.items():
            if column not in columns or columns[column].type not in types:
                raise DataError(
                    f"{name} has no column {column!r} of type {' or '.join(types)}",
                    rule=f"a table with labels has the entity ({self.usecase.entity}), 0 or 1 under `label`, "
                    "and text under `by`",
                    where=f"{self.usecase.name}/sources.yml: sources.{self.source}.tables.{name}.columns",
                    cure="declare it so, or leave `label` out: then nothing of the table is a label",
                )
