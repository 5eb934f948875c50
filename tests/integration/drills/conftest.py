"""A made-up shop with a checkout of its own, so that the stages of a night run as they do in production."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest
from tests import synthetic

from nightshift.settings import settings
from nightshift.usecase import UseCase

LAST = date(2020, 2, 9)


@pytest.fixture
def shop(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """The use case, its suites, and forty days of features and labels; nothing is trained yet."""
    own = settings().project / "expectations" / "flight_delays"
    uc = synthetic.use_case()
    project = tmp_path / "project"
    synthetic.write_use_case(project, uc)
    synthetic.write_suites(project)
    suites = project / "expectations" / uc.name
    # The comparison with training names no column, so every use case takes it over as it is.
    shutil.copy(own / "features_profile.json", suites)
    rule = {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": "shop"},
        "meta": {"rule": "shop_not_null", "severity": "stop", "reason": "Every order was placed somewhere."},
    }
    features = {"name": "features", "expectations": [rule], "meta": {"quarantine_at_most": 0.0}}
    (suites / "features.json").write_text(json.dumps(features), encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
    settings.cache_clear()
    synthetic.publish(uc, synthetic.START, LAST)
    return uc
