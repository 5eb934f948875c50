"""
### Search

By hand: look for better parameters of the trainers, within a budget of trials and minutes, on what is
known by the partition's day. Every trial is a run in MLflow; bad ones are called off early. Within its
minutes a search that was stopped goes on when it is cleared, or started again with the same form.

It configures nothing: each `conclude` task ends with lines for `usecase.yml` in its log and in MLflow, to
be committed if they convince. The gate judges what is then trained as it judges everything.
"""

from airflow.sdk import DAG

from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import search_parameters
from nightshift.orchestration.params import partition_param, search_params

for uc in use_cases():
    if rules := uc.training.search:
        with DAG(
            **dag_options(
                uc,
                "search",
                __doc__,
                schedule=None,
                max_active_runs=1,
                params=partition_param() | search_params(rules),
            )
        ):
            search_parameters(uc, rules)
