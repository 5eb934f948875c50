"""Where data come from: connectors, chosen by dotted path, each yielding Arrow for (table, partition).

The room promises that what a connector yields has exactly the columns and types of the catalogue
(``sources.yml``) or stops with a ``DataError``, and that reading a partition *as of* a moment never
shows what became known later.
"""
