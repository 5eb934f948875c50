"""Every test runs with the lake in a folder and in an S3 bucket."""

from __future__ import annotations

from tests.lakes import on_both_storages

storage = on_both_storages
