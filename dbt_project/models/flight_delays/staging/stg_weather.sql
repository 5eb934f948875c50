select
    partition,
    origin,
    observed_at,
    cast(extract(hour from {{ local_time('observed_at') }}) as bigint) as local_hour,
    temperature_f,
    dew_point_f,
    humidity_percent,
    wind_direction_degrees,
    wind_speed_mph,
    wind_gust_mph,
    precipitation_inches,
    pressure_millibars,
    visibility_miles,
    {{ available_on('observed_at', lag_days=1) }} as available_on
from {{ source('raw_flight_delays', 'weather') }}
