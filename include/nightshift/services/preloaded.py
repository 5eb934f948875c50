"""Airflow's scheduler, with the libraries that tasks import already imported.

The local executor forks its workers from the scheduler and each task from a worker, so whatever is imported
here costs a task nothing: Great Expectations, dbt and Evidently alone take longer to import than a night's
rows take to process. Only libraries, never Nightshift or a use case: an edit of those counts from the next
task on. Only libraries that start no Python threads, which a fork would lose, when they are imported.
"""

from __future__ import annotations

import importlib
import logging
import runpy

LIBRARIES = (
    "pandas",
    "pyarrow.dataset",
    "psycopg",
    "matplotlib.figure",
    "sklearn.metrics",
    "xgboost",
    "mlflow",
    "great_expectations",
    "great_expectations.render.renderer.page_renderer",
    "dbt.cli.main",
    "dbt.adapters.duckdb",
    "evidently.metrics",
)


def preload() -> None:
    """Import ``LIBRARIES``; one that cannot be imported is left to the task that needs it, with a warning."""
    # It logs a line for each of its methods when it is imported.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception:
            logging.getLogger(__name__).warning("%s cannot be imported", name, exc_info=True)


if __name__ == "__main__":
    preload()
    runpy.run_module("airflow", run_name="__main__", alter_sys=True)
