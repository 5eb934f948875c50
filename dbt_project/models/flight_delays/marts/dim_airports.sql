{{ config(materialized='view') }}

with snapshots as (

    select snapshot, lead(snapshot) over (order by snapshot) as next_snapshot
    from (select distinct snapshot from {{ ref('stg_airports') }}) as landed

)

select
    airports.faa,
    airports.name,
    airports.latitude,
    airports.longitude,
    airports.altitude_feet,
    airports.time_zone,
    snapshots.snapshot as valid_from,
    coalesce(snapshots.next_snapshot - 1, date '9999-12-31') as valid_to
from {{ ref('stg_airports') }} as airports
inner join snapshots
    on airports.snapshot = snapshots.snapshot
