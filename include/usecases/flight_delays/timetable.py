"""What a row says of a flight: its plan and what happened, in UTC, and since when it was known.

Every source of flights tells wall-clock plans and delays in minutes. The connectors of this use case share
how the tables ``schedules`` and ``flights`` follow from them, so that a flight is the same row whichever of
them brought it.

Times. A planned arrival is a wall-clock time at the destination, on the day of departure or, where that would
be before departure, the next. Actual times are planned times plus delay.

Known when. A flight that arrived is known at its arrival, a cancelled one at its planned departure, and a
diverted one at its actual departure plus its planned duration. Where the destination's time zone is unknown,
a flight that left is known a day after it did: late rather than early, so that nothing leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError

UNASSIGNED = "UNASSIGNED"
"""The tail number of a flight whose source has none."""

UTC_TIME = pa.timestamp("us", tz="UTC")
DAY = pa.scalar(timedelta(days=1), pa.duration("us"))
_MINUTE = pa.scalar(timedelta(minutes=1), pa.duration("us"))


def planned(
    raw: pa.Table,
    departure: pa.ChunkedArray,
    midnight: pa.Array | pa.ChunkedArray,
    arrival_zones: pa.Array,
    place: str,
) -> pa.Table:
    """Return what is known before departure, from columns that were known then.

    Args:
        raw: A row a flight: ``carrier``, ``tailnum``, ``origin`` and ``dest`` are text, ``flight``,
            ``distance`` (miles), ``sched_dep_time`` and ``sched_arr_time`` (HHMM) integers.
        departure: Planned departures (UTC).
        midnight: Wall-clock midnight at the origin with which the day of each flight begins.
        arrival_zones: IANA zone of each destination; null where it is unknown.
        place: The source, for errors.

    Returns:
        The columns of the catalogue's ``schedules``, row by row as in ``raw``.

    Raises:
        DataError: A zone does not exist.
    """
    arrival_minute = minutes(raw["sched_arr_time"])
    wall_arrival = pc.add(midnight, duration(arrival_minute))
    same_day = to_utc_by_zone(wall_arrival, arrival_zones, place)
    next_day = to_utc_by_zone(pc.add(wall_arrival, DAY), arrival_zones, place)
    arrival = pc.if_else(pc.greater(same_day, departure), same_day, next_day)

    flight_id = pc.binary_join_element_wise(
        raw["carrier"],
        pc.cast(raw["flight"], pa.string()),
        raw["origin"],
        pc.strftime(departure, "%Y%m%dT%H%MZ"),
        "-",
    )
    return pa.table(
        {
            "flight_id": flight_id,
            "carrier": raw["carrier"],
            "flight_number": raw["flight"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "scheduled_departure_at": departure,
            "scheduled_arrival_at": arrival,
            "scheduled_departure_minute": minutes(raw["sched_dep_time"]),
            "scheduled_arrival_minute": arrival_minute,
            "distance_miles": raw["distance"],
            "tail_number": pc.fill_null(raw["tailnum"], UNASSIGNED),
        }
    )


def happened(
    raw: pa.Table, plan: pa.Table, cancelled: pa.ChunkedArray, diverted: pa.ChunkedArray
) -> pa.Table:
    """Return what happened, and when each row became known.

    Args:
        raw: ``dep_delay``, ``arr_delay`` and ``air_time`` of each flight, whole minutes.
        plan: The same flights as ``planned`` returns them.
        cancelled: Which of them never left.
        diverted: Which of them left and did not arrive as planned.

    Returns:
        The columns of the catalogue's ``flights``, row by row as in ``raw``.
    """
    departure, arrival = plan["scheduled_departure_at"], plan["scheduled_arrival_at"]
    departed = pc.add(departure, duration(raw["dep_delay"]))
    arrived = pc.add(arrival, duration(raw["arr_delay"]))
    planned_duration = pc.fill_null(pc.subtract(arrival, departure), DAY)
    available = pc.if_else(cancelled, departure, pc.coalesce(arrived, pc.add(departed, planned_duration)))
    return pa.table(
        {
            "flight_id": plan["flight_id"],
            "tail_number": plan["tail_number"],
            "carrier": plan["carrier"],
            "origin": plan["origin"],
            "dest": plan["dest"],
            "scheduled_departure_at": departure,
            "departed_at": departed,
            "arrived_at": arrived,
            "departure_delay_minutes": raw["dep_delay"],
            "arrival_delay_minutes": raw["arr_delay"],
            "air_time_minutes": raw["air_time"],
            "cancelled": cancelled,
            "diverted": diverted,
            "available_at": available,
        }
    )


def known(available_at: pa.Array | pa.ChunkedArray, as_of: pa.Array | pa.Scalar) -> pa.Array:
    """Return which rows were known; one that does not say when stays, for validation to quarantine it."""
    return flat(pc.fill_null(pc.less_equal(available_at, as_of), True))


def zones_of(codes: pa.ChunkedArray, zones: Mapping[str, str | None]) -> pa.Array:
    """Return the zone of each airport, null where ``zones`` lacks it."""
    encoded = flat(codes).dictionary_encode()
    found = pa.array([zones.get(code) for code in encoded.dictionary.to_pylist()], pa.string())
    return found.take(encoded.indices)


def flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return an array in one piece."""
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def minutes(clock: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return minutes after midnight of times written HHMM as integers."""
    hours = pc.divide(clock, 100)
    return pc.subtract(clock, pc.multiply(hours, 40))


def duration(whole_minutes: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return minutes as durations."""
    return pc.multiply(whole_minutes, _MINUTE)


def to_utc(wall: pa.Array | pa.ChunkedArray, zone: str) -> pa.Array | pa.ChunkedArray:
    """Return wall-clock times of a zone in UTC: the first of two, and for one in a gap the moment after."""
    return pc.cast(pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="latest"), UTC_TIME)


def to_utc_by_zone(wall: pa.Array | pa.ChunkedArray, zones: pa.Array, place: str) -> pa.Array:
    """Return wall-clock times in UTC, each by its own zone; null where the zone is null.

    Raises:
        DataError: A zone does not exist.
    """
    result = pa.nulls(len(wall), UTC_TIME)
    for zone in pc.unique(zones).drop_null().to_pylist():
        try:
            result = pc.if_else(pc.fill_null(pc.equal(zones, zone), False), to_utc(wall, zone), result)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{zone!r} is not a time zone: {error}",
                rule="destinations have IANA time zones",
                where=place,
                cure="correct tzone in airports.csv, or options.time_zones of this source in sources.yml",
            ) from error
    return result
