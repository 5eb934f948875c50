"""What the pages in Airflow's UI show, one module a page, read from the lake and the registry.

Nothing here writes to the lake or the registry, or takes a lock that the pipeline needs: a page is right
also while that runs or is down. Models, their cards and their runs are asked of MLflow. A view reads the rows
of what it shows and no more; of append-only logs and manifests it reads the lists, which grow with the years.
Airflow, which knows who asks, is ``orchestration.console_api``.
"""
