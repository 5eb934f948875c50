"""The lake: the only code that knows where data lie.

Raw objects with manifests, staged and frozen objects, Delta tables and append-only logs, on a local
folder or in an S3 bucket (`NIGHTSHIFT_LAKE`). Every write is atomic, and writing equal content again
changes nothing; both hold when a writer is killed half way or races another.
"""
