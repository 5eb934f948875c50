"""The warehouse: raw objects loaded into tables, dbt run over them, relations read as Arrow.

It is a cache of the lake. Deleting its file, or dropping its database, loses nothing: the next build loads
again what it needs.
"""
