-- The truth, and from which night on it may be learnt from. Cancelled and diverted flights have none.
select
    flight_id,
    partition,
    arrived_late,
    arrival_delay_minutes,
    available_on as label_available_on
from {{ ref('fct_flights') }}
where {{ in_window('facts') }}
