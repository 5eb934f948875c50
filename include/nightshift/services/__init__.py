"""Every process that Nightshift runs on this machine: PostgreSQL, Airflow's four, MLflow's.

This room promises that ``up`` leaves all of them answering or none of them running, that ``down``
leaves none behind, and that every password is generated once and readable by its owner alone.
It talks to Airflow by its commands and its REST API only and never imports it.
"""
