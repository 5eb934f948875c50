"""Shows the error of a use case that cannot be read, and only that: the others' DAGs stay up."""

from airflow.sdk import DAG  # a file that names no DAG is not read at all

from nightshift.orchestration.defaults import check_use_cases

__all__ = ["DAG"]

check_use_cases()
