"""
### Ingest

Every night, for each source: extract what became known, validate it, quarantine rows that break a
rule, land the rest as immutable raw objects, and load them into the warehouse.

The run of day D extracts the partitions that the catalogue (`sources.yml`) makes known by D.
**By hand:** trigger it with a partition, or run `airflow backfill create`. Running a day twice
changes nothing.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, live_from, nightly_deadline, use_cases
from nightshift.orchestration.params import partition_param

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "ingest",
            __doc__,
            schedule=assets.nightly(uc),
            start_date=live_from(uc),
            params=partition_param(),
            deadline=nightly_deadline(uc),
        )
    ):
        landed = tasks.land.partial(usecase=uc.name).expand(source=list(uc.sources))
        landed >> tasks.load.override(outlets=[assets.asset(uc, "raw")])(uc.name)
