"""
### Features

When a raw partition is updated: build the day's features and the labels known by now with dbt,
validate them, and publish each partition atomically to the lake.

The build waits (it is retried) until every raw partition of its look-back is there, so backfills may
run in any order.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets
from nightshift.orchestration.defaults import dag_options, nightly_deadline, use_cases
from nightshift.orchestration.groups import make_features
from nightshift.orchestration.params import partition_param

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "features",
            __doc__,
            schedule=assets.after(assets.asset(uc, "raw")),
            params=partition_param(),
            deadline=nightly_deadline(uc),
        )
    ):
        make_features(uc, outlets=[assets.asset(uc, "features")])
