"""The only part of the library that knows Airflow: assets, defaults, parameters and thin task adapters."""
