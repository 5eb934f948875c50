"""
### Rollback

By hand: put an earlier champion in force again from a partition on. The deployment log keeps who,
when and why; partitions scored before stay as they are until they are rebuilt.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.params import rollback_params

for uc in use_cases():
    options = dag_options(uc, "rollback", __doc__, schedule=None, max_active_runs=1, params=rollback_params())
    with DAG(**options):
        tasks.roll_back.override(outlets=[assets.asset(uc, "model")])(uc.name)
