"""Tables behind an HTTP API that answers with pages of JSON.

Two ways to read one. Where it can be asked for what has changed since a moment (``since``), each page is kept
as it comes, with where the next one begins: whoever is killed goes on there. Where it cannot, all of it is
asked for each time, and what came differs from what was there before: those changes are kept, once the last
page is there.

The API is asked no more often than ``per_second`` allows. What it cannot answer now (429, 5xx, a broken
answer) is asked again after a pause, or when it says so (``Retry-After``). When it has failed several times
in a row, nobody asks it for a while: the moment until which is kept in the lake, for all tasks see it there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from nightshift.errors import DataError, TransientError
from nightshift.lake import journal
from nightshift.lake.canonical import arrow_schema
from nightshift.lake.protection import HIDDEN_TEXT
from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.settings import source_address
from nightshift.sources.captured import CapturedConnector
from nightshift.sources.options import checked
from nightshift.sources.retries import LaterError, ask, check_now, connection_explained
from nightshift.usecase import ColumnName, UseCase

if TYPE_CHECKING:
    import httpx


class Since(BaseModel):
    """How to ask for what has changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    param: str = Field(description="Parameter that takes the moment since which, as 2013-07-01T09:30:00Z.")
    updated_at: ColumnName = Field(description="Column that each change renews.")
    overlap_seconds: float = Field(
        300, ge=0, description="How much earlier to ask, for what the API shows only after a while."
    )


class ApiTable(BaseModel):
    """``options.tables.<table>`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern="^/", description="Below the source's `url`.")
    params: dict[str, str] = Field(default_factory=dict, description="Parameters of every request.")
    rows: str = Field(
        "", description="Where the rows are in an answer, as `data.items`; empty: it is a list."
    )
    next: str = Field(
        "",
        description="Where an answer says how to ask for the next page, as `paging.cursor`; empty: one page.",
    )
    next_param: str | None = Field(
        None, description="Parameter that takes it; without one, it is the whole address of the next page."
    )
    since: Since | None = Field(None, description="Only what has changed, instead of all of it each time.")
    day: ColumnName | None = Field(None, description="Column of the day a row is of; none if it is slow.")
    ignore: tuple[str, ...] = Field((), description="Fields of the rows that the catalogue leaves out.")


class ApiOptions(BaseModel):
    """``options`` of the source in ``sources.yml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="`https://host/prefix`; no secret is in it.")
    header: str | None = Field(
        None,
        description="Header of every request, with what NIGHTSHIFT_SOURCE_<NAME> holds; as Authorization.",
    )
    tables: dict[str, ApiTable] = Field(description="Every table of the source.")
    per_second: float = Field(5, gt=0, description="Requests a second, of each task.")
    burst: int = Field(5, ge=1, description="Requests that may come at once after a rest.")
    timeout_seconds: float = Field(
        30, gt=0, description="For the beginning of an answer, and each part of it."
    )
    attempts: int = Field(6, ge=1, description="How often a request is tried.")
    retry_after_most: float = Field(
        300, ge=0, description="An API that wants a longer pause is left to the task's own retry."
    )
    open_after: int = Field(3, ge=1, description="Requests in a row that fail for good before nobody asks.")
    open_seconds: float = Field(300, ge=0, description="How long nobody asks then.")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is https://host/prefix")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "url holds no user, password or query: secrets go to `header`, others to `params`"
            )
        return value.rstrip("/")


