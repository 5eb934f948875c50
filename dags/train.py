"""
### Train

On a retrain request, or by hand: freeze what is known by the partition's day, train the candidates,
judge them and the champion on the same holdout, and promote the best one if it passes the gate and,
where the policy or this run's `approval` says so, a person approves it. It is in force from the next
partition on. A request older than the champion's data is skipped as superseded.

The request is closed with the outcome: promoted, refused by the gate, rejected by a person, superseded, or
failed. A run by hand that nothing asked for is a request itself.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.alerts import run_failed
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import make_model
from nightshift.orchestration.params import approval_param, partition_param, training_params

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "train",
            __doc__,
            schedule=assets.after(assets.asset(uc, "retrain_request")),
            max_active_runs=1,
            # The request first: telling people may take long, and be cut short.
            on_failure_callback=[tasks.training_failed, run_failed],
            params=partition_param() | approval_param() | training_params(),
        )
    ):
        tasks.begin_training(uc.name) >> make_model(uc, outlets=[assets.asset(uc, "model")])
