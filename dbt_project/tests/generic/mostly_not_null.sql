{# Of the rows, at most the share `missing_at_most` has no value. #}
{% test mostly_not_null(model, column_name, missing_at_most) %}
    with counted as (
        select count(*) as occurrences, count(*) - count({{ column_name }}) as missing from {{ model }}
    )

    select * from counted
    where missing > {{ missing_at_most }} * occurrences
{% endtest %}
