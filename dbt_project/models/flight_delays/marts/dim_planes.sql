{{ config(materialized='view') }}

with snapshots as (

    select snapshot, lead(snapshot) over (order by snapshot) as next_snapshot
    from (select distinct snapshot from {{ ref('stg_planes') }}) as landed

)

select
    planes.tail_number,
    planes.manufactured_year,
    planes.manufacturer,
    planes.model,
    planes.engines,
    planes.seats,
    planes.engine,
    snapshots.snapshot as valid_from,
    coalesce(snapshots.next_snapshot - 1, date '9999-12-31') as valid_to
from {{ ref('stg_planes') }} as planes
inner join snapshots
    on planes.snapshot = snapshots.snapshot
