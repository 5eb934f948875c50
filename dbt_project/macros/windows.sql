{#
  The days that one build writes. Every model names its window in `meta.window`:

  nights   the nights asked for, `start` .. `end`: features, and what only the schedule of the day decides
  facts    the days those nights look back on, `start - lookback_days` .. `end - 1`: what happened, and sums of it

  Facts of the whole look-back are built again each night, not only the days that the night's raw data
  touched. That costs a constant (a few weeks of rows, whatever the length of history) and buys that
  features of a night depend on raw data and SQL alone: nights in any order, corrections, edited models
  and killed runs all end in the same rows.
#}

{% macro window_of(window) %}
    {%- set start = modules.datetime.date.fromisoformat(var('start')) -%}
    {%- set end = modules.datetime.date.fromisoformat(var('end')) -%}
    {%- if window == 'nights' -%}
        {{ return((start, end)) }}
    {%- elif window == 'facts' -%}
        {%- set day = modules.datetime.timedelta(days=1) -%}
        {{ return((start - day * (var('lookback_days') | int), end - day)) }}
    {%- endif -%}
    {{ exceptions.raise_compiler_error("meta.window is 'nights' or 'facts', not '" ~ window ~ "'") }}
{% endmacro %}

{# A condition: `column` lies within the window. Bounds are literals, so that engines skip what is outside. #}
{% macro in_window(window, column='partition') -%}
    {%- set first, last = window_of(window) -%}
    {{ column }} between date '{{ first }}' and date '{{ last }}'
{%- endmacro %}

{#
  dbt's own tests look at a whole relation; a night must not pay for history. So each test sees the rows
  that the build wrote: those in the window of the model it is attached to.
#}
{% macro get_where_subquery(relation) -%}
    {%- set conditions = [] -%}
    {%- if config.get('where') -%}
        {%- do conditions.append(config.get('where')) -%}
    {%- endif -%}
    {%- if execute and model.get('attached_node') -%}
        {%- set window = graph.nodes[model.attached_node].config.meta.get('window') -%}
        {%- if window -%}
            {%- do conditions.append(in_window(window)) -%}
        {%- endif -%}
    {%- endif -%}
    {%- if conditions -%}
        (select * from {{ relation }} where {{ conditions | join(' and ') }}) dbt_subquery
    {%- else -%}
        {{ relation }}
    {%- endif -%}
{%- endmacro %}
