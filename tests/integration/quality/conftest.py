"""Ten real nights, landed, built, validated and published as every night is; each test gets a copy."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest
from tests.lakes import environment

from nightshift import stages
from nightshift.usecase import UseCase, load_usecase

FIRST, LAST = date(2013, 1, 1), date(2013, 1, 10)


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("nights")
    with environment(home):
        uc = load_usecase("flight_delays")
        for source in uc.sources:
            stages.land(uc, source, FIRST, LAST)
        stages.load(uc, FIRST, LAST)
        stages.publish_features(uc, stages.validate_features(uc, stages.build_features(uc, FIRST, LAST)))
    return home


@pytest.fixture
def real(nights: Path, home: Path, flight_delays: UseCase) -> UseCase:
    """The use case after these nights, with windows short enough for a snapshot of them."""
    shutil.copytree(nights, home, dirs_exist_ok=True)
    short = flight_delays.training.model_copy(update={"validation_days": 3, "holdout_days": 3})
    return flight_delays.model_copy(update={"training": short})
