-- Integers only, and one row per day *and* night of becoming known: features add up the rows that their
-- night may see, and divide once, at the end.
with flights as (

    select
        *,
        -- One aircraft stuck for a day must not own the mean of its carrier.
        {{ held_between('arrival_delay_minutes', -60, 300) }} as arrival_delay,
        {{ held_between('departure_delay_minutes', -30, 300) }} as departure_delay
    from {{ ref('fct_flights') }}
    where {{ in_window('facts') }}

)

{% for name, grouping in performance_groupings().items() %}
select
    partition,
    available_on,
    cast('{{ name }}' as varchar) as grouping_name,
    cast({{ grouping.member }} as varchar) as member,
    count(*) as flights,
    count(arrived_late) as arrived,
    cast(coalesce(sum(arrived_late), 0) as bigint) as arrived_late,
    cast(coalesce(sum(arrival_delay), 0) as bigint) as arrival_delay_minutes,
    count(departure_delay) as departed,
    cast(coalesce(sum(departure_delay), 0) as bigint) as departure_delay_minutes,
    count(*) filter (where cancelled) as cancelled
from flights
where {{ grouping.member }} is not null{% if grouping.only %} and {{ grouping.only }}{% endif %}

group by 1, 2, 3, 4
{% if not loop.last %}
union all
{% endif %}
{% endfor %}
