"""
### Rebuild

By hand, after an edit: run the chosen stages again for a range of days. Stages that were not chosen
are skipped; a partition whose content does not change gets no new version. With the stage
`monitoring`, the pages of the range are written again, too.

After a correction of raw data: with *Only what is stale*, of the range only what rests on older
versions is built again (`nightshift stale` lists it; `nightshift stale --rebuild` starts this DAG).
"""

from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import make_features, make_predictions
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
        raw >> months
        landed >> tasks.load(uc.name) >> features
        features >> make_features(uc, outlets=[]) >> predictions
        predictions >> make_predictions(uc, outlets=[]) >> monitoring
        checks = [tasks.check_drift(uc.name), tasks.judge(uc.name)]
        monitoring >> checks >> tasks.write_report(uc.name)
