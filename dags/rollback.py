"""
### Rollback

By hand: put an earlier champion in force again, from the first partition that is not scored yet. Without a
version it is the one that the last promotion replaced; after a rollback the version has to be named. The
deployment log keeps who, when and why; partitions scored before stay as they are until they are rebuilt.
`nightshift rollback` does the same without Airflow.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.params import rollback_params

for uc in use_cases():
    options = dag_options(uc, "rollback", __doc__, schedule=None, max_active_runs=1, params=rollback_params())
    with DAG(**options):
        tasks.roll_back.override(outlets=[assets.asset(uc, "model")])(uc.name)
