select
    partition as snapshot,
    carrier,
    name
from {{ source('raw_flight_delays', 'airlines') }}
