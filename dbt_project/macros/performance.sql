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
  The lagged features: each is a name and the SQL of its value, from int_performance_lagged joined once a
  grouping as `<grouping>_lagged`.

  Yesterday counts as it was. Over 7 and 28 days a group is compared with all flights of the same days
  (`excess`: the group's rate minus the overall one): the overall level over weeks is the season, which a
  model that has seen less than a year would take for the cause.
#}
{% macro lagged_features() %}
    {%- set measures = {
        'late_rate': ('arrived_late', 'arrived'),
        'mean_delay': ('arrival_delay_minutes', 'arrived'),
        'mean_departure_delay': ('departure_delay_minutes', 'departed'),
        'cancelled_rate': ('cancelled', 'flights'),
    } -%}
    {%- set yesterday = [
        ('overall', ['late_rate', 'mean_delay', 'mean_departure_delay', 'cancelled_rate']),
        ('origin', ['late_rate', 'mean_delay', 'mean_departure_delay', 'cancelled_rate']),
        ('carrier', ['late_rate', 'mean_delay', 'cancelled_rate']),
        ('carrier_origin', ['late_rate', 'mean_delay', 'mean_departure_delay', 'cancelled_rate']),
        ('route', ['late_rate', 'mean_delay']),
        ('dest', ['late_rate', 'mean_delay', 'cancelled_rate']),
        ('aircraft', ['late_rate', 'mean_delay']),
        ('flight', ['late_rate', 'mean_delay']),
        ('carrier_hour', ['late_rate', 'mean_delay']),
        ('origin_hour', ['late_rate', 'mean_delay']),
    ] -%}
    {%- set over_weeks = ['origin', 'carrier', 'route', 'dest', 'aircraft', 'flight', 'carrier_hour', 'origin_hour'] -%}
    {%- set features = [] -%}
    {%- for grouping, names in yesterday -%}
        {%- for name in names -%}
            {%- do features.append({
                'name': grouping ~ '_' ~ name ~ '_1d',
                'value': _lagged_rate(grouping, measures[name], 1),
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for grouping in over_weeks -%}
        {%- for name in ['late_rate', 'mean_delay'] -%}
            {%- for window in [7, 28] -%}
                {%- do features.append({
                    'name': grouping ~ '_' ~ name ~ '_excess_' ~ window ~ 'd',
                    'value': _lagged_rate(grouping, measures[name], window)
                        ~ ' - ' ~ _lagged_rate('overall', measures[name], window),
                }) -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(features) }}
{% endmacro %}

{% macro _lagged_rate(grouping, measure, window) -%}
    {{ return(ratio(
        grouping ~ '_lagged.' ~ measure[0] ~ '_' ~ window ~ 'd',
        grouping ~ '_lagged.' ~ measure[1] ~ '_' ~ window ~ 'd',
    )) }}
{%- endmacro %}
