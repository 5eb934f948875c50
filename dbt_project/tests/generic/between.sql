{# Values lie between two bounds, both included; null is for not_null to judge. #}
{% test between(model, column_name, low, high) %}
    select * from {{ model }}
    where {{ column_name }} < {{ low }} or {{ column_name }} > {{ high }}
{% endtest %}
