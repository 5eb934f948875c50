"""
### Maintain

Every week: delete what the use case's retention says (old raw objects, staged leftovers, old table
versions), clean Airflow's own database, and write dbt's documentation of the models anew. It starts with
the live schedule; by hand at any time.
"""

from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, live_from, placed, use_cases

for uc in use_cases():
    options = dag_options(
        uc, "maintain", __doc__, schedule="@weekly", max_active_runs=1, start_date=live_from(uc)
    )
    with DAG(**options):
        tasks.sweep_lake(uc.name)
        tasks.describe_models(uc.name)
        tasks.clean_airflow_database.override(**placed("upkeep"))(keep_days=90)
