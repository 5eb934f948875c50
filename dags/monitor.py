"""
### Monitor

When a predictions partition is updated: compare the day's features and scores with the champion's
training data, judge earlier predictions by the truth known by now, queue the predictions that people
are to label, and ask for a new model when the use case's policy says so. A night whose truth has not
arrived is reported, not failed.

Whatever came of that, it is priced, alerts are sent, and the night's page and the week's digest are written
under `reports/`.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, nightly_deadline, use_cases
from nightshift.orchestration.params import partition_param

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "monitor",
            __doc__,
            schedule=assets.after(assets.asset(uc, "predictions")),
            params=partition_param(),
            deadline=nightly_deadline(uc),
        )
    ):
        checks = [tasks.check_drift(uc.name), tasks.judge(uc.name)]
        request = tasks.request_retrain.override(outlets=[assets.asset(uc, "retrain_request")])(uc.name)
        accounted = tasks.account(uc.name)
        checks >> tasks.send_alerts(uc.name)
        checks >> accounted
        checks >> request
        # A teardown: it runs whatever came of the tasks before it, and the run is judged by them alone.
        [request, accounted, tasks.queue_labels(uc.name)] >> tasks.write_report(uc.name).as_teardown()
