"""
### Score

When a features partition is updated: score it with the champion in force on that day, check that
every entity is scored exactly once, and publish to the lake and to the table applications read.

A challenger that passed the gate and awaits approval scores the night too, in shadow: nothing waits for it.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, nightly_deadline, use_cases
from nightshift.orchestration.groups import make_predictions
from nightshift.orchestration.params import partition_param

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "score",
            __doc__,
            schedule=assets.after(assets.asset(uc, "features")),
            params=partition_param(),
            deadline=nightly_deadline(uc),
        )
    ):
        published = make_predictions(uc, outlets=[assets.asset(uc, "predictions")])
        published >> tasks.score_shadow(uc.name)
