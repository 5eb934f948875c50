"""A partition is one day, written ``YYYY-MM-DD`` wherever it leaves Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from itertools import pairwise

from nightshift.errors import DataError

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_SHORTEST_CHUNK, _LONGEST_CHUNK = 7, 31


def parse_partition(key: str) -> date:
    """Return the day that ``key`` names.

    Raises:
        DataError: ``key`` is not a calendar day written ``YYYY-MM-DD``.
    """
    try:
        if not _DAY.fullmatch(key):
            raise ValueError(key)
        return date.fromisoformat(key)
    except ValueError as error:
        raise DataError(
            f"{key!r} is not a partition",
            rule="partition keys are calendar days, YYYY-MM-DD",
            where="partition key",
            cure="pass a day such as 2013-07-01",
        ) from error


def parse_range(start: str, end: str) -> tuple[date, date]:
    """Return the first and the last day of a range, both included.

    Raises:
        DataError: The end is before the start, or a day is malformed.
    """
    first, last = parse_partition(start), parse_partition(end)
    if last < first:
        raise DataError(
            f"the range ends ({last}) before it starts ({first})",
            rule="start <= end",
            where=f"{start} to {end}",
            cure="swap them",
        )
    return first, last


def days(start: date, end: date) -> Iterator[date]:
    """Yield every day from ``start`` to ``end``, both included; nothing when ``end`` is earlier."""
    for offset in range((end - start).days + 1):
        yield start + timedelta(days=offset)


def spans(partitions: Iterable[date]) -> Iterator[tuple[date, date]]:
    """Yield the first and the last day of each run of consecutive days, oldest first."""
    start = previous = None
    for day in sorted(set(partitions)):
        if start is None or previous is None:
            start = day
        elif day - previous > timedelta(days=1):
            yield start, previous
            start = day
        previous = day
    if start is not None and previous is not None:
        yield start, previous


def chunks(start: date, end: date, parallel: int) -> list[tuple[date, date]]:
    """Cut ``start`` to ``end``, both included, into stretches of nearly equal length, oldest first.

    As many as ``parallel`` workers can share, but none shorter than a week, whose work would not pay for the
    start of its tasks, and none longer than a month, which is all that has to run again where one fails. A
    range of less than two weeks is one chunk.
    """
    total = (end - start).days + 1
    # Whole rounds: of five chunks for four workers, three workers would wait for the fifth.
    rounds = -(-total // (_LONGEST_CHUNK * parallel))
    number = max(min(rounds * parallel, total // _SHORTEST_CHUNK), 1)
    edges = [start + timedelta(days=total * place // number) for place in range(number + 1)]
    return [(first, after - timedelta(days=1)) for first, after in pairwise(edges)]
