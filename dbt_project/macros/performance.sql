{#
  The groups of flights whose past performance says something about the next flight of the group.
  `member` is the group's value, from columns that fct_flights and the schedule of the night both have
  under the alias `flights`; `only` leaves rows out.
#}
{% macro performance_groupings() %}
    {{ return({
        'overall': {'member': "'all'"},
        'origin': {'member': "flights.origin"},
        'carrier': {'member': "flights.carrier"},
        'carrier_origin': {'member': "flights.carrier || '-' || flights.origin"},
        'route': {'member': "flights.origin || '-' || flights.dest"},
        'dest': {'member': "flights.dest"},
        'aircraft': {'member': "flights.tail_number", 'only': "flights.tail_number <> 'UNASSIGNED'"},
        'flight': {'member': "flights.carrier || '-' || flights.flight_number || '-' || flights.origin"},
        'carrier_hour': {'member': "flights.carrier || '-' || flights.scheduled_hour"},
        'origin_hour': {'member': "flights.origin || '-' || flights.scheduled_hour"},
    }) }}
{% endmacro %}

{# How far back, in days, each lagged sum reaches. The longest must not exceed the look-back. #}
{% macro lag_windows() %}
    {{ return([1, 7, 28]) }}
{% endmacro %}

{#
  The lagged features: for each grouping which rates, over which windows. Each is a division of two sums of
  int_performance_lagged, joined as `<grouping>_lagged`.
#}
{% macro lagged_features() %}
    {%- set measures = {
        'late_rate': ('arrived_late', 'arrived'),
        'mean_delay': ('arrival_delay_minutes', 'arrived'),
        'mean_departure_delay': ('departure_delay_minutes', 'departed'),
        'cancelled_rate': ('cancelled', 'flights'),
    } -%}
    {%- set wanted = [
        ('overall', ['late_rate', 'mean_delay', 'cancelled_rate'], [1]),
        ('origin', ['late_rate', 'mean_delay', 'cancelled_rate'], [1]),
        ('origin', ['late_rate'], [7, 28]),
        ('carrier', ['late_rate', 'mean_delay'], [1, 7, 28]),
        ('carrier', ['cancelled_rate'], [1]),
        ('carrier_origin', ['mean_delay', 'mean_departure_delay', 'cancelled_rate'], [1]),
        ('route', ['late_rate', 'mean_delay'], [1, 7, 28]),
        ('dest', ['late_rate', 'mean_delay'], [1]),
        ('aircraft', ['late_rate', 'mean_delay'], [1, 7, 28]),
        ('flight', ['late_rate', 'mean_delay'], [1, 7, 28]),
        ('carrier_hour', ['late_rate', 'mean_delay'], [1, 7, 28]),
        ('origin_hour', ['late_rate', 'mean_delay'], [1, 7, 28]),
    ] -%}
    {%- set features = [] -%}
    {%- for grouping, rates, windows in wanted -%}
        {%- for rate in rates -%}
            {%- for window in windows -%}
                {%- do features.append({
                    'name': grouping ~ '_' ~ rate ~ '_' ~ window ~ 'd',
                    'numerator': grouping ~ '_lagged.' ~ measures[rate][0] ~ '_' ~ window ~ 'd',
                    'denominator': grouping ~ '_lagged.' ~ measures[rate][1] ~ '_' ~ window ~ 'd',
                }) -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(features) }}
{% endmacro %}
