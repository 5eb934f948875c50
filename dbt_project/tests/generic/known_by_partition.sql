{# No row may rest on something that became known after the night of its partition. #}
{% test known_by_partition(model, column_name) %}
    select * from {{ model }}
    where {{ column_name }} > partition
{% endtest %}
