"""
### Replay quarantine

By hand, after a rule was mended or a row fixed: judge a night's quarantined rows again by today's rules,
land those that pass as a new version of their raw partition, and let the chain follow. Of a table that a
night lands a day late (`lag_days: 1`), rows of July 1 are replayed with the night of July 2.

Rows are fixed on the page *Data* of Nightshift, which fills in the form, or with `nightshift quarantine fix`.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.params import fixes_params, partition_param

for uc in use_cases():
    options = dag_options(
        uc,
        "replay_quarantine",
        __doc__,
        schedule=None,
        max_active_runs=1,
        params=partition_param() | fixes_params(),
    )
    with DAG(**options):
        replayed = tasks.replay_quarantine(uc.name)
        tasks.fix_rows(uc.name) >> replayed
        replayed >> tasks.load.override(outlets=[assets.asset(uc, "raw")])(uc.name)
