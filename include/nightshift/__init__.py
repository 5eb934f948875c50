"""Nightshift: from raw data to monitored predictions, run every night by Airflow."""
