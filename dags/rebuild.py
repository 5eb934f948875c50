"""
### Rebuild

By hand, after an edit: run the chosen stages again for a range of days. Stages that were not chosen
are skipped; a partition whose content does not change gets no new version. With the stage
`monitoring`, the pages of the range are written again, too.

Workers share the range in chunks of a week to a month (`docs/scale-out.md`). A chunk that fails takes
nothing from the others: clear it, and it and what follows run again, not the other chunks.

After a correction of raw data: with *Only what is stale*, of the range only what rests on older
versions is built again (`nightshift stale` lists it; `nightshift stale --rebuild` starts this DAG).
"""

from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import make_features_of_range, make_predictions_of_range, monitor_range
from nightshift.orchestration.params import only_stale_param, range_params, stages_param

for uc in use_cases():
    with DAG(
        **dag_options(
            uc,
            "rebuild",
            __doc__,
            schedule=None,
            max_active_runs=1,
            params=range_params() | stages_param() | only_stale_param(),
        )
    ):
        raw, features, predictions, monitoring = (
            tasks.wanted.override(task_id=f"wanted_{stage}")(stage)
            for stage in ("raw", "features", "predictions", "monitoring")
        )
        months = tasks.plan_months(uc.name)
        landed = tasks.land_month.partial(usecase=uc.name).expand_kwargs(months)
        tasks.begin_rebuild(uc.name) >> raw >> months
        landed >> tasks.load(uc.name) >> features
        features >> make_features_of_range(uc) >> predictions
        predictions >> make_predictions_of_range(uc) >> monitoring
        monitoring >> monitor_range(uc)
