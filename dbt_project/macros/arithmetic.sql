{#
  Division is the last step, on integer sums: sums of floats differ from run to run when several threads
  add them up. Null where there is nothing to divide by.
#}
{% macro ratio(numerator, denominator) -%}
    cast({{ numerator }} as double precision) / nullif({{ denominator }}, 0)
{%- endmacro %}

{# A value held between two bounds. Null stays null, which greatest() and least() alone would turn into a bound. #}
{% macro held_between(value, low, high) -%}
    case when {{ value }} is not null then greatest(least({{ value }}, {{ high }}), {{ low }}) end
{%- endmacro %}
