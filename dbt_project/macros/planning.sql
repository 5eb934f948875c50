{# Let the planner know what a table holds now. Only PostgreSQL would otherwise notice minutes later. #}
{% macro analyze_written(relation) -%}
    {{ return(adapter.dispatch('analyze_written', 'nightshift')(relation)) }}
{%- endmacro %}

{% macro default__analyze_written(relation) -%}
{%- endmacro %}

{% macro postgres__analyze_written(relation) -%}
    {% if config.get('materialized') == 'incremental' %}analyze {{ relation }}{% endif %}
{%- endmacro %}

{# An index, where the engine finds rows by one. DuckDB skips blocks by their bounds and needs none. #}
{% macro index_on(columns) %}
    {{ return([{'columns': columns}] if target.type == 'postgres' else []) }}
{% endmacro %}
