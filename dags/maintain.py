"""
### Maintain

Every week: delete what the use case's retention says (old raw objects, staged leftovers, old table
versions) and clean Airflow's own database.
"""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, use_cases

for uc in use_cases():
    with DAG(**dag_options(uc, "maintain", __doc__, schedule="@weekly", max_active_runs=1)):
        tasks.sweep_lake(uc.name)
        BashOperator(
            task_id="clean_airflow_database",
            bash_command="airflow db clean --yes --skip-archive --clean-before-timestamp "
            "{{ macros.datetime.now(macros.dateutil.tz.UTC) - macros.timedelta(days=90) }}",
        )