class _Position(BaseModel):
    """How far a table was read: within a pass that asked for what changed since ``since``. JSON-able."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: datetime | None = None
    next: str | None = None
    highest: datetime | None = None


class HttpApi(CapturedConnector):
    """Yields tables of an API; see the module."""

    Options = ApiOptions

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Check the options; nothing is asked yet.

        Raises:
            DataError: An option is wrong or missing.
        """
        self.options = checked(usecase, source, ApiOptions)
        super().__init__(usecase, source, {name: one.day for name, one in self.options.tables.items()})
        for name, chosen in self.options.tables.items():
            column = chosen.since.updated_at if chosen.since else None
            if column and self._type_of(name, column) != "timestamp":
                raise DataError(
                    f"{name} has no timestamp {column!r}",
                    rule="since.updated_at is a column of the table, of type timestamp",
                    where=f"{usecase.name}/sources.yml: sources.{source}.options.tables.{name}.since",
                    cure="declare the column in the catalogue, or name another one",
                )
            self.require_clear(name, column, "since")

    def _capture(self, table: str) -> int:
        """Write what the API says of a table and the journal has not; return how many changes.

        Raises:
            DataError: The API refuses, or what it answers is not what the catalogue says.
            TransientError: It cannot answer now.
        """
        breaker = _Breaker(self)
        breaker.check()
        with self._client() as client:
            asking = _Asking(self, client, breaker)
            return (
                self._changed(table, asking) if self.options.tables[table].since else self._all(table, asking)
            )

    def _changed(self, table: str, asking: _Asking) -> int:
        chosen = self.options.tables[table]
        assert chosen.since is not None  # nosec B101  # the caller has looked
        captured = 0
        newest = journal.last(self.usecase, self.source, table)
        begun_here = newest is None or _Position.model_validate_json(self.position_of(newest)).next is None
        while True:
            position = _Position.model_validate_json(self.position_of(newest)) if newest else _Position()
            if position.next is None and position.highest is not None:
                overlap = timedelta(seconds=chosen.since.overlap_seconds)
                position = position.model_copy(update={"since": position.highest - overlap})
            params = {}
            if position.since is not None:
                moment = position.since.astimezone(UTC)
                params[chosen.since.param] = moment.isoformat().replace("+00:00", "Z")
            rows, following = asking.page(table, params, position.next)
            changes = self._as_changes(table, rows, known_by=chosen.since.updated_at)
            seen = pc.max(changes[chosen.since.updated_at]).as_py()
            reached = position.model_copy(
                update={
                    "next": following,
                    "highest": max(filter(None, (seen, position.highest)), default=None),
                }
            )
            # What is asked for again because of the overlap has been written.
            news = self._news(table, changes)
            if not news.num_rows and following is None and position.next is None:
                return captured
            written = journal.append(
                self.usecase,
                self.source,
                table,
                newest.number if newest else 0,
                news,
                # The next page may be named by a value of the last row.
                position=self.kept_position(table, reached.model_dump_json()),
                query=asking.asked,
            )
            captured += written.rows if written else 0
            newest = written or journal.last(self.usecase, self.source, table)
            if written and following is None:
                # The pass may have been begun long ago: what has changed on its first pages is for another.
                if begun_here:
                    return captured
                begun_here = True

    def _all(self, table: str, asking: _Asking) -> int:
        newest = journal.last(self.usecase, self.source, table)
        rows: list[dict[str, Any]] = []
        following: str | None = None
        while True:
            some, following = asking.page(table, {}, following)
            rows += some
            if following is None:
                break
        if newest and not rows and not self.declared(table).allow_empty:
            raise DataError(
                f"{table} is empty, and was not before",
                rule="a table has rows, unless it is declared allow_empty",
                where=f"{self.usecase.name}/{self.source}/{table}: {asking.asked}",
                cure="ask the owner of the API; if it may be empty, set allow_empty in sources.yml",
            )
        changes = self._as_changes(table, rows, known_by=None, copied=newest is None)
        changes = pa.concat_tables([self._gone(table, changes), self._news(table, changes)])
        if not changes.num_rows:
            return 0
        written = journal.append(
            self.usecase,
            self.source,
            table,
            newest.number if newest else 0,
            changes,
            position="{}",
            query=asking.asked,
        )
        if written is None:
            raise TransientError(f"{self.source}.{table}: another process has read it at the same time")
        return written.rows

    def _as_changes(
        self, table: str, rows: Sequence[Mapping[str, Any]], *, known_by: str | None, copied: bool = False
    ) -> pa.Table:
        """Return rows as changes that were known by a column, or by now."""
        chosen, declared = self.options.tables[table], self.declared(table)
        names = dict.fromkeys(name for row in rows for name in row if name not in chosen.ignore)
        try:
            given = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError) as error:
            why, cause = (HIDDEN_TEXT, None) if self.hides(table) else (error, error)
            wrong = "values of several types, or text that is no Unicode"
            raise self.defect(table, f"a field has {wrong}: {why}") from cause
        if not rows:
            given = arrow_schema(declared).empty_table()
        now = pa.scalar(datetime.now(UTC), journal.MOMENT)
        known_at = pa.chunked_array([pa.repeat(now, given.num_rows)])
        # A column that is missing, or holds no moments, is told of by the comparison with the catalogue.
        if known_by in given.column_names:
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                known_at = given[known_by].cast(journal.MOMENT)
        changes = self.changes(table, given, known_at=known_at, copied=copied)
        if unknown := changes[journal.KNOWN_AT].null_count:
            raise self.defect(table, f"{unknown} rows have no {known_by!r}")
        return changes

    def _news(self, table: str, changes: pa.Table) -> pa.Table:
        """Return the changes that say something else than the journal does, of the days that it keeps."""
        oldest = journal.kept_from(self.usecase, self.source, table) or date.min
        names = list(self.declared(table).columns)
        stays = []
        held: dict[Any, set[tuple[Any, ...]]] = {}
        for day, row in zip(changes[journal.DAY].to_pylist(), changes.select(names).to_pylist(), strict=True):
            if day is not None and day < oldest:
                stays.append(False)
                continue
            if day not in held:
                held[day] = {
                    tuple(one[name] for name in names)
                    for one in journal.present(self.usecase, self.source, table, day)
                }
            stays.append(tuple(row[name] for name in names) not in held[day])
        return changes.filter(pa.array(stays, pa.bool_()))

    def _gone(self, table: str, changes: pa.Table) -> pa.Table:
        """Return the end of every row that the journal has, and ``changes`` have not (on its day)."""
        key = self.declared(table).key
        there = {
            (day, *(row[name] for name in key))
            for day, row in zip(
                changes[journal.DAY].to_pylist(), changes.select(key).to_pylist(), strict=True
            )
        }
        now = datetime.now(UTC)
        ended = [
            row | {journal.KIND: journal.DELETE, journal.KNOWN_AT: now, journal.DAY: day, journal.UNIT: None}
            for day in journal.days(self.usecase, self.source, table)
            for row in journal.present(self.usecase, self.source, table, day)
            if (day, *(row[name] for name in key)) not in there
        ]
        return pa.Table.from_pylist(ended, schema=journal.schema(self.usecase, self.source, table))

    def _type_of(self, table: str, column: str) -> str:
        columns = self.declared(table).columns
        return columns[column].type if column in columns else ""

    def _client(self) -> httpx.Client:
        import httpx

        # It would log the address of every request, and with it what the next page is named by.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        headers = {"Accept": "application/json", "User-Agent": "nightshift"}
        if self.options.header:
            headers[self.options.header] = source_address(self.source)
        return httpx.Client(headers=headers, timeout=self.options.timeout_seconds)

    def defect(self, table: str, message: str) -> DataError:
        """Return the error of an answer that is not what the catalogue says."""
        return DataError(
            message,
            rule="an answer holds the rows of the table, with the columns of the catalogue",
            where=f"{self.usecase.name}/{self.source}/{table}: {self.options.tables[table].path}",
            cure="ask the owner of the API what has changed, and correct sources.yml",
        )


