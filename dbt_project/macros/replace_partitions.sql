{#
  Incremental strategy: delete the partitions of the model's window, insert what the model selected.

  Unlike delete+insert by key, a partition that has become empty is emptied, and unlike a full refresh
  no partition outside the window is touched. One transaction: a killed run leaves the old rows.
#}
{% macro get_incremental_replace_partitions_sql(arg_dict) %}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    delete from {{ arg_dict['target_relation'] }}
    where {{ in_window(config.get('meta')['window']) }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{% endmacro %}
