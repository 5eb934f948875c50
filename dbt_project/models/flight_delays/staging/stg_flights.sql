select
    partition,
    flight_id,
    carrier,
    origin,
    dest,
    tail_number,
    scheduled_departure_at,
    departure_delay_minutes,
    arrival_delay_minutes,
    air_time_minutes,
    cancelled,
    diverted,
    {{ available_on('available_at', lag_days=1) }} as available_on
from {{ source('raw_flight_delays', 'flights') }}
