"""Every test runs with the lake in a folder and in an S3 bucket."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)
