"""
### Watch

Every hour: find nights whose partition is there upstream and missing downstream (an event sent while
its consumer was paused is lost), and nights past their SLA; alert, and send the key again. The same for
requests for a new model that no training has taken up. Alerts that nobody could be told of are sent again
too.

Predictions that applications read in another content than the lake has (a run that failed between the two,
a partition that was rolled back or deleted) are copied again, and withdrawn where the lake has none.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.params import watch_params

for uc in use_cases():
    options = dag_options(uc, "watch", __doc__, schedule="@hourly", max_active_runs=1, params=watch_params())
    with DAG(**options):
        gaps = tasks.find_gaps(uc.name)
        for name in ("raw", "features", "retrain_request"):
            outlets = [assets.asset(uc, name)]
            tasks.send_again.override(task_id=f"send_{name}_again", outlets=outlets)(gaps, name)
        tasks.serve_again(uc.name)
        gaps >> tasks.send_alerts(uc.name)
