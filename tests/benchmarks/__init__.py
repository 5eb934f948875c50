"""Benchmarks: two ways to the same result, timed side by side. Run them with ``make bench``."""
