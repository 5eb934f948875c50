select
    partition as snapshot,
    tail_number,
    manufactured_year,
    manufacturer,
    model,
    engines,
    seats,
    engine
from {{ source('raw_flight_delays', 'planes') }}
