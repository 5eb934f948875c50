-- One row for each flight scheduled on the day, with what the night of that day knows. Training and scoring
-- read this relation and nothing else; its model inputs are listed in usecase.yml, in the same words.
--
-- Left out on purpose: month and day of the year (with one year of history they would name the days), and
-- anything that tells a flight without an aircraft from one whose aircraft is new and unregistered.
with flights as (

    select
        *,
        cast(floor(scheduled_departure_minute / 60.0) as bigint) as scheduled_hour
    from {{ ref('stg_schedules') }}
    where {{ in_window('nights') }}

),

context as (

    select * from {{ ref('int_schedule_context') }}
    where {{ in_window('nights') }}

),

weather as (

    select * from {{ ref('int_weather_eve') }}
    where {{ in_window('nights') }}

),

-- Joined once a grouping: PostgreSQL would otherwise scan a copy of it each time, without statistics.
lagged as not materialized (

    select * from {{ ref('int_performance_lagged') }}
    where {{ in_window('nights') }}

)

select
    flights.flight_id,
    flights.partition,
    flights.scheduled_departure_at,

    flights.carrier,
    flights.origin,
    flights.dest,

    flights.scheduled_hour,
    flights.scheduled_departure_minute,
    flights.scheduled_arrival_minute,
    cast(extract(isodow from flights.partition) as bigint) as day_of_week,
    flights.distance_miles,
    flights.scheduled_elapsed_minutes,

    cast(extract(year from flights.partition) as bigint) - planes.manufactured_year as plane_age_years,
    planes.seats as plane_seats,

    coalesce(flight_lagged.arrived_28d, 0) as flight_arrivals_28d,

    context.departures_day,
    context.departures_origin_day,
    context.departures_origin_hour,
    context.departures_carrier_hour,
    context.departures_hour,
    context.departures_origin_bank,
    context.departures_origin_hour_before,
    context.departures_dest_day,
    context.rotation_position,
    context.rotations_day,
    context.turnaround_minutes,

    weather.last_pressure_millibars,
    weather.pressure_change_since_noon_millibars,
    weather.last_dew_point_spread_f,
    weather.evening_max_humidity_percent,
    weather.evening_max_wind_mph,
    weather.evening_min_visibility_miles,
    weather.evening_max_precipitation_inches,
    weather.day_max_precipitation_inches,
    weather.day_min_visibility_miles,
    weather.day_max_wind_mph,
    weather.day_max_gust_mph,

    {% for feature in lagged_features() %}
    {{ feature.value }} as {{ feature.name }}{{ ',' if not loop.last }}
    {% endfor %}
from flights
inner join context
    on flights.partition = context.partition and flights.flight_id = context.flight_id
left join weather
    on flights.partition = weather.partition and flights.origin = weather.origin
left join {{ ref('dim_planes') }} as planes
    on flights.tail_number = planes.tail_number and flights.partition between planes.valid_from and planes.valid_to
{% for name, grouping in performance_groupings().items() %}
left join lagged as {{ name }}_lagged
    on flights.partition = {{ name }}_lagged.partition
    and {{ name }}_lagged.grouping_name = '{{ name }}'
    and {{ name }}_lagged.member = {{ grouping.member }}
{% endfor %}
