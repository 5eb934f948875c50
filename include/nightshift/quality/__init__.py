"""Quality: suites are data, good rows go on, bad rows are kept with the reason, bad batches stop.

This room promises that every row handed to it comes out again, either accepted or quarantined with the
rule it broke, and that a day is judged the same alone or together with other days. The rules are Great
Expectations suites under ``expectations/``; nothing in here knows a use case.

Great Expectations takes seconds to import, so nothing here imports it before a suite is run.
"""
