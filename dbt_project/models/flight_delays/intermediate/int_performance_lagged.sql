{# Features look up one group of one night, once a grouping. #}
{{ config(indexes=index_on(['partition', 'grouping_name', 'member'])) }}

-- Each day counts for the nights that follow it, up to the longest lag, once it was known to them.
{% set measures = [
    'flights', 'arrived', 'arrived_late', 'arrival_delay_minutes',
    'departed', 'departure_delay_minutes', 'cancelled',
] %}
with known as (

    select
        daily.*,
        daily.partition as day,
        cast(daily.partition + lags.days as date) as night,
        lags.days
    from {{ ref('int_performance_daily') }} as daily
    cross join (
        select cast(days as integer) as days from generate_series(1, {{ lag_windows() | max }}) as series (days)
    ) as lags
    where {{ in_window('facts', 'daily.partition') }}
        and {{ in_window('nights', 'cast(daily.partition + lags.days as date)') }}
        and daily.available_on <= daily.partition + lags.days

)

select
    night as partition,
    grouping_name,
    member,
    {% for measure in measures %}
    {% for window in lag_windows() %}
    cast(coalesce(sum({{ measure }}) filter (where days <= {{ window }}), 0) as bigint) as {{ measure }}_{{ window }}d,
    {% endfor %}
    {% endfor %}
    max(day) as newest_day,
    max(available_on) as newest_available_on
from known
group by 1, 2, 3
