{# Let the planner know what a table holds now. Only PostgreSQL would otherwise notice minutes later. #}
{% macro analyze_written(relation) -%}
    {{ return(adapter.dispatch('analyze_written', 'nightshift')(relation)) }}
{%- endmacro %}

{% macro default__analyze_written(relation) -%}
{%- endmacro %}

{% macro postgres__analyze_written(relation) -%}
    {% if config.get('materialized') == 'incremental' %}analyze {{ relation }}{% endif %}
{%- endmacro %}
