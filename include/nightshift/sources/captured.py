"""Connectors whose upstream forgets: what it sends is kept in a journal, and partitions are read from there.

Upstream is asked once for each change. So a partition reads the same whenever it is read, also after
upstream has changed or deleted the row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.protection import protect, seal, unseal
from nightshift.partition import days
from nightshift.sources.base import Connector, Extract
from nightshift.sources.contract import check_columns
from nightshift.usecase import Table, UseCase

# As PostgreSQL's log, its casts, and most files write them.
_BOOLEANS = {"t": True, "true": True, "True": True, "TRUE": True}
_BOOLEANS |= {"f": False, "false": False, "False": False, "FALSE": False}
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""Before anything was known."""
# A night that runs as late as this has still run in its time.
_IN_ITS_TIME = timedelta(days=2)


class CapturedConnector(Connector):
    """A connector that reads its partitions from the journal that it writes.

    Attributes:
        usecase: The use case.
        source: The name of the source in its catalogue.
        day_columns: For each table with a partition a day, the column that says which, of type ``date`` or
            ``timestamp`` (whose day is that of the use case's time zone). A row without one is of the day on
            which it became known.
    """

    def __init__(self, usecase: UseCase, source: str, day_columns: Mapping[str, str | None]) -> None:
        """Keep what reading needs.

        Args:
            usecase: The use case.
            source: The name of the source in its catalogue.
            day_columns: As the attribute; a table that is not there says the day of its changes itself.

        Raises:
            DataError: A table has no such column where it needs one, or one of another type.
        """
        self.usecase = usecase
        self.source = source
        self.day_columns = day_columns
        for name, table in usecase.sources[source].tables.items():
            if table.refresh == "daily" and name in day_columns:
                self._check_day_column(name, table)
            self.require_clear(name, day_columns.get(name), "day")

    def capture(self, table: str, by: datetime | None = None) -> int:
        """Write all that upstream has of a table and the journal has not; return how many changes.

        Safe to call from several processes at once, and to kill at any moment.

        Args:
            table: A table of the source.
            by: The moment (aware) as of which a night reads the table afterwards; none does by default. What
                comes later is not known to that night, and upstream is not asked again for it.

        Raises:
            DataError: No such table, upstream's columns differ from the catalogue's, or changes were lost for
                good.
            TransientError: Upstream or the lake cannot be reached.
        """
        self.declared(table)
        night = journal.last_night(self.usecase, self.source, table)
        if by is not None and night is not None and by <= night:
            return 0
        captured = self._capture(table)
        # A night of long ago, or one to come, is told by upstream's own times: more of it may be brought.
        in_its_time = by is not None and timedelta(0) <= datetime.now(UTC) - by <= _IN_ITS_TIME
        # Nothing at all is more often a mistake in sources.yml than what a night found.
        if by and in_its_time and journal.last(self.usecase, self.source, table):
            journal.note_night(self.usecase, self.source, table, by)
        return captured

    @abstractmethod
    def _capture(self, table: str) -> int:
        """Write to the journal what upstream has shown since; as ``capture``."""

    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return the rows of ``partition`` that follow from the changes known at ``as_of``.

        Raises:
            DataError: No such table, or the journal is damaged.
        """
        return self.read_range(table, partition, partition, lambda _: as_of)[partition]

    def read_range(
        self, table: str, start: date, end: date, as_of_of: Callable[[date], datetime]
    ) -> dict[date, Extract]:
        """Return one extract for each partition; the journal of a slow table is read once for all of them.

        Raises:
            DataError: As ``read``.
        """
        slow = self.declared(table).refresh == "slow"
        whole = self._of_day(table, None) if slow else None
        return {
            day: self._known(table, as_of_of(day), *(whole or self._of_day(table, day)))
            for day in days(start, end)
        }

    def _of_day(self, table: str, day: date | None) -> tuple[pa.Table, list[journal.Batch]]:
        return journal.changes_of(self.usecase, self.source, table, day)

    def _known(self, table: str, as_of: datetime, said: pa.Table, batches: list[journal.Batch]) -> Extract:
        rows = journal.known(said, self.declared(table).key, as_of)
        found = f"batches {', '.join(str(batch.number) for batch in batches)}" if batches else "no batch"
        query = f"{found} of the journal of {self.source}.{table}, known at {as_of.isoformat()}"
        return Extract(rows, f"{query}; the last: {batches[-1].query}" if batches else query)

    def declared(self, table: str) -> Table:
        """Return what the catalogue says of a table.

        Raises:
            DataError: No such table.
        """
        tables = self.usecase.sources[self.source].tables
        if table not in tables:
            raise DataError(
                f"there is no table {table!r}",
                rule=f"the tables of {self.source} are {', '.join(tables)}",
                where=f"{self.usecase.name}/{self.source}",
                cure="use one of these, or declare it in sources.yml",
            )
        return tables[table]

    def changes(
        self,
        table: str,
        rows: pa.Table,
        *,
        known_at: pa.ChunkedArray,
        kinds: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        day: date | None = None,
        copied: bool = False,
    ) -> pa.Table:
        """Return rows as changes that the journal takes: checked against the catalogue, and protected by it.

        Args:
            table: A table of the source.
            rows: Its rows, in the order of the changes.
            known_at: When each change became known (timestamps in UTC).
            kinds: What each change is (``journal.UPSERT``, ``journal.DELETE``); all upserts by default.
            units: What each change is a part of that comes and goes as a whole; by default it has a key.
            day: The day that all of them are of, where no column says it.
            copied: The rows were there when the journal began, and nothing but the table's ``available_at``
                tells since when: without it, since the night that would have read them.

        Raises:
            DataError: The columns differ from the catalogue's, or there is no key to protect them with.
        """
        declared = self.declared(table)
        checked = check_columns(self.usecase, self.source, table, rows)
        known_at = known_at.cast(journal.MOMENT)
        column = checked[self.day_columns[table]] if self.day_columns.get(table) else None
        if declared.refresh == "slow" or column is None:
            of_days = pa.chunked_array([pa.array([day] * checked.num_rows, pa.date32())])
        else:
            local = column if pa.types.is_date(column.type) else _local_day(column, self.usecase.timezone)
            of_days = pc.coalesce(local, _local_day(known_at, self.usecase.timezone))
        if copied:
            known_at = self._known_before(declared, checked, of_days, known_at)
        kind = [journal.UPSERT] * checked.num_rows if kinds is None else kinds
        unit = pa.nulls(checked.num_rows, pa.string()) if units is None else pa.array(units, pa.string())
        return (
            protect(self.usecase, self.source, table, checked)
            .append_column(journal.KIND, pa.array(kind, pa.string()))
            .append_column(journal.KNOWN_AT, known_at)
            .append_column(journal.DAY, of_days)
            .append_column(journal.UNIT, unit)
        )

    def hides(self, table: str) -> bool:
        """Tell whether what upstream says of a table may hold personal values: no error repeats it then."""
        return bool(self.declared(table).hidden)

    def kept_position(self, table: str, position: str) -> str:
        """Return a position as the journal takes it: sealed where values of protected columns may be in it.

        Raises:
            DataError: There is no key to seal it with.
        """
        return seal(self.usecase, position) if self.declared(table).protected else position

    def position_of(self, batch: journal.Batch) -> str:
        """Return the position of a batch, as it was before ``kept_position``.

        Raises:
            DataError: It is sealed, and there is not its key.
        """
        return unseal(self.usecase, batch.position)

    def require_clear(self, table: str, column: str | None, place: str) -> None:
        """Refuse that a column is protected by whose values a table is read.

        Raises:
            DataError: It is.
        """
        if column in self.declared(table).protected:
            options = f"sources.{self.source}.options.tables.{table}"
            raise DataError(
                f"{column!r} of {table} is protected, and says what is read when",
                rule="the column of each row's day, and of its last change, is known exactly",
                where=f"{self.usecase.name}/sources.yml: {options}.{place}",
                cure="name another column there, or protect this one by `none`",
            )

    def from_text(self, table: str, rows: pa.Table) -> pa.Table:
        """Return rows of text with their booleans read. All else stays text, which ``changes`` converts."""
        for name, column in self.declared(table).columns.items():
            if column.type == "boolean" and rows.column_names.count(name) == 1:
                values = [
                    None if value is None else _BOOLEANS.get(value, value) for value in rows[name].to_pylist()
                ]
                if not any(isinstance(value, str) for value in values):
                    place = rows.column_names.index(name)
                    rows = rows.set_column(place, name, pa.array(values, pa.bool_()))
        return rows

    def _known_before(
        self, declared: Table, rows: pa.Table, day: pa.ChunkedArray, latest: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        if declared.available_at:
            since = rows[declared.available_at]
        elif declared.refresh == "slow":
            since = pa.chunked_array([pa.repeat(pa.scalar(ALWAYS, latest.type), len(latest))])
        else:
            lag = timedelta(days=declared.lag_days)
            nights = [self.usecase.as_of(one + lag) for one in day.to_pylist()]
            since = pa.chunked_array([pa.array(nights, latest.type)])
        return pc.if_else(pc.fill_null(pc.less(since, latest), False), since, latest)

    def _check_day_column(self, name: str, table: Table) -> None:
        column = self.day_columns.get(name)
        if column in table.columns and table.columns[column].type in ("date", "timestamp"):
            return
        raise DataError(
            f"{name} has a partition a day, and "
            + (
                f"{column!r} is no date or timestamp of it"
                if column
                else "nothing says which day a row is of"
            ),
            rule="a table with `refresh: daily` names the column of each row's day, a date or a timestamp",
            where=f"{self.usecase.name}/sources.yml: sources.{self.source}.options.tables.{name}.day",
            cure="name such a column there, or declare the table `refresh: slow`",
        )


def _local_day(moments: pa.ChunkedArray, zone: str) -> pa.ChunkedArray:
    """Return the day of each moment (UTC) on the clocks of ``zone``."""
    local = pc.local_timestamp(moments.cast(pa.timestamp("us", tz=zone)))
    return pc.floor_temporal(local, unit="day").cast(pa.date32())
