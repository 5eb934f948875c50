"""
### Backtest

By hand: train every trainer at several cut-offs of the past and test it on the days that followed each, so
that a single lucky split decides nothing. The holdout stays sealed.

What came of it is recorded in the lake, logged to MLflow, and written as a page under `reports/`; the leak
alarm of later trainings measures by it. Run again for the same data, configuration and code, it trains
nothing. `nightshift backtest` does the same without Airflow.
"""

from airflow.sdk import DAG

from nightshift.orchestration import tasks
from nightshift.orchestration.defaults import dag_options, use_cases
from nightshift.orchestration.groups import evaluate_folds
from nightshift.orchestration.params import backtest_params

for uc in use_cases():
    options = dag_options(uc, "backtest", __doc__, schedule=None, max_active_runs=1, params=backtest_params())
    with DAG(**options):
        plan = tasks.plan_backtest(uc.name)
        tasks.conclude_backtest(uc.name, plan, evaluate_folds(uc, plan))
