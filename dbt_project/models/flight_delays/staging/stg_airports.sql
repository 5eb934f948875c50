select
    partition as snapshot,
    faa,
    name,
    latitude,
    longitude,
    altitude_feet,
    time_zone
from {{ source('raw_flight_delays', 'airports') }}
