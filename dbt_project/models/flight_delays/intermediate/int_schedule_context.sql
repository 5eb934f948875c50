-- What the day's schedule itself says of each flight: how crowded it is around it, and where it stands in
-- the day of its aircraft. Flights without an aircraft are all cancelled in the end, which nothing here may
-- give away: each of them counts as the first and only flight of an aircraft of its own.
with schedules as (

    select
        *,
        scheduled_departure_minute - scheduled_departure_minute % 60 as hour_starts_at,
        case when tail_number = 'UNASSIGNED' then flight_id else tail_number end as aircraft
    from {{ ref('stg_schedules') }}
    where {{ in_window('nights') }}

),

in_turn as (

    select
        *,
        lag(scheduled_arrival_at) over aircraft_day as previous_arrival_at,
        lag(scheduled_elapsed_minutes) over aircraft_day as previous_elapsed_minutes,
        row_number() over aircraft_day as rotation_position
    from schedules
    window aircraft_day as (partition by partition, aircraft order by scheduled_departure_at, flight_id)

)

select
    partition,
    flight_id,
    count(*) over (partition by partition) as departures_day,
    count(*) over (partition by partition, origin) as departures_origin_day,
    count(*) over (partition by partition, origin, hour_starts_at) as departures_origin_hour,
    count(*) over (partition by partition, origin, carrier, hour_starts_at) as departures_carrier_hour,
    count(*) over (partition by partition, hour_starts_at) as departures_hour,
    count(*) over (
        partition by partition, origin order by scheduled_departure_minute
        range between 15 preceding and 15 following
    ) as departures_origin_bank,
    count(*) over (
        partition by partition, origin order by scheduled_departure_minute
        range between 60 preceding and 1 preceding
    ) as departures_origin_hour_before,
    count(*) over (partition by partition, dest) as departures_dest_day,
    rotation_position,
    count(*) over (partition by partition, aircraft) as rotations_day,
    -- From landing at the far end to leaving New York again, less the flight back, which is not in the data.
    {{ minutes_between('previous_arrival_at', 'scheduled_departure_at') }} - previous_elapsed_minutes
        as turnaround_minutes
from in_turn
