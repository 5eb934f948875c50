"""
### Replay quarantine

By hand, after a rule was mended: judge a day's quarantined rows again by today's rules, land
those that pass as a new version of their raw partition, and let the chain follow.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.params import partition_param

for uc in use_cases():
    options = dag_options(
        uc, "replay_quarantine", __doc__, schedule=None, max_active_runs=1, params=partition_param()
    )
    with DAG(**options):
        replayed = tasks.replay_quarantine(uc.name)
        replayed >> tasks.load.override(outlets=[assets.asset(uc, "raw")])(uc.name)