class _Asking:
    """Requests of one capture: no more often than allowed, and again where that may help."""

    def __init__(self, source: HttpApi, client: httpx.Client, breaker: _Breaker) -> None:
        self.asked = ""
        self._source = source
        self._client = client
        self._breaker = breaker
        self._bucket = _bucket(source.options)

    def page(
        self, table: str, params: Mapping[str, str], next_page: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return the rows of a page, and how the one after it is asked for; None when it is the last.

        Raises:
            DataError: The API refuses, or answers something else.
            TransientError: It cannot answer now.
        """
        chosen, url = self._source.options.tables[table], self._source.options.url
        address, wanted = f"{url}{chosen.path}", {**chosen.params, **params}
        if next_page is not None and chosen.next_param:
            wanted[chosen.next_param] = next_page
        elif next_page is not None:
            address, wanted = urljoin(address, next_page), {}
            if urlsplit(address)[:2] != urlsplit(url)[:2]:
                shown = urlsplit(address).netloc if self._source.hides(table) else address
                raise self._source.defect(table, f"its next page is elsewhere: {shown}")
        answer = self._answer(table, address, wanted)
        rows = _at(answer, chosen.rows)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._source.defect(table, f"there is no list of rows at {chosen.rows or 'the top'!r}")
        following = _at(answer, chosen.next) if chosen.next else None
        if following is not None and str(following) == next_page:
            named = "a page" if self._source.hides(table) else f"the page {next_page!r}"
            raise self._source.defect(table, f"{named} names itself as the next one")
        return rows, str(following) if following else None

    def _answer(self, table: str, address: str, params: Mapping[str, str]) -> Any:
        options = self._source.options
        request = self._client.build_request("GET", address, params=params or None)
        hides = self._source.hides(table)
        # What is asked for by page may name a value of the last row.
        self.asked = f"GET {f'{options.url}{options.tables[table].path}' if hides else request.url}"

        def attempt() -> Any:
            self._bucket.take()
            with connection_explained():
                answer = self._client.send(request)
            check_now(answer)
            if not answer.is_success:
                raise DataError(
                    f"{self._source.source} answered {answer.status_code} {answer.reason_phrase}: "
                    f"{HIDDEN_TEXT if hides else answer.text[:200]}",
                    rule="the API answers what sources.yml asks for, with the secret that it is given",
                    where=f"{self._source.usecase.name}/{self._source.source}/{table}: {self.asked}",
                    cure=f"correct the options, or NIGHTSHIFT_SOURCE_{self._source.source.upper()}",
                )
            try:
                return answer.json()
            except ValueError as error:
                raise LaterError(f"its answer is no whole JSON: {error}") from error

        try:
            content = ask(attempt, options.attempts, options.retry_after_most)
        except LaterError as error:
            problem = str(error)
            if error.pause is None:
                self._breaker.failed()
            else:
                self._breaker.open(error.pause)
                problem += f", and wants {error.pause:.0f} s of rest"
            raise TransientError(
                f"{self._source.source} cannot answer now: {problem} ({self.asked})"
            ) from error
        self._breaker.closed()
        return content


class _Breaker:
    """Whether nobody asks for now, known to all tasks by an object of the lake."""

    def __init__(self, source: HttpApi) -> None:
        self._source = source
        self._key = f"breakers/{source.usecase.name}/{source.source}.json"
        self._failures = 0

    def check(self) -> None:
        """Raise TransientError while it is open."""
        try:
            held = json.loads(open_store().get(self._key))
        except NoSuchObjectError:
            return
        self._failures = held["failures"]
        until = datetime.fromisoformat(held["until"])
        if until > datetime.now(UTC):
            raise TransientError(
                f"{self._source.source} is not asked before {until:%H:%M:%S} UTC: it has failed "
                f"{self._failures} times in a row, or wants a rest"
            )

    def failed(self) -> None:
        """Count a request that failed for good; after some in a row, open."""
        rest = (
            self._source.options.open_seconds if self._failures + 1 >= self._source.options.open_after else 0
        )
        self.open(rest)

    def open(self, seconds: float) -> None:
        """Let nobody ask for a while."""
        self._failures += 1
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        content = {"failures": self._failures, "until": until.isoformat()}
        open_store().put(self._key, json.dumps(content).encode())

    def closed(self) -> None:
        """Forget what has failed."""
        if self._failures:
            open_store().delete(self._key)
            self._failures = 0


class _Bucket:
    """A token bucket: so many requests at once, and then so many a second."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._tokens, self._at = float(burst), time.monotonic()
        self._lock = Lock()

    def take(self) -> None:
        """Take a token, and wait until there is one."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second) - 1
            self._at = now
            missing = -self._tokens
        if missing > 0:
            time.sleep(missing / self._per_second)


_buckets: dict[tuple[str, float, int], _Bucket] = {}


def _bucket(options: ApiOptions) -> _Bucket:
    """Return the bucket of an address: tables of one process share it."""
    limits = options.url, options.per_second, options.burst
    return _buckets.setdefault(limits, _Bucket(options.per_second, options.burst))


def _at(answer: Any, place: str) -> Any:
    for name in filter(None, place.split(".")):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer
