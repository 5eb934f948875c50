"""
### Bootstrap

By hand, once: land a range of days month by month, build all features in one dbt run, validate and
publish them chunk by chunk, and train and promote the first champion, in force from the day after the
range. Months and chunks are shared by as many workers as there are.

It updates only the model asset: a key for each landed day would start that many runs down the chain.
What exists is in the manifests. To go live, bootstrap through yesterday, then set `NIGHTSHIFT_LIVE_FROM`.
"""

from airflow.sdk import DAG

from nightshift.orchestration import assets, tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import make_features_of_range, make_model
from nightshift.orchestration.params import range_params

for uc in use_cases():
    options = dag_options(uc, "bootstrap", __doc__, schedule=None, max_active_runs=1, params=range_params())
    with DAG(**options):
        months = tasks.plan_months(uc.name)
        landed = tasks.land_month.partial(usecase=uc.name).expand_kwargs(months)
        features = make_features_of_range(uc)
        model = make_model(uc, outlets=[assets.asset(uc, "model")])
        landed >> tasks.load(uc.name) >> features >> [model, tasks.describe_models(uc.name)]
