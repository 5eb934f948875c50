select
    partition,
    flight_id,
    carrier,
    flight_number,
    origin,
    dest,
    tail_number,
    scheduled_departure_at,
    scheduled_arrival_at,
    scheduled_departure_minute,
    scheduled_arrival_minute,
    distance_miles,
    {{ minutes_between('scheduled_departure_at', 'scheduled_arrival_at') }} as scheduled_elapsed_minutes
from {{ source('raw_flight_delays', 'schedules') }}
