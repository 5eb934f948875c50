{# No row may hold a day at or after its own partition: the night could not have known it. #}
{% test before_partition(model, column_name) %}
    select * from {{ model }}
    where {{ column_name }} >= partition
{% endtest %}
