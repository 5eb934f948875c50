{{ config(materialized='view') }}

with snapshots as (

    select snapshot, lead(snapshot) over (order by snapshot) as next_snapshot
    from (select distinct snapshot from {{ ref('stg_airlines') }}) as landed

)

select
    airlines.carrier,
    airlines.name,
    snapshots.snapshot as valid_from,
    coalesce(snapshots.next_snapshot - 1, date '9999-12-31') as valid_to
from {{ ref('stg_airlines') }} as airlines
inner join snapshots
    on airlines.snapshot = snapshots.snapshot
