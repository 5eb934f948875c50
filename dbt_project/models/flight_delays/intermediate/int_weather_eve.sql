-- What the night of D knows of the sky: the day before, above all its evening, at each origin.
-- Minima, maxima and last values only: they do not depend on the order of adding up.
{% set evening = 'local_hour >= 18' %}
with observed as (

    select
        *,
        cast(partition + 1 as date) as night,
        row_number() over (partition by partition, origin order by observed_at desc) as from_last
    from {{ ref('stg_weather') }}
    where {{ in_window('nights', 'cast(partition + 1 as date)') }}
        and available_on <= partition + 1

)

select
    night as partition,
    origin,
    max(pressure_millibars) filter (where from_last = 1) as last_pressure_millibars,
    max(pressure_millibars) filter (where from_last = 1)
    - max(pressure_millibars) filter (where local_hour = 12) as pressure_change_since_noon_millibars,
    max(temperature_f - dew_point_f) filter (where from_last = 1) as last_dew_point_spread_f,
    max(humidity_percent) filter (where {{ evening }}) as evening_max_humidity_percent,
    max(wind_speed_mph) filter (where {{ evening }}) as evening_max_wind_mph,
    min(visibility_miles) filter (where {{ evening }}) as evening_min_visibility_miles,
    max(precipitation_inches) filter (where {{ evening }}) as evening_max_precipitation_inches,
    max(precipitation_inches) as day_max_precipitation_inches,
    min(visibility_miles) as day_min_visibility_miles,
    max(wind_speed_mph) as day_max_wind_mph,
    max(wind_gust_mph) as day_max_gust_mph,
    max(partition) as newest_day,
    max(available_on) as newest_available_on
from observed
group by 1, 2
