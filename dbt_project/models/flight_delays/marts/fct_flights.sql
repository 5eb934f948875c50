with flights as (

    select * from {{ ref('stg_flights') }}
    where {{ in_window('facts') }}

),

schedules as (

    select * from {{ ref('stg_schedules') }}
    where {{ in_window('facts') }}

)

select
    flights.partition,
    flights.flight_id,
    flights.carrier,
    schedules.flight_number,
    flights.origin,
    flights.dest,
    flights.tail_number,
    flights.scheduled_departure_at,
    cast(extract(hour from {{ local_time('flights.scheduled_departure_at') }}) as bigint) as scheduled_hour,
    schedules.scheduled_elapsed_minutes,
    flights.air_time_minutes,
    flights.departure_delay_minutes,
    flights.arrival_delay_minutes,
    flights.cancelled,
    flights.diverted,
    case when flights.arrival_delay_minutes >= 15 then 1 when flights.arrival_delay_minutes < 15 then 0 end
        as arrived_late,
    flights.available_on
from flights
left join schedules
    on flights.partition = schedules.partition and flights.flight_id = schedules.flight_id
