{# Of the values, at most the share `missing_at_most` is not in `field` of another relation. #}
{% test mostly_in(model, column_name, to, field, missing_at_most) %}
    with judged as (
        select {{ column_name }} as value from {{ model }} where {{ column_name }} is not null
    ),

    known as (select distinct {{ field }} as value from {{ to }}),

    counted as (
        select count(*) as occurrences, count(*) - count(known.value) as missing
        from judged
        left join known on judged.value = known.value
    )

    select * from counted
    where missing > {{ missing_at_most }} * occurrences
{% endtest %}
