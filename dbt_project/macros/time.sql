{#
  The first night that may read a row: the first day D whose run, at `run_hour` local time, is not earlier
  than `available_at`, and on which the row's partition is extracted at all (`lag_days` after it).
#}
{% macro available_on(available_at, lag_days, partition='partition') -%}
    greatest(
        cast({{ local_time(available_at) }} - interval '{{ var("run_hour") }} hours' - interval '1 microsecond' as date) + 1,
        {{ partition }} + {{ lag_days }}
    )
{%- endmacro %}

{# Wall-clock time where the use case lives, of a `timestamp with time zone`. #}
{% macro local_time(instant) -%}
    ({{ instant }} at time zone '{{ var("timezone") }}')
{%- endmacro %}

{# Whole minutes from one instant to another. #}
{% macro minutes_between(earlier, later) -%}
    cast(floor(extract(epoch from ({{ later }} - {{ earlier }})) / 60) as bigint)
{%- endmacro %}
