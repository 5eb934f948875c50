"""
### Capture

Every hour: keep what sources that forget have said since the last time, so that a night finds the states
between two nights too, and a database need not hold its log for a day.

Only use cases with such sources have it. **By hand:** trigger it; what is kept already is not read again.
"""

from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, use_cases

for uc in use_cases():
    if uc.captured_sources:
        with DAG(**dag_options(uc, "capture", __doc__, schedule="@hourly", max_active_runs=1)):
            tasks.capture.partial(usecase=uc.name).expand(source=uc.captured_sources)
